"""The protocols on membership as Markdown tables: a row is one attack on several victims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from portcullis_ml.bench.protocols.defended_tables import markdown
from portcullis_ml.core.types import Estimate
from portcullis_ml.measures.statistics import clopper_pearson, clustered, mean_over_seeds

__all__ = ["FIGURES", "figures", "mean", "rate", "sections"]

Plan = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]
FIGURES = ["TPR at 1%", "TPR at 0.1%", "balanced accuracy", "area under the curve"]


def sections(plan: Plan, trained: Records, records: Records) -> list[str]:
    """Every scene's tables, then what was published beside what was measured."""
    done = [r for r in records if r["outcome"] == "done"]
    found = [text for scene in plan["scene"] for text in _scene(plan, scene, trained, done)]
    return [*found, *_published(plan, done)]


def _scene(plan: Plan, name: str, trained: Records, done: Records) -> Iterator[str]:
    scene = plan["scene"][name]
    own = [r for r in done if r["cell"]["names"]["scene"] == name]
    yield f"## {scene['title']}"
    yield from trainings(scene, [r for r in trained if r["cell"]["names"]["scene"] == name])
    asked = [r for r in own if r["cell"]["extra"]["table"] == "interface"]
    if asked:
        yield (
            "### Every attack under every interface\n\nIn percent [95% interval]: the share of members that are named "
            "at a false positive rate of 1% and of 0.1%; averages last (mean over n victims, Student's t). "
            f"`label_only` is asked about {plan['few']['label_only']:,} of the candidates.\n\n" + _interfaces(asked)
        )
    if control := [r for r in own if r["cell"]["extra"]["table"] == "control"]:
        yield (
            "### Controls\n\n`blind` sees the candidates and never the model (pictures as 8 x 8 means). The others "
            "attack models that were trained without any candidate, as if they were the victims. Each should be at "
            "1, 0.1, 50 and 50.\n\n" + _controls(control)
        )
    if defended := [r for r in own if r["cell"]["extra"]["table"] == "defense"]:
        yield (
            "### What defenses leave\n\nIn percent. Accuracy is of the test rows as they are answered: mean over n "
            "victims. The attackers know the guard; their shadow models are trained as the victim was.\n\n"
            + _defenses(plan, name, defended)
        )


def trainings(scene: Plan, trained: Records) -> Iterator[str]:
    """How the groups of models were trained, and how good they are."""
    rows = []
    for r in (r for r in trained if r["outcome"] == "done"):
        settings, spent = r["cell"]["victim"]["settings"], r["notes"].get("spent")
        said = f"{settings['learner']['network']}, {settings['learner']['epochs']} epochs"
        said += f", {settings['hardening']}, spent {spent['epsilon']:.2f}" if spent else ""
        own = [mean_of(r["measures"][name]) for name in ("training_accuracy", "accuracy")]
        models = f"{r['notes']['models']} on {r['notes']['rows']:,} rows"
        rows.append([r["cell"]["names"]["defense"], said, models, *own, f"{r['seconds']:,.0f}"])
    yield markdown(["group", "trained", "models", "accuracy on its own rows", "test accuracy", "seconds for all"], rows)


def mean_of(e: Mapping[str, Any]) -> str:
    return f"{100 * e['value']:.1f} [{100 * e['low']:.1f}, {100 * e['high']:.1f}]"


def figures(own: Records) -> list[str]:
    """The four figures of one attack on several victims."""
    return [
        rate(own, "tpr_at_1_percent"), rate(own, "tpr_at_0.1_percent"),
        mean(own, "balanced_accuracy"), mean(own, "auc"),
    ]  # fmt: skip


def rate(own: Records, name: str, digits: int = 2) -> str:
    """A share of all victims' members with its exact interval, as far as victims agree."""
    known = [r["measures"][name] for r in own if name in r["measures"]]
    if not known:
        return ""
    sizes = np.array([e["n"] for e in known], float)
    found = np.array([e["value"] for e in known]) * sizes
    if not found.any():  # victims agree
        return _percent(clopper_pearson(0, sizes.sum()), digits)
    return _percent(clustered(found, sizes, unit="victims"), digits)


def mean(own: Records, name: str) -> str:
    known = [r["measures"][name]["value"] for r in own if name in r["measures"]]
    return _percent(mean_over_seeds(known, within=(0.0, 1.0)), 1) if known else ""


def _interfaces(asked: Records) -> str:
    rows = []
    for (shown, attack), own in _grouped(asked, "shown", "attack").items():
        queries = f"{np.mean([r['queries'] / r['notes']['candidates'] for r in own]):.1f}"
        rows.append([attack, shown, str(len(own)), queries, *figures(own)])
    return markdown(["attack", "interface", "n", "queries a candidate", *FIGURES], rows)


def _controls(control: Records) -> str:
    rows = [[attack, str(len(own)), *figures(own)] for (attack,), own in _grouped(control, "attack").items()]
    return markdown(["attack", "n", *FIGURES], rows)


def _defenses(plan: Plan, scene: str, defended: Records) -> str:
    words = plan["scene"][scene].get("against", plan["against"])
    rows, by = [], _grouped(defended, "defense", "training", "attack")
    for through, training in plan["scene"][scene]["defenses"]:
        honest = by.get((through, training, "honest"), [])
        if not honest:
            continue
        cells = [mean(honest, "utility"), f"{_mean(honest, 'l1'):.2f}", str(len(honest))]
        for word in words:
            own = by.get((through, training, word), [])
            cells += [rate(own, "tpr_at_0.1_percent"), mean(own, "auc")] if own else ["", ""]
        rows.append([training if through == "none" else through, *cells])
    heads = [f"{word}, {what}" for word in words for what in ("TPR at 0.1%", "area")]
    return markdown(["defense", "accuracy", "L1 change of an answer", "n", *heads], rows)


def _mean(own: Records, name: str) -> float:
    return float(np.mean([r["measures"][name]["value"] for r in own if name in r["measures"]] or [np.nan]))


def _published(plan: Plan, done: Records) -> Iterator[str]:
    scene = next(iter(plan["scene"]))
    known = [
        r for r in done if r["cell"]["names"]["scene"] == scene and r["cell"]["extra"]["table"] == "interface"
        and r["cell"]["interface"] == {"reveals": "probs"}
    ]  # fmt: skip
    rows = []
    for attack, (area, low) in plan["published"].items():
        if own := [r for r in known if r["attack"] == attack]:
            rows.append([attack, f"{area:.2f}", mean(own, "auc"), f"{low:.2f}", rate(own, "tpr_at_0.1_percent")])
    if rows and scene == "cifar10":
        head = ["attack", "area, published", "area, measured", "TPR at 0.1%, published", "TPR at 0.1%, measured"]
        yield (
            "## Published beside measured\n\nThe demonstration of the authors' release: 16 wide residual networks on "
            "CIFAR-10 at some 91% accuracy, the last one attacked.\n\n" + markdown(head, rows)
        )


def _grouped(records: Records, *names: str) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    """Records by what their cells are called, in their first order."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for r in records:
        found.setdefault(tuple(r["cell"]["names"][name] for name in names), []).append(r)
    return found


def _percent(e: Estimate, digits: int) -> str:
    return f"{100 * e.value:.{digits}f} [{100 * e.low:.{digits}f}, {100 * e.high:.{digits}f}]"
