"""Innocent models of an audit: models that owe a mark nothing, which its verdicts must not accuse.

Where the victim's training rows and their classes are known, they learn those rows with seeds of their own, as the
victim was trained: nobody who is honest is nearer to it. Else they learn the thief's pool, where that has classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.controls import own_labels
from portcullis_ml.bench.experiment import ExperimentSpec, victims_learner
from portcullis_ml.bench.marks import learner_of
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Labels, Model

__all__ = ["Innocents", "innocents_for"]


@dataclass(frozen=True)
class Innocents:
    """The models, and the rows that they learnt: "owner", "pool", or "" where there are none."""

    models: Sequence[Model] = ()
    rows: str = ""

    @property
    def learnt(self) -> list[bool]:
        return [self.rows == "owner"] * len(self.models)


def innocents_for(cell: Cell, spec: ExperimentSpec, known: Knowledge, n: int) -> Innocents:
    """n models for the marks of one cell; the same for every cell of a seed where they learn the owner's rows."""
    experiment = spec.load()
    if experiment.train is not None and experiment.train_y is not None:
        return Innocents(_on_owners_rows(spec, cell.seed, n), "owner")
    if known.pool is None or experiment.pool_labels is None or known.learner is None:
        return Innocents()
    return Innocents(_on_the_pool(cell, known, experiment.pool_labels, experiment.interface.n_classes, n), "pool")


@lru_cache(maxsize=2)
def _on_owners_rows(spec: ExperimentSpec, seed: int, n: int) -> tuple[Model, ...]:
    """Trained as the victim was, or where that is not known by a procedure that suits its rows."""
    experiment = spec.load()
    assert experiment.train is not None
    try:
        learner, _ = learner_of(experiment, spec)
    except NotApplicable:
        learner = victims_learner(experiment, spec.device)
    targets = np.eye(experiment.interface.n_classes)[experiment.train_y]
    rngs = [derive(seed, "innocent on the owner's rows", str(i)) for i in range(n)]
    return tuple(learner.fit(experiment.train, targets, rng=rng) for rng in rngs)


def _on_the_pool(cell: Cell, known: Knowledge, labels: Labels, n_classes: int, n: int) -> list[Model]:
    """Trained by the thief's learner on the pool's own labels."""
    return [own_labels(known, labels, n_classes, cell.rng("innocent", str(i))) for i in range(n)]
