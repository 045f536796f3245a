"""Copycat: Knockoff's theft from labels alone, which every prediction API gives.

Correia-Silva, Berriel, Badue, De Souza, Oliveira-Santos. "Copycat CNN: Stealing Knowledge by Persuading
Confession with Random Non-Labeled Data", IJCNN 2018, section III.

Threat model   answers: labels; probabilities are thrown away even where they are shown.  data: a pool of natural
               inputs from anywhere; with `finetune` a few rows of the domain as well.
Query cost     one per pool row, and one for each row of the domain. When the pool is used up, rows repeat.

Pictures from elsewhere get labels from the victim, and a fresh network learns them as if they were true. They
fall into a few classes and leave others nearly empty, so the copy may learn to ignore those: `balance` repeats the
rare ones and `cap` drops the surplus of the frequent ones, both at training time, where rows are free. The
difference to Knockoff shows what the probabilities are worth. With `finetune` the thief's own rows of the domain are
asked as well, up to half of the budget, and the copy goes on from what it learned elsewhere with those alone; a learner
that cannot go on from a copy is fitted to both at once, and the notes say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
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
    finetune: bool = (
        False  # ask about rows of the domain too, at most half of the budget, and train on those at the end
    )

    name: ClassVar[str] = "copycat"
    needs: ClassVar[Needs] = Needs(pool=True, learner=True, numeric=False)

    def __post_init__(self) -> None:
        check(self, "balance", "'none' or 'oversample'", lambda v: v in ("none", "oversample"))
        check(self, "cap", "an int, at least 1, or None", lambda v: v is None or (isinstance(v, int) and v >= 1))
        check(self, "batch", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "finetune", "True or False", lambda v: isinstance(v, bool))

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.pool is not None
        assert knowledge.learner is not None  # `needs` says so
        own = self._ask_own(harvest, knowledge, rng) if self.finetune else 0
        ask_pool(harvest, knowledge.pool, self.batch, rng)
        labels = harvest.answer.labels
        assert labels is not None  # a classifier's answer
        harvest.notes["classes_seen"] = len(np.unique(labels)) / interface.n_classes
        harvest.notes["repeated_rows"] = max(0, len(harvest) - own - len(knowledge.pool))
        x, targets, learner = harvest.x, np.eye(interface.n_classes)[labels], knowledge.learner
        domain, pool = self._rows(labels[:own], rng), own + self._rows(labels[own:], rng)
        if own:
            harvest.notes["domain_rows"] = own
        if own and len(pool) and hasattr(learner, "online"):  # it can go on from a copy
            copy = harvest.keep(learner.fit(x[pool], targets[pool], rng=rng))
            return learner.fit(x[domain], targets[domain], rng=rng, start=copy)
        if own:
            harvest.notes["finetuned"] = "no: rows of the domain and of the pool were learned at once"
        rows = np.concatenate([domain, pool])
        return learner.fit(x[rows], targets[rows], rng=rng)

    def _ask_own(self, harvest: Harvest, knowledge: Knowledge, rng: np.random.Generator) -> int:
        """Ask about rows of the domain, at most half of the budget; how many were answered."""
        if knowledge.seeds is None or len(knowledge.seeds) == 0:
            raise NotApplicable("copycat(finetune=True) needs seed inputs from the domain; this attacker has none.")
        rows = rng.permutation(len(knowledge.seeds))[: harvest.left // 2]
        return len(harvest.ask(knowledge.seeds[rows])) if len(rows) else 0

    def _rows(self, labels: Labels, rng: np.random.Generator) -> Labels:
        oversample = self.balance == "oversample"
        return training_rows(labels, cap=self.cap, oversample=oversample, rng=rng) if len(labels) else labels


def training_rows(labels: Labels, *, cap: int | None, oversample: bool, rng: np.random.Generator) -> Labels:
    """Indices of the rows to train on: at most `cap` of a class, then each class as often as the most frequent."""
    classes = [rng.permutation(np.flatnonzero(labels == c))[:cap] for c in np.unique(labels)]
    most = max(map(len, classes))
    if oversample:  # whole copies first, so that no row counts for more than one above another
        classes = [np.resize(rows, most) for rows in classes]
    return np.sort(np.concatenate(classes))
