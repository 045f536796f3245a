"""The court's records as tables and as survival curves: TPR, false claims, and the worst removal of every scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.bench.protocols.survival import survival_curves
from portcullis_ml.measures.statistics import clopper_pearson

__all__ = ["sections", "worst"]

Plan = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]
WHITE_BOX = "owner's last layer"  # rows that need the suspect's file are no removal that a thief can be said to survive


def sections(plan: Plan, done: Records, out: Path) -> list[str]:
    """The sections of the page; the curves are written to survival.svg in `out`."""
    schemes = {name: own for name in plan["scheme"] if (own := [r for r in done if r["attack"] == name])}
    (out / "survival.svg").write_text(survival_curves({name: _curve(own) for name, own in schemes.items()}))
    return [_matrix(plan, schemes), _removals(schemes), _false_claims(plan, schemes), _figure()]


def worst(own: Records, points: float) -> str | None:
    """The removal with the lowest TPR, then the fewest matches, of those that cost at most so many points on average;
    None where none does."""
    within = [name for name in _names(own) if _lost(own, name).mean() <= points]
    return min(within, key=lambda name: (_convicted(own, name), _values(own, name, "share").mean()), default=None)


def _names(own: Records) -> list[str]:
    """Removals that a thief can do, and that a verifier judges by the suspect's own answers."""
    return [name for name in own[0]["notes"]["removals"] if WHITE_BOX not in name and name != "none"]


def _values(own: Records, name: str, field: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([float(r["notes"]["removals"][name][field]) for r in own])


def _lost(own: Records, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Points of accuracy that a removal costs, a value for each repetition."""
    return 100 * (_values(own, "none", "accuracy") - _values(own, name, "accuracy"))


def _convicted(own: Records, name: str) -> int:
    return int(_values(own, name, "convicted").sum())


def _matrix(plan: Plan, schemes: Mapping[str, Records]) -> str:
    rows = []
    for scheme, own in schemes.items():
        cells = [_power(own, "none")]
        for points in plan["lost"]:
            name = worst(own, points)
            cells.append(f"{_power(own, name)} ({name}, {_lost(own, name).mean():.1f} lost)" if name else "")
        marked = [100 * (r["notes"]["accuracy_unmarked"] - r["notes"]["removals"]["none"]["accuracy"]) for r in own]
        cost = f"{np.mean(marked):.2f} ({min(marked):.2f} to {max(marked):.2f})"
        rows.append([scheme, *cells, _claims(own), cost])
    head = [
        "scheme, questions",
        "TPR of what was stolen",
        *(f"worst removal that costs at most {points} points" for points in plan["lost"]),
        "false claims",
        "points below the unmarked victim",
    ]
    return (
        "## Schemes and their worst removals\n\nConvicted at p < 0.001, of repetitions [exact 95% interval, percent]. "
        "False claims: innocent models convicted, of all that were judged.\n\n" + markdown(head, rows)
    )


def _power(own: Records, name: str) -> str:
    k, n = _convicted(own, name), len(own)
    e = clopper_pearson(k, n)
    return f"{k}/{n} [{100 * e.low:.0f}, {100 * e.high:.0f}]"


def _claims(own: Records, kind: str | None = None) -> str:
    found = [e["convicted"] for r in own for e in r["notes"]["equivalents"] if kind in (None, e["kind"])]
    e = clopper_pearson(sum(found), len(found))
    return f"{sum(found)}/{len(found)} [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _removals(schemes: Mapping[str, Records]) -> str:
    first = next(iter(schemes.values()))
    rows = [[name, *(_cell(own, name) for own in schemes.values())] for name in first[0]["notes"]["removals"]]
    return (
        "## Every removal\n\nConvicted of repetitions; the questions answered as marked, percent (least to greatest); "
        "points of accuracy lost beside what was stolen, on average. Rows with the owner's last layer need the "
        "suspect's file.\n\n" + markdown(["removal", *schemes], rows)
    )


def _cell(own: Records, name: str) -> str:
    share = 100 * _values(own, name, "share")
    shown = f"{share.mean():.0f} ({share.min():.0f} to {share.max():.0f})"
    return f"{_convicted(own, name)}/{len(own)}; {shown}; {_lost(own, name).mean():.1f}"


def _false_claims(plan: Plan, schemes: Mapping[str, Records]) -> str:
    rows = []
    for kind in plan["equivalent"]:
        for what, own in schemes.items():
            share = [100 * e["share"] for r in own for e in r["notes"]["equivalents"] if e["kind"] == kind]
            rows.append(
                [kind, what, _claims(own, kind), f"{np.mean(share):.0f} ({min(share):.0f} to {max(share):.0f})"]
            )
    return (
        "## False claims\n\nModels that do not descend from the victim, each judged with the null of "
        f"{plan['calibrating']} others, which learnt rows that the owner does not have (*null on own rows*: rows of "
        "the owner's): convicted, of all [exact 95% interval, percent], and the questions they answer as marked, "
        "percent (least to greatest).\n\n"
        + markdown(["innocent models", "scheme, questions", "convicted", "as marked"], rows)
    )


def _curve(own: Records) -> dict[str, Any]:
    """What a panel shows: (points lost, share) of pruning by level and of the rest, and the innocent share."""
    spots = {name: (_lost(own, name).mean(), _values(own, name, "share").mean()) for name in ["none", *_names(own)]}
    pruning = [spots[name] for name in spots if name == "none" or name.startswith("pruning")]
    others = {name: spot for name, spot in spots.items() if name != "none" and not name.startswith("pruning")}
    innocent = [e["share"] for r in own for e in r["notes"]["equivalents"]]
    return {"line": pruning, "spots": others, "innocent": float(np.mean(innocent))}


def _figure() -> str:
    return (
        "## Survival\n\n![Share of the questions answered as marked against points of accuracy lost](court.svg)\n\n"
        "The share of the questions that is answered as marked against the accuracy that a removal costs, means over "
        "repetitions. The line is pruning, from none to 90%; dots are the other removals; the dashed line is what "
        "innocent models answer. Costs above 20 points stand at the right edge. The command writes it as survival.svg."
    )
