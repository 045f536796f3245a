"""Protocol dawn as Markdown: what marks cost, survive and prove, published beside measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import clustered, mean_of

__all__ = ["sections", "smallest"]

Plan = Mapping[str, Any]
Record = Mapping[str, Any]
LEVEL = 2.0**-64  # the confidence that is published is one less this
MOST = 5_000  # marks; more are as good as none that suffices
NOT_MATCHED = (0.0, 0.1, 0.25, 0.4, 0.5)
CLASSES = (2, 10, 43, 100, 256)


def sections(plan: Plan, done: Sequence[Record]) -> list[str]:
    """Every table."""
    facts = [r for r in done if r["attack"] == "facts"]
    found = [_cost(plan, facts), _noise(plan, facts)] if facts else []
    thefts = [r for r in done if r["attack"] != "facts"]
    found += [_copies(plan, thefts)] if thefts else []
    found += [_removal(plan, scene, thefts) for scene in plan["scene"] if any(_removals(r) for r in _of(thefts, scene))]
    return [*found, _sizes()]


def smallest(classes: int, missed: float, level: float = LEVEL) -> int | None:
    """The least number of marks with which a suspect who misses this share of them is convicted, where an innocent one
    guesses among the classes. None where no number below 5,000 is enough."""
    from scipy.stats import binom

    n = np.arange(1, MOST + 1)
    matches = n - np.floor(missed * n + 1e-9)
    enough = np.flatnonzero(binom.sf(matches - 1, n, 1 / classes) <= level * (1 + 1e-9))
    return int(n[enough[0]]) if len(enough) and 1 - missed > 1 / classes else None


def _of(records: Sequence[Record], scene: str) -> list[Record]:
    return [r for r in records if r["cell"]["names"]["scene"] == scene]


def _cost(plan: Plan, facts: Sequence[Record]) -> str:
    rows = []
    for scene, title in plan["scene"].items():
        for rate in plan["utility"]:
            cells = [_over_victims(_of(facts, scene), f"{name}|{rate:g}") for name in ("wrong", "lost", "unexplained")]
            rows.append([title, f"{100 * rate:g}%", *cells])
    head = ["", "rate", "answers wrong on purpose", "accuracy lost", "difference"]
    return (
        f"## What marks cost\n\nIn percent of {plan['test_rows']:,} test questions: mean over the victims, "
        f"{plan['keys']} keys each, with the 95% interval over all keys. The difference is where a mark hits an answer "
        "that was wrong before, which costs nothing and may be right by chance. Published: 0.03 to 0.5.\n\n"
        + markdown(head, rows)
    )


def _over_victims(records: Sequence[Record], measure: str) -> str:
    """The mean over victims, with the interval that the keys of each allow."""
    own = [r["measures"][measure] for r in records]
    mean = float(np.mean([e["value"] for e in own]))
    half = float(np.sqrt(np.sum([((e["high"] - e["low"]) / 2) ** 2 for e in own])) / len(own))
    return f"{100 * mean:.3f} [{100 * (mean - half):.3f}, {100 * (mean + half):.3f}]"


def _noise(plan: Plan, facts: Sequence[Record]) -> str:
    rows = []
    for scene, title in plan["scene"].items():
        own = _of(facts, scene)
        codes, low, high = (
            [r["measures"][name]["value"] for r in own] for name in ("codes", "least_rate", "greatest_rate")
        )
        kappas = [_plain([r["measures"][f"kappa|{size:g}"]["value"] for r in own]) for size in plan["noises"]]
        rows.append([title, _plain(codes, 0), f"{100 * min(low):.1f} to {100 * max(high):.1f}", *kappas])
    head = ["", "distinct codes", "share marked, least to greatest of all keys, %"]
    head += [f"kappa under noise of {size:g}" for size in plan["noises"]]
    return (
        f"## What a question's code survives\n\nAt a rate of {100 * plan['utility'][-1]:g}%, {plan['test_rows']:,} "
        f"test questions and {plan['keys']} keys for each victim: mean (least to greatest) of n={plan['repetitions']} "
        "victims. Kappa is the agreement of marking a question and marking it with uniform noise, chance removed.\n\n"
        + markdown(head, rows)
    )


def _plain(values: Sequence[float], digits: int = 2) -> str:
    return f"{np.mean(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _copies(plan: Plan, thefts: Sequence[Record]) -> str:
    rows = []
    for scene, title in plan["scene"].items():
        for theft in plan["theft"]:
            for rate in theft["rates"]:
                own = [
                    r
                    for r in _of(thefts, scene)
                    if r["attack"] == theft["title"] and r["cell"]["extra"]["rate"] == rate
                ]
                if own:
                    rows.append([title, theft["title"], f"{100 * rate:g}%", *_copy(own)])
    head = [
        "",
        "theft",
        "rate",
        "marks",
        "the copy answers as marked",
        "a copy without marks",
        "an innocent model: most",
    ]
    head += ["accuracy", "lost by marks", "convicted", "bits: median"]
    return (
        "## Whose copies carry the marks\n\nIn percent [95% interval]; marks and bits: median (least to greatest). "
        "Bits are -log2 of the p-value: 64 is the confidence that is published. Lost by marks is the accuracy of a "
        "copy without them less that of the marked one, with the interval of the seeds.\n\n" + markdown(head, rows)
    )


def _copy(own: Sequence[Record]) -> list[str]:
    marks = [r["notes"]["marks"] for r in own]
    most = [max(r["notes"]["innocent"], default=np.nan) for r in own]
    right = [r["measures"]["copy|accuracy"]["value"] for r in own]
    without = [r["measures"]["copy without marks|accuracy"]["value"] for r in own]
    lost = mean_of(np.array(without) - np.array(right), unit="seeds")
    return [
        f"{np.median(marks):.0f} ({min(marks)} to {max(marks)})",
        _matched(own, "copy"),
        _matched(own, "copy without marks"),
        f"{100 * np.max(most):.0f}",
        f"{100 * np.mean(right):.1f}",
        _percent(lost, 1),
        *_convicted(own, "copy"),
    ]


def _matched(own: Sequence[Record], suspect: str) -> str:
    """The share of the marks that a suspect answers as marked, over all seeds."""
    said = [r["notes"]["suspects"][suspect] for r in own]
    return _percent(
        clustered(np.array([s["matches"] for s in said]), np.array([s["n"] for s in said]), unit="seeds"), 0
    )


def _convicted(own: Sequence[Record], suspect: str) -> list[str]:
    said = [r["notes"]["suspects"][suspect] for r in own]
    bits = [max(0.0, s.get("bits", 0.0)) for s in said]
    convicted = sum(s["verdict"] == "derived" for s in said)
    return [f"{convicted} of {len(said)}", f"{np.median(bits):.0f} ({min(bits):.0f} to {max(bits):.0f})"]


def _percent(e: Estimate, digits: int) -> str:
    return f"{100 * e.value:.{digits}f} [{100 * e.low:.{digits}f}, {100 * e.high:.{digits}f}]"


def _removals(record: Record) -> list[str]:
    """The suspects of a cell in which copies are changed."""
    return list(record["notes"]["suspects"]) if "removal" in record["cell"]["extra"] else []


def _removal(plan: Plan, scene: str, thefts: Sequence[Record]) -> str:
    own = [r for r in _of(thefts, scene) if _removals(r)]
    rows = []
    for suspect in _removals(own[0]):
        change = [r["measures"][f"{suspect}|accuracy"]["value"] - r["measures"]["copy|accuracy"]["value"] for r in own]
        e = mean_of(change, unit="seeds")
        right = np.mean([r["measures"][f"{suspect}|accuracy"]["value"] for r in own])
        name = "the marked copy" if suspect == "copy" else suspect
        rows.append([name, _matched(own, suspect), f"{100 * right:.1f}", _percent(e, 1), *_convicted(own, suspect)])
    head = ["suspect", "answered as marked, %", "accuracy, %", "beside the marked copy", "convicted", "bits: median"]
    rate = own[0]["cell"]["extra"]["rate"]
    return (
        f"## What removes the marks: {plan['scene'][scene]}\n\nOf copies from rows like the victim's own at a rate of "
        f"{100 * rate:g}%, n={len(own)}; accuracy with the interval of the seeds.\n\n"
        + markdown(head, rows)
        + _doubts(own)
    )


def _doubts(own: Sequence[Record]) -> str:
    """What the thief drops who believes a model of their own more than an answer."""
    marks, others = (_pooled(own, name) for name in ("doubted_marks", "doubted_others"))
    return (
        f"\n\nThe thief who drops what a model of the other answers doubts drops {_percent(marks, 1)}% of the marks "
        f"and {_percent(others, 1)}% of the other answers."
    )


def _pooled(own: Sequence[Record], measure: str) -> Estimate:
    found = [r["measures"][measure] for r in own]
    sizes = np.array([e["n"] for e in found], np.float64)
    return clustered(np.array([e["value"] for e in found]) * sizes, sizes, unit="seeds")


def _sizes() -> str:
    rows = [[str(m), *("none" if (n := smallest(m, e)) is None else f"{n:,}" for e in NOT_MATCHED)] for m in CLASSES]
    asked = smallest(10, 0.5)
    assert asked is not None
    return (
        "## How many marks the published confidence needs\n\nThe least number for 1 - 2^-64, where an innocent model "
        "guesses among the classes and the copy misses a share e of the marks. An innocent model that is likelier to "
        f"match than by guessing needs more. At a rate of 0.5%, ten classes and e = 0.5, that is "
        f"{asked / 0.005:,.0f} questions.\n\n" + markdown(["classes", *(f"e = {e:g}" for e in NOT_MATCHED)], rows)
    )
