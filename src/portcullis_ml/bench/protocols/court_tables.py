"""The court's records as tables and as survival curves: TPR, false claims, and the worst removal of every scheme.

Where no null is named, a suspect is convicted that is convicted under every null of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.bench.protocols.survival import survival_curves
from portcullis_ml.measures.statistics import clopper_pearson

__all__ = ["nulls", "sections", "worst"]

Plan = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]
COPIES = ("Knockoff, scores", "Knockoff, labels", "double extraction")
WHITE_BOX = "owner's last layer"  # rows that need the suspect's file are no removal that a thief can be said to survive


def sections(plan: Plan, done: Records, out: Path) -> list[str]:
    """The sections of the page; the curves are written to survival.svg in `out`."""
    schemes = {name: own for name in plan["scheme"] if (own := [r for r in done if r["attack"] == name])}
    (out / "survival.svg").write_text(survival_curves({name: _curve(own) for name, own in schemes.items()}))
    return [
        _matrix(plan, schemes), nulls(plan, schemes), _removals(plan, schemes), _false_claims(plan, schemes), _figure(),
    ]  # fmt: skip


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


def _convicted(own: Records, name: str, null: str | None = None) -> int:
    """In how many repetitions what this removal leaves is convicted: under every null, or under one alone."""
    return sum(_guilty(r["notes"]["removals"][name], null) for r in own)


def _guilty(judged: Mapping[str, Any], null: str | None) -> bool:
    return bool(judged["convicted"] if null is None else judged["convicted_under"][null])


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
        "## Schemes and their worst removals\n\nConvicted at p < 0.001 under every null, of repetitions [exact 95% "
        "interval, percent]. False claims: innocent models convicted, of all that were judged.\n\n"
        + markdown(head, rows)
    )


def nulls(plan: Plan, schemes: Mapping[str, Records]) -> str:
    """The section on what each null alone would say: the power that one costs, and whom the other accuses."""
    rows = []
    for scheme, own in schemes.items():
        for null in (None, *plan["null"]):
            every = [_guilty(r["notes"]["removals"][name], null) for r in own for name in _names(own)]
            powers = [_power(own, name, null) for name in ("none", *COPIES)]
            accused = [_claims(own, kind, null) for kind in (_learnt_all(plan), _learnt_all(plan, others=True))]
            rows.append([scheme, null or "both", _most(own, null), *powers, f"{sum(every)}/{len(every)}", *accused])
    head = ["scheme, questions", "null", "most that one of its models matches", "what was stolen", *COPIES]
    head += ["after a removal, all together", "accused: learnt all of the owner's rows", "accused: all others"]
    return (
        "## What each null says\n\nA suspect is convicted where both nulls convict it. Each alone, of models that "
        f"learnt {', of models that learnt '.join(plan['null'])}: convicted at p < 0.001, of repetitions or models "
        "[exact 95% interval, percent]; beside it the share of the questions that the model answers as marked that "
        "matches most, of those that calibrate, mean over repetitions. For `dataset_inference`, which compares rows "
        "and not shares, that share is no null.\n\n" + markdown(head, rows)
    )


def _most(own: Records, null: str | None) -> str:
    if null is None:
        return ""
    return f"{100 * np.mean([max(r['notes']['calibrating_shares'][null]) for r in own]):.0f}%"


def _learnt_all(plan: Plan, others: bool = False) -> list[str]:
    """The kinds of judged models that learnt all of the owner's rows, or the kinds of the others."""
    return [k for k, kind in plan["equivalent"].items() if (kind["own"] < plan["rows"]["own"]) == others]


def _power(own: Records, name: str, null: str | None = None) -> str:
    k, n = _convicted(own, name, null), len(own)
    e = clopper_pearson(k, n)
    return f"{k}/{n} [{100 * e.low:.0f}, {100 * e.high:.0f}]"


def _claims(own: Records, kinds: Sequence[str] | None = None, null: str | None = None) -> str:
    judged = [e for r in own for e in r["notes"]["equivalents"] if kinds is None or e["kind"] in kinds]
    k, n = sum(_guilty(e, null) for e in judged), len(judged)
    e = clopper_pearson(k, n)
    return f"{k}/{n} [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _removals(plan: Plan, schemes: Mapping[str, Records]) -> str:
    first = next(iter(schemes.values()))
    weaker = list(plan["null"])[-1]
    rows = [[name, *(_cell(own, name, weaker) for own in schemes.values())] for name in first[0]["notes"]["removals"]]
    return (
        "## Every removal\n\nConvicted under both nulls, of repetitions (in brackets, where another number is: under "
        f"that of models that learnt {weaker} alone); the questions answered as marked, percent (least to greatest); "
        "points of accuracy lost beside what was stolen, on average. Rows with the owner's last layer need the "
        "suspect's file.\n\n" + markdown(["removal", *schemes], rows)
    )


def _cell(own: Records, name: str, weaker: str) -> str:
    share = 100 * _values(own, name, "share")
    shown = f"{share.mean():.0f} ({share.min():.0f} to {share.max():.0f})"
    both, alone = _convicted(own, name), _convicted(own, name, weaker)
    beside = f" ({alone}/{len(own)})" if alone != both else ""
    return f"{both}/{len(own)}{beside}; {shown}; {_lost(own, name).mean():.1f}"


def _false_claims(plan: Plan, schemes: Mapping[str, Records]) -> str:
    rows = []
    for kind in plan["equivalent"]:
        for what, own in schemes.items():
            share = [100 * e["share"] for r in own for e in r["notes"]["equivalents"] if e["kind"] == kind]
            shown = f"{np.mean(share):.0f} ({min(share):.0f} to {max(share):.0f})"
            rows.append([kind, what, *(_claims(own, [kind], null) for null in (None, *plan["null"])), shown])
    models = [kind["models"] for kind in plan["null"].values()]
    return (
        "## False claims\n\nModels that do not descend from the victim, convicted of all [exact 95% interval, "
        f"percent], under both nulls and under each alone (of {' and '.join(map(str, models))} models); the questions "
        "that they answer as marked, percent (least to greatest).\n\n"
        + markdown(["innocent models", "scheme, questions", "under both", *plan["null"], "as marked"], rows)
    )


def _curve(own: Records) -> dict[str, Any]:
    """What a panel shows: (points lost, share) of pruning by level and of the rest, and the most that an innocent model
    answers as marked."""
    spots = {name: (_lost(own, name).mean(), _values(own, name, "share").mean()) for name in ["none", *_names(own)]}
    pruning = [spots[name] for name in spots if name == "none" or name.startswith("pruning")]
    others = {name: spot for name, spot in spots.items() if name != "none" and not name.startswith("pruning")}
    most = [max(max(shares) for shares in r["notes"]["calibrating_shares"].values()) for r in own]
    return {"line": pruning, "spots": others, "innocent": float(np.mean(most))}


def _figure() -> str:
    return (
        "## Survival\n\n![Share of the questions answered as marked against points of accuracy lost](court.svg)\n\n"
        "The share of the questions that is answered as marked against the accuracy that a removal costs, means over "
        "repetitions. The line is pruning, from none to 90%; dots are the other removals; the dashed line is what "
        "the innocent model answers as marked that matches most, of those that calibrate. Costs above 20 points "
        "stand at the right edge. The command writes it as survival.svg."
    )
