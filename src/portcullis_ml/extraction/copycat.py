"""Copycat: Knockoff's theft from labels alone, which every prediction API gives.

Correia-Silva, Berriel, Badue, De Souza, Oliveira-Santos. "Copycat CNN: Stealing Knowledge by Persuading
Confession with Random Non-Labeled Data", IJCNN 2018, section III.

Threat model   answers: labels; probabilities are thrown away even where they are shown.  data: a pool of natural
               inputs from anywhere.
Query cost     one per pool row. When the pool is used up, rows repeat.

Pictures from elsewhere get labels from the victim, and a fresh network learns them as if they were true. They
fall into a few classes and leave others nearly empty, so the copy may learn to ignore those: `balance` repeats the
rare ones and `cap` drops the surplus of the frequent ones, both at training time, where rows are free. The
difference to Knockoff shows what the probabilities are worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Interface, Labels, Model
from portcullis_ml.extraction.knockoff import ask_pool

__all__ = ["Copycat"]


@dataclass(frozen=True, kw_only=True)
class Copycat(ExtractionAttack):
    balance: Literal["none", "oversample"] = "none"  # oversample: repeat rows until every class seen is as frequent
    cap: int | None = None  # no more than this many training rows of a class, before balancing
    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "copycat"
    needs: ClassVar[Needs] = Needs(pool=True, learner=True)

    def __post_init__(self) -> None:
        check(self, "balance", "'none' or 'oversample'", lambda v: v in ("none", "oversample"))
        check(self, "cap", "an int, at least 1, or None", lambda v: v is None or (isinstance(v, int) and v >= 1))
        check(self, "batch", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.pool is not None
        assert knowledge.learner is not None  # `needs` says so
        ask_pool(harvest, knowledge.pool, self.batch, rng)
        labels = harvest.answer.labels
        assert labels is not None  # a classifier's answer
        harvest.notes["classes_seen"] = len(np.unique(labels)) / interface.n_classes
        rows = training_rows(labels, cap=self.cap, oversample=self.balance == "oversample", rng=rng)
        return knowledge.learner.fit(harvest.x[rows], np.eye(interface.n_classes)[labels[rows]], rng=rng)


def training_rows(labels: Labels, *, cap: int | None, oversample: bool, rng: np.random.Generator) -> Labels:
    """Indices of the rows to train on: at most `cap` of a class, then each class as often as the most frequent."""
    classes = [rng.permutation(np.flatnonzero(labels == c))[:cap] for c in np.unique(labels)]
    most = max(map(len, classes))
    if oversample:  # whole copies first, so that no row counts for more than one above another
        classes = [np.resize(rows, most) for rows in classes]
    return np.sort(np.concatenate(classes))
