"""Chain-membership as Markdown tables: what each defense leaves to who asks the API and to who steals a copy first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.bench.protocols.membership_tables import FIGURES, figures, mean, mean_of, rate, trainings
from portcullis_ml.measures.statistics import mean_over_seeds

__all__ = ["sections"]

Plan = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]
Ways = dict[tuple[str, str, str], list[Mapping[str, Any]]]  # defense, rows that the thief asked about, route


def sections(plan: Plan, trained: Records, stolen: Records, records: Records) -> list[str]:
    """Every scene's tables."""
    return [text for scene in plan["scene"] for text in _scene(plan, scene, trained, stolen, records)]


def _scene(plan: Plan, name: str, trained: Records, stolen: Records, records: Records) -> Iterator[str]:
    scene = plan["scene"][name]
    trained, stolen, done = (_done(some, name) for some in (trained, stolen, records))
    yield f"## {scene['title']}"
    yield from trainings(scene, trained)
    yield (
        "### The defenses\n\nIn percent: accuracy of the test rows as the API answers them, and of the copies of all "
        f"victims with the victim and with the truth; {scene['learner']['network']}, {scene['learner']['epochs']} "
        "epochs, is the thief's network.\n\n" + _copies(stolen, done)
    )
    yield (
        f"### The same bill of {scene['rows']['candidates']:,} queries\n\nThe strongest attack of each side, by its "
        "share of members named at a false positive rate of 1%, then what stealing first changes in the area under the "
        "curve of `lira` (points; mean over n victims in pairs, Student's t). The strongest is chosen by the figure "
        "that is shown.\n\n" + _summary(plan, done)
    )
    yield "### Every attack\n\nIn percent [95% interval].\n\n" + _attacks(done)
    yield (
        "### Controls\n\n`blind` sees the candidates and never a model (pictures as 8 x 8 means). The others attack "
        "copies of models that were trained without any candidate. Each should be at 1, 0.1, 50 and 50.\n\n"
        + _controls(done)
    )


def _done(records: Records, scene: str) -> Records:
    return [r for r in records if r["outcome"] == "done" and r["cell"]["names"]["scene"] == scene]


def _named(record: Mapping[str, Any]) -> str:
    """The defense: a guard, or how the victim was trained where there is none."""
    names = record["cell"]["names"]
    bare = names["defense"] == "none" and names["training"] != "plain"
    return str(names["training"] if bare else names["defense"])


def _ways(records: Records) -> Ways:
    found: Ways = {}
    for r in records:
        names = r["cell"]["names"]
        about = "" if names.get("route") == "API" else names["about"]
        found.setdefault((_named(r), about, names.get("route", "")), []).append(r)
    return found


def _copies(stolen: Records, done: Records) -> str:
    rows = []
    for r in stolen:
        honest = [h for h in done if h["attack"] == "honest" and _named(h) == _named(r)]
        changed = np.mean([h["measures"]["l1"]["value"] for h in honest]) if honest else np.nan
        own = [mean_of(r["measures"][name]) for name in ("agreement", "accuracy")]
        rows.append([
            _named(r), mean(honest, "utility"), f"{changed:.2f}", r["cell"]["names"]["about"], *own, str(len(honest)),
            f"{r['seconds']:,.0f}",
        ])  # fmt: skip
    head = ["defense", "accuracy of the API", "L1 change of an answer", "the thief asks about", "copy agrees"]
    return markdown([*head, "copy's accuracy", "n", "seconds for all copies"], rows)


def _summary(plan: Plan, done: Records) -> str:
    rows, ways = [], _ways([r for r in done if r["attack"] not in ("honest", "blind")])
    for (defense, about, route), own in ways.items():
        if route != "copy":
            continue
        asked = ways.get((defense, "", "API"), [])
        rows.append([defense, *_strongest(asked), about, *_strongest(own), _change(asked, own)])
    head = ["defense", "on the API", "TPR at 1%", "area", "the thief asks about", "on the copy", "TPR at 1%", "area"]
    return markdown([*head, "`lira`, area: copy - API"], rows)


def _strongest(own: Records) -> list[str]:
    by: dict[str, list[Mapping[str, Any]]] = {}
    for r in own:
        by.setdefault(r["attack"], []).append(r)
    if not by:
        return ["", "", ""]

    def named(word: str) -> float:
        return float(np.mean([r["measures"]["tpr_at_1_percent"]["value"] for r in by[word]]))

    best = max(by, key=named)
    return [best, rate(by[best], "tpr_at_1_percent"), mean(by[best], "auc")]


def _change(asked: Records, own: Records) -> str:
    there = {r["cell"]["seed"]: r["measures"]["auc"]["value"] for r in asked if r["attack"] == "lira"}
    here = {r["cell"]["seed"]: r["measures"]["auc"]["value"] for r in own if r["attack"] == "lira"}
    pairs = [here[v] - there[v] for v in here if v in there]
    if not pairs:
        return "no `lira` on the API"
    e = mean_over_seeds(pairs, within=(-1.0, 1.0))
    return f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


def _attacks(done: Records) -> str:
    rows = []
    asked = [r for r in done if r["attack"] not in ("honest", "blind")]
    for (defense, about, route), own in _ways(asked).items():
        if route == "copy of an innocent":
            continue
        by: dict[str, list[Mapping[str, Any]]] = {}
        for r in own:
            by.setdefault(r["attack"], []).append(r)
        where = route if not about else f"{route}, from {about}"
        for word, some in by.items():
            rows.append([defense, where, word, str(len(some)), *figures(some)])
    return markdown(["defense", "asked", "attack", "n", *FIGURES], rows)


def _controls(done: Records) -> str:
    by: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for r in done:
        if r["attack"] == "blind":
            by.setdefault(("", "blind"), []).append(r)
        elif r["cell"]["names"].get("route") == "copy of an innocent":
            by.setdefault((_named(r), r["attack"]), []).append(r)
    rows = [[*names, str(len(some)), *figures(some)] for names, some in by.items()]
    return markdown(["defense", "attack", "n", *FIGURES], rows)
