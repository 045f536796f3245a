"""SwiftThief where some classes hardly come back: what is its rare-class sampling worth, and to which classes?

Lee, Han, Lee. "SwiftThief: Enhancing Query Efficiency of Model Stealing by Contrastive Learning", IJCAI 2024.

Threat model   probabilities; a pool of natural pictures whose answers are of a few classes most of the time.
Query cost     the budget, in ten rounds. Copies on the way are made of the questions up to there, and cost no more.

Scenes, attacks and cells are as in active_thief.py; every setting stands in swift_thief.toml. Copies are judged by
class as well. The rare classes of a scene are the third that the victim gives least often over the whole pool: known to
us and not to the thief.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.protocols.active_thief import Scene, cells_of, scene_of, shortened, theft
from portcullis_ml.bench.protocols.defended_tables import page
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.bench.protocols.swift_thief_tables import sections
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.types import Array, Estimate, Labels
from portcullis_ml.measures.agreement import agreement
from portcullis_ml.measures.statistics import UNIT, mean_of

__all__ = ["by_class", "play", "rarest", "swift_thief"]

Plan = Mapping[str, Any]
PART = 1000  # rows of the pool that the victim is asked about at once


def swift_thief(run: Run) -> str:
    """Run swift-thief and return its tables; see `play`."""
    plan = plan_in("swift_thief.toml")
    return play(shortened(plan) if run.quick else plan, run)


def play(plan: Plan, run: Run) -> str:
    """The tables as Markdown; resumable: a finished cell is never run again."""
    records = run.cells(cells_of(plan), partial(work, folder=run.data, device=run.device))
    return page(plan, sections(plan, [r for r in records if r["outcome"] == "done"]), records, run.quick)


def work(cell: Cell, workspace: Workspace, *, folder: str | None, device: str) -> Record:
    """The attack, its copies judged over all rows, class by class, and over the rare classes."""
    settings = json.dumps(cell.data["settings"])
    scene, counts = scene_of(settings, folder, device), _pool_answers(settings, folder, device)
    rare = rarest(counts)
    record = theft(cell, workspace, scene, partial(by_class, rare=rare))
    served = scene.victim.scores(scene.test_x).argmax(axis=1)
    by_number = [round(float(v), 4) for v in _recalls(scene.test_y, served, len(counts))]
    facts = {"pool_answers": counts.tolist(), "rare": rare.tolist(), "victim_by_class": by_number}
    return replace(record, notes={**record.notes, **facts})


@lru_cache(maxsize=2)
def _pool_answers(settings: str, folder: str | None, device: str) -> Labels:
    """(c,) how many pictures of the whole pool the victim gives each class."""
    scene: Scene = scene_of(settings, folder, device)
    parts = range(0, len(scene.pool), PART)
    labels = np.concatenate([scene.victim.scores(scene.pool[i : i + PART]).argmax(axis=1) for i in parts])
    return np.bincount(labels, minlength=scene.interface.n_classes)


def rarest(counts: Labels) -> Labels:
    """The third of the classes, rounded, with the smallest counts (c,), in order of their numbers."""
    return np.sort(np.argsort(counts, kind="stable")[: max(1, round(len(counts) / 3))])


def by_class(true: Labels, served: Labels, said: Labels, *, rare: Labels) -> dict[str, Estimate]:
    """Accuracy and agreement over all rows, and accuracies of classes: their mean over all, over the rare, and over
    the others, with the spread of the classes, and each class's own under its number."""
    found = {"accuracy": agreement(true, said), "agreement": agreement(served, said)}
    for c in np.unique(true):
        found[str(c)] = agreement(true[true == c], said[true == c])
    recalls = _recalls(true, said, int(true.max()) + 1)
    there, is_rare = ~np.isnan(recalls), np.isin(np.arange(len(recalls)), rare)
    for name, those in (("macro", there), ("rare", there & is_rare), ("others", there & ~is_rare)):
        found[name] = mean_of(recalls[those], within=UNIT)
    return found


def _recalls(true: Labels, said: Labels, classes: int) -> Array:
    """(classes,) the share of each class's rows that are given it; NaN for one without rows."""
    rows = np.bincount(true, minlength=classes)
    hits = np.bincount(true[true == said], minlength=classes)
    return np.where(rows > 0, hits / np.maximum(rows, 1), np.nan)
