"""The tables of deep-defense: published figures beside measured ones, means over seeds with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import mean_over_seeds

__all__ = ["document"]

THIEVES = ("own labels", "labels", "answers", "answers and explanations")
DROPS = ("original", "misdirected", "original_positive", "misdirected_positive", "order_kept")


def document(plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]], *, quick: bool) -> str:
    """The whole page, with the command that makes it."""
    flag = " --quick" if quick else ""
    warning = "**A quick look: one seed, few rows and epochs. Its figures stand for nothing.**\n\n" if quick else ""
    done = [r for r in records if r["outcome"] == "done"]
    failed = [
        f"- {r['defense']}, seed {r['cell']['seed']}: {r['outcome']}, {r['reason']}" for r in records if r not in done
    ]
    victim = _over_seeds([r for r in done if "victim" in r["measures"]], "victim", seeds_once=True)
    intro = (
        f"Flowers-17 at {96 // plan['shrink']} pixels, {plan['victim']['network']}; victim's test accuracy {victim} "
        f"({plan['test_rows']} test pictures a seed); thieves ask {plan['pool_rows']} pictures that the victim was not "
        f"trained on. Chance is {100 / 17:.1f}%."
    )
    title = f"# {plan['protocol']} v{plan['version']}\n\n`portcullis bench run {plan['protocol']}{flag}`\n\n"
    return (
        title
        + warning
        + "\n\n".join([intro, _thieves(plan, done), _pairs(plan, done), _drops(plan, done), *failed])
        + "\n"
    )


def _thieves(plan: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> str:
    head = ["defense", "n", "published", *THIEVES, "L1 of answers", "label kept", "CPU s a question"]
    lines = ["Test accuracy of copies in percent: mean [95% interval over seeds].", "", _line(head), _rule(len(head))]
    for row in plan["row"]:
        own = [r for r in done if r["defense"] == row["name"]]
        if not own:
            continue
        published = " to ".join(f"{value:g}" for value in row["published"]) if "published" in row else ""
        cells = [_over_seeds(own, name) for name in (*THIEVES, "l1", "label_kept")]
        cost = sum(r["notes"]["cpu_seconds_a_question"] for r in own) / len(own)
        lines.append(_line([row["name"], str(len(own)), published, *cells, f"{cost:.3f}"]))
    return "\n".join(lines)


def _pairs(plan: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> str:
    """What explanations add for a thief, and what a defense takes, each within one seed."""
    both = ("answers", "answers and explanations")
    found = {
        (r["defense"], r["cell"]["seed"]): [100 * r["measures"][name]["value"] for name in both]
        for r in done
        if all(name in r["measures"] for name in both)
    }
    head = ["defense", "n", "explanations add", "taken from answers", "taken from answers and explanations"]
    lines = [
        "Points of test accuracy, within one seed: mean [95% interval over seeds].",
        "",
        _line(head),
        _rule(len(head)),
    ]
    first = plan["row"][0]["name"]
    for row in plan["row"]:
        own = {seed: pair for (name, seed), pair in found.items() if name == row["name"] and (first, seed) in found}
        if not own:
            continue
        cells = [_points([b - a for a, b in own.values()])]
        cells += [
            "" if row["name"] == first else _points([found[first, s][i] - own[s][i] for s in own]) for i in (0, 1)
        ]
        lines.append(_line([row["name"], str(len(own)), *cells]))
    return "\n".join(lines)


def _points(values: Sequence[float]) -> str:
    found = mean_over_seeds(values, within=(-100.0, 100.0))
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def _drops(plan: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> str:
    head = ["explanation", "n", "published", "drop, original", "drop, misdirected", "max(0, drop), original"]
    head += ["max(0, drop), misdirected", "rank correlation"]
    lines = ["Average drop, and how much of the order of places is kept: mean [95% interval over seeds].", ""]
    lines += [_line(head), _rule(len(head))]
    for row in plan["explained"]:
        own = [r for r in done if r["defense"] == row["name"]]
        if own:
            published = " / ".join(f"{value:.3f}" for value in row["published"])
            cells = [_over_seeds(own, name) for name in DROPS]
            lines.append(_line([row["name"], str(len(own)), published, *cells]))
    return "\n".join(lines)


def _over_seeds(records: Sequence[Mapping[str, Any]], name: str, seeds_once: bool = False) -> str:
    """The mean over records' seeds, as a percentage for shares; "" where nobody has this measure."""
    values = {
        (r["cell"]["seed"], 0 if seeds_once else i): r["measures"][name]["value"]
        for i, r in enumerate(records)
        if name in r["measures"]
    }
    if not values:
        return ""
    plain = name in ("l1", *DROPS)
    bounds = (0.0, 2.0) if name == "l1" else (-1.0, 1.0) if name == "order_kept" else (-10.0, 1.0)
    found = mean_over_seeds(list(values.values()), within=bounds if plain else (0.0, 1.0))
    return _plain(found) if plain else found.percent()


def _plain(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return _line(["---"] * columns)
