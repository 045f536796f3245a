"""The tables of the protocol `remember`: what is read from models, and which models the screen accuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.measures.screening import TESTS, Portrait, screen, suspicious
from portcullis_ml.measures.statistics import clopper_pearson, mean_over_seeds

__all__ = ["sections"]

Plan = Mapping[str, Any]
Record = Mapping[str, Any]
KNOWN, GUESSED = "reference, recipe known", "reference, recipe guessed"


def sections(plan: Plan, name: str, records: Sequence[Record]) -> Iterator[str]:
    """What was measured on one data set."""
    own = [r for r in records if r["cell"]["data"]["name"] == name and r["outcome"] == "done"]
    kinds: dict[str, list[Record]] = {}
    for r in own:
        kinds.setdefault(r["attack"], []).append(r)
    yield f"## {plan['data'][name]['title']}"
    if not {KNOWN, GUESSED, "honest"} <= kinds.keys():
        return
    yield (
        "What is read again: mean [95% interval] over models. Bits told a weight count what wrong bits leave; gray "
        "levels are of 255. An encoding is read as it is, after half precision, and after "
        f"{plan['tuning']} more epochs on the honest rows."
    )
    yield _read(plan, kinds)
    yield (
        f"Models that the screen accuses, of n, exact 95% interval in percent, where honest ones should be at "
        f"{100 * plan['rate']:g}%; it holds {plan['references']} honest models by the provider's recipe, or by "
        f"{len(plan['recipes'])} recipes. Then the tests that speak, recipe known."
    )
    yield _screened(plan, kinds)


def _read(plan: Plan, kinds: Mapping[str, Sequence[Record]]) -> str:
    rows = [["honest", *[""] * 4, _mean(kinds["honest"], "accuracy", 100, 1), "", "", str(len(kinds["honest"]))]]
    for kind, own in kinds.items():
        if "hidden" in own[0]["measures"]:
            cells = [
                f"{own[0]['measures']['hidden']['value']:.3g}",
                _mean(own, "told", 1, 3),
                _mean(own, "wrong", 100, 2),
                _mean(own, "off", 1, 1),
                _mean(own, "accuracy", 100, 1),
                _mean(own, "wrong_halved", 100, 2),
                _mean(own, "wrong_tuned", 100, 2),
            ]
            rows.append([kind, *cells, str(len(own))])
    head = ["encoding", "bits a weight", "bits told a weight", "wrong bits, %", "gray levels off", "accuracy, %"]
    return markdown([*head, "wrong after half precision, %", "wrong after more training, %", "n"], rows)


def _mean(own: Sequence[Record], measure: str, factor: float, digits: int) -> str:
    e = mean_over_seeds([factor * r["measures"][measure]["value"] for r in own])
    return f"{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]"


def _screened(plan: Plan, kinds: Mapping[str, Sequence[Record]]) -> str:
    held = {ref: [_portrait(r) for r in kinds[ref]] for ref in (KNOWN, GUESSED)}
    rows = []
    for kind, own in kinds.items():
        if kind in held:
            continue
        accused = {
            ref: [suspicious(screen(_portrait(r), honest), plan["rate"]) for r in own] for ref, honest in held.items()
        }
        shares = [_share(sum(map(bool, found)), len(own)) for found in accused.values()]
        speak = [str(sum(any(f.test == test for f in found) for found in accused[KNOWN])) for test in TESTS]
        rows.append([kind, str(len(own)), *shares, *speak])
    return markdown(["model", "n", "accused, recipe known", "accused, recipe guessed", *TESTS], rows)


def _portrait(record: Record) -> Portrait:
    return Portrait.of_json(record["notes"]["portrait"])


def _share(accused: int, n: int) -> str:
    e = clopper_pearson(accused, n, unit="models")
    return f"{accused} [{100 * e.low:.0f}, {100 * e.high:.0f}]"
