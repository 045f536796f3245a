"""The protocol swift-thief as Markdown: curves over all classes and over the rare ones, and who asked for what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from portcullis_ml.bench.protocols.active_thief_tables import about_scene, curves, pairs, percent
from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.measures.statistics import UNIT, mean_over_seeds

__all__ = ["sections"]

Plan = Mapping[str, Any]
Record = Mapping[str, Any]
SHOWN = 10  # classes in the table by class, the rarest first
MEASURES = {
    "accuracy": "Accuracy of the copy by queries:",
    "macro": "Mean over all classes of the accuracy on a class's rows:",
    "rare": "The same over the rare classes alone:",
    "others": "The same over the other classes:",
}


def sections(plan: Plan, done: Sequence[Record]) -> list[str]:
    """A section for every scene."""
    found = []
    for scene, settings in plan["scene"].items():
        own = [r for r in done if r["cell"]["names"]["scene"] == scene]
        if own:
            found += _scene(plan, settings, own)
    return found


def _scene(plan: Plan, settings: Mapping[str, Any], own: Sequence[Record]) -> list[str]:
    by_attack = {a: records for a in plan["attacks"] if (records := [r for r in own if r["attack"] == a])}
    notes = own[0]["notes"]
    counts, rare = notes["pool_answers"], notes["rare"]
    share = 100 * sum(counts[c] for c in rare) / sum(counts)
    names = f"{len(rare)} of the {len(counts)} classes"
    return [
        about_scene(plan, settings, own),
        f"The victim's answers over the whole pool are of one class in {100 * max(counts) / sum(counts):.1f}% and of "
        f"the rare classes, {names}, in {share:.1f}%.",
        *(f"{title}\n\n{curves(plan, own, measure)}" for measure, title in MEASURES.items()),
        "Pairs within seeds, points by which the first is ahead in the mean over the rare classes:\n\n"
        + pairs(plan, own, "rare"),
        "And in accuracy over all rows:\n\n" + pairs(plan, own),
        f"After {settings['budget']:,} queries: what was asked, and what it cost. The fewest answers of one class, of "
        "all classes; processor seconds of a cell, least to most:\n\n" + _asked(by_attack),
        f"Class by class after {settings['budget']:,} queries, "
        f"{'all classes' if len(counts) <= SHOWN else f'the {SHOWN} rarest'}, the rarest first: percent right, means "
        "over seeds; and in brackets how many answers were of that class:\n\n" + _by_class(by_attack, notes),
    ]


def _asked(by_attack: Mapping[str, Sequence[Record]]) -> str:
    rows = []
    for attack, records in by_attack.items():
        rounds = [r["notes"].get("sampling") for r in records]
        seconds = [r["notes"]["cpu_seconds"] for r in records]
        rows.append([
            attack,
            ", ".join(f"{told.count('rare')} of {len(told)}" for told in rounds if told is not None),
            _over(records, lambda r: sum(r["notes"]["answers"][c] for c in r["notes"]["rare"]) / r["queries"]),
            ", ".join(str(min(r["notes"]["answers"])) for r in records),
            _over(records, lambda r: r["measures"]["agreement"]["value"]),
            f"{min(seconds):.0f} to {max(seconds):.0f}",
        ])  # fmt: skip
    head = ["attack", "rounds that asked for rare classes, by seed", "share of answers of rare classes",
            "fewest answers of a class, by seed", "agreement with the victim", "seconds"]  # fmt: skip
    return markdown(head, rows)


def _over(records: Sequence[Record], value: Callable[[Record], float]) -> str:
    return percent(mean_over_seeds([value(r) for r in records], within=UNIT))


def _by_class(by_attack: Mapping[str, Sequence[Record]], notes: Mapping[str, Any]) -> str:
    counts, total = notes["pool_answers"], sum(notes["pool_answers"])
    rows = []
    for c in sorted(range(len(counts)), key=lambda c: (counts[c], c))[:SHOWN]:
        cells = [f"{c}", f"{100 * counts[c] / total:.2f}", f"{100 * notes['victim_by_class'][c]:.1f}"]
        for records in by_attack.values():
            right = [r["measures"][str(c)]["value"] for r in records if str(c) in r["measures"]]
            asked = [r["notes"]["answers"][c] for r in records]
            shown = f"{100 * sum(right) / len(right):.1f}" if right else ""
            cells.append(f"{shown} ({sum(asked) / len(asked):.0f})")
        rows.append(cells)
    return markdown(["class", "% of the pool's answers", "victim", *by_attack], rows)
