"""The protocol active-thief as Markdown: curves, what random order's accuracy costs each attack, and the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import UNIT, mean_over_seeds

__all__ = ["about_scene", "curves", "pairs", "percent", "reach", "sections"]

Plan = Mapping[str, Any]
Record = Mapping[str, Any]
WIDE = (-1.0, 1.0)


def sections(plan: Plan, done: Sequence[Record]) -> list[str]:
    """A section for every scene, and what was published."""
    found = []
    for scene, settings in plan["scene"].items():
        own = [r for r in done if r["cell"]["names"]["scene"] == scene]
        if own:
            found += _scene(plan, settings, own)
    return [*found, _published(plan, done)] if found else []


def _scene(plan: Plan, settings: Mapping[str, Any], own: Sequence[Record]) -> list[str]:
    budget = settings["budget"]
    main = [r for r in own if r["cell"]["budget"] == budget]
    return [
        about_scene(plan, settings, own),
        "Accuracy of the copy by queries:\n\n" + curves(plan, main),
        f"What each attack pays for the accuracy that random order has after {budget:,} queries, on straight lines "
        "between the points of a curve, seed by seed; and how far it is ahead of random order on the same seed:\n\n"
        + _paired(plan, main, budget),
        *_by_agreement(plan, settings, main),
        "Other pairs within seeds, points of accuracy by which the first is ahead:\n\n" + pairs(plan, main),
        f"All attacks after {budget:,} queries{', random order also with the whole pool' * bool(settings['whole'])}; "
        "processor seconds of a cell, least to most:\n\n" + _final(plan, own),
    ]


def _by_agreement(plan: Plan, settings: Mapping[str, Any], main: Sequence[Record]) -> list[str]:
    """The same of the agreement with the victim, where a scene asks for it."""
    if not settings.get("by_agreement"):
        return []
    return [
        "The same by how often the copy agrees with the victim:\n\n" + curves(plan, main, "agreement"),
        _paired(plan, main, settings["budget"], "agreement"),
    ]


def about_scene(plan: Plan, settings: Mapping[str, Any], own: Sequence[Record]) -> str:
    """The heading of a scene, and who holds what in it."""
    victim = own[0]["measures"]["victim_accuracy"]
    return (
        f"## {settings['title']}\n\nVictim: `{settings['victim']}`, {settings['victim_rows']:,} rows, accuracy "
        f"{100 * victim['value']:.1f}% (n={victim['n']:,} test rows, which judge the copies too). Pool: "
        f"{settings['pool_rows']:,} rows of {settings['pool']}. Copies: `{settings['learner']}`. Mean [95% interval of "
        f"Student's t] over n={plan['repetitions']} seeds, in percent."
    )


def curves(plan: Plan, main: Sequence[Record], measure: str = "accuracy") -> str:
    """A row for every attack: this measure of its copies by queries."""
    rows, head = [], ["attack"]
    for attack in plan["attacks"]:
        records = [r for r in main if r["attack"] == attack]
        if not records:
            continue
        points = [point["queries"] for point in records[0]["curve"]]
        head = ["attack", *(f"{n:,}" for n in points)]
        values = [[r["curve"][i]["measures"][measure]["value"] for r in records] for i in range(len(points))]
        rows.append([attack, *(percent(mean_over_seeds(v, within=UNIT)) for v in values)])
    return markdown(head, rows)


def _paired(plan: Plan, main: Sequence[Record], budget: int, measure: str = "accuracy") -> str:
    rows = []
    random = {r["cell"]["seed"]: _curve(r, measure) for r in main if r["attack"] == plan["random"]}
    for attack in plan["attacks"]:
        own = {r["cell"]["seed"]: _curve(r, measure) for r in main if r["attack"] == attack}
        seeds = sorted(own.keys() & random.keys())
        if not seeds:
            continue
        paid = [reach(own[s], random[s][-1][1]) for s in seeds]
        found = [n for n in paid if n is not None]
        share = percent(mean_over_seeds([n / budget for n in found], within=(0.0, math.inf))) if found else ""
        rows.append([
            attack, ", ".join("never" if n is None else f"{n:,.0f}" for n in paid),
            f"{share}{f' in {len(found)} of {len(paid)}' * (len(found) < len(paid))}",
            *(_ahead(own, random, seeds, i) for i in range(len(random[seeds[0]]))),
        ])  # fmt: skip
    points = [n for n, _ in next(iter(random.values()))] if random else []
    head = ["attack", "queries, by seed", "share of the budget", *(f"points ahead at {n:,}" for n in points)]
    return markdown(head, rows)


def pairs(plan: Plan, main: Sequence[Record], measure: str = "accuracy") -> str:
    """Pairs of attacks at every point that both have a copy at, within seeds."""
    known = {(r["attack"], r["cell"]["seed"]): dict(_curve(r, measure)) for r in main}
    points = sorted({n for curve in known.values() for n in curve})
    rows = []
    for one, other in plan["pairs"]:
        found = [(known[one, s], known[other, s]) for a, s in known if a == one and (other, s) in known]
        if found:
            gaps = [[a[n] - b[n] for a, b in found if n in a and n in b] for n in points]
            shown = [percent(mean_over_seeds(gap, within=WIDE)) if gap else "" for gap in gaps]
            rows.append([f"{one} - {other}", *shown])
    return markdown(["pair", *(f"{n:,}" for n in points)], rows)


def _ahead(own: Mapping[int, Any], random: Mapping[int, Any], seeds: Sequence[int], i: int) -> str:
    return percent(mean_over_seeds([own[s][i][1] - random[s][i][1] for s in seeds], within=WIDE))


def _curve(record: Record, measure: str) -> list[tuple[int, float]]:
    return [(point["queries"], point["measures"][measure]["value"]) for point in record["curve"]]


def reach(curve: Sequence[tuple[int, float]], goal: float) -> float | None:
    """Queries at which a curve first has this value, on straight lines between its points; None if it never has.

    A curve whose first point is there already gives that point: it may have been there before.
    """
    last: tuple[int, float] | None = None
    for n, value in curve:
        if value >= goal:
            return float(n) if last is None else last[0] + (goal - last[1]) / (value - last[1]) * (n - last[0])
        last = (n, value)
    return None


def _final(plan: Plan, own: Sequence[Record]) -> str:
    rows = []
    for attack, budget in dict.fromkeys((r["attack"], r["cell"]["budget"]) for r in own):
        records = [r for r in own if (r["attack"], r["cell"]["budget"]) == (attack, budget)]
        seconds = [r["notes"]["cpu_seconds"] for r in records]
        rows.append([
            attack, f"{records[0]['queries']:,}", *(_mean(records, name) for name in ("accuracy", "agreement")),
            f"{min(seconds):.0f} to {max(seconds):.0f}",
        ])  # fmt: skip
    return markdown(["attack", "queries", "accuracy", "agreement with the victim", "seconds"], rows)


def _mean(records: Sequence[Record], name: str) -> str:
    return percent(mean_over_seeds([r["measures"][name]["value"] for r in records], within=UNIT))


def _published(plan: Plan, done: Sequence[Record]) -> str:
    rows = []
    for scene in plan["published_in"]:
        budget, whole = (plan["scene"][scene][name] for name in ("budget", "whole"))
        own = [r for r in done if r["cell"]["names"]["scene"] == scene]
        held = dict.fromkeys((r["attack"], r["cell"]["budget"]) for r in own if r["cell"]["budget"] in (budget, whole))
        for name in plan["published"]:
            for attack, asked in (pair for pair in held if pair[0].startswith(name)):
                records = [r for r in own if (r["attack"], r["cell"]["budget"]) == (attack, asked)]
                published = f"{100 * plan['published'][name]:.1f} (10,000)"
                rows.append([attack, published, f"{_mean(records, 'accuracy')} ({asked:,})"])
    about = plan["published"]["about"].strip()
    head = ["attack", "published (queries)", "measured (queries)"]
    return f"## Beside what was published\n\n{about}\n\n" + markdown(head, rows)


def percent(e: Estimate) -> str:
    """A share in percent with its interval."""
    return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
