"""Controls: baselines that the attacks of an audit are compared with.

no_api           asks nothing: always answers the class that the victim gives most often on the test rows, or the mean
                 of its numbers. No thief knows that for sure, so this is the best that a constant can do
own_labels       asks nothing: trains on the pool with the pool's own labels, where there are any
random_queries   pays like the others, for uniform noise from the input space (of texts: random strings of the pool's
                 words), and trains the same learner. With rows of a table it stands behind every defense, since there
                 it is an attack like any other
plain_stranger   pays like the others, for the pool's rows and then for uniform noise, and fits a stock model to the
                 answers: see `stranger.py`. It stands behind every defense, as a check of the attacks
shuffled         pays for the transfer set of a real attack, and trains on it with the answers permuted among
                 the rows: what is left is what the learner gets from the class shares alone
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.bench.stranger import PlainStranger
from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.models.constant import ConstantModel

__all__ = ["MEANING", "PlainStranger", "RandomQueries", "Shuffled", "mean_answer", "most_frequent", "own_labels"]

MEANING = {
    "no_api": "asks nothing and always answers the victim's most frequent class",
    "own_labels": "asks nothing and trains on the pool with the pool's own labels",
    "random_queries": "pays for uniform noise and trains the same learner on the answers",
    "plain_stranger": "pays for the pool's rows and for uniform noise, and fits a stock model to the answers",
    "shuffled": "trains on a real attack's transfer set with the answers permuted",
}


def most_frequent(labels: Labels, interface: Interface) -> ConstantModel:
    """A model that always answers the class that is commonest among the labels."""
    counts = np.bincount(labels, minlength=interface.n_classes)
    return ConstantModel(interface.input_shape, np.eye(interface.n_classes)[counts.argmax()])


def mean_answer(values: Array, interface: Interface) -> ConstantModel:
    """A model that always answers the mean of these values (n, 1): the best that a constant can do at numbers."""
    return ConstantModel(interface.input_shape, (values / len(values)).sum(axis=0))


def own_labels(knowledge: Knowledge, labels: Labels | Array | None, n_classes: int, rng: np.random.Generator) -> Model:
    """What the thief's own labelled data are worth without any API. No classes are numbers (n,)."""
    if knowledge.pool is None or labels is None:
        kind = "labels of the victim's classes" if n_classes else "true targets"
        raise NotApplicable(f"own_labels needs a pool with {kind}; this attacker has none.")
    if knowledge.learner is None:
        raise NotApplicable("own_labels needs a surrogate learner; this attacker has none.")
    targets = np.eye(n_classes)[labels.astype(np.int64)] if n_classes else labels[:, None].astype(np.float64)
    return knowledge.learner.fit(knowledge.pool, targets, rng=rng)


@dataclass(frozen=True, kw_only=True)
class RandomQueries(ExtractionAttack):
    """Ask about uniform points, train once."""

    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "portcullis_ml.bench.controls:RandomQueries"
    needs: ClassVar[Needs] = Needs(task="any", learner=True, numeric=False)

    def __post_init__(self) -> None:
        check(self, "batch", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.learner is not None  # `needs` says so
        while harvest.open:
            harvest.ask(interface.uniform(min(self.batch, harvest.left), rng))
        return knowledge.learner.fit(harvest.x, harvest.targets(), rng=rng)


@dataclass(frozen=True, kw_only=True)
class Shuffled(ExtractionAttack):
    """Let another attack collect its transfer set, then train on it with the answers permuted."""

    of: Any  # the attack whose transfer set it is

    name: ClassVar[str] = "portcullis_ml.bench.controls:Shuffled"
    needs: ClassVar[Needs] = Needs(task="any", learner=True, numeric=False)

    def __post_init__(self) -> None:
        check(self, "of", "an extraction attack", lambda v: isinstance(v, ExtractionAttack))

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.learner is not None  # `needs` says so
        if reason := self.of.needs.lacking(interface, knowledge, self.of.name):
            raise NotApplicable(reason)
        self.of.steal(harvest, interface, knowledge, rng)
        harvest.history.clear()  # copies noted on the way were trained on the true answers
        targets = harvest.targets()
        return knowledge.learner.fit(harvest.x, targets[rng.permutation(len(targets))], rng=rng)
