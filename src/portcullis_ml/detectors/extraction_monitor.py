"""Extraction monitor: how much of the model a client could have learned from what they were answered.

Kesarwani, Mukhoty, Arya, Mehta. "Model Extraction Warning in MLaaS Paradigm", ACSAC 2018, the section on the strategy
by information gain (that by coverage of the input space is the detector `coverage`).

Costs the honest client   an alarm if they ask about much of the input space; now and then a tree is fitted to what they
                          asked, which delays that answer by tenths of a second where rows hold hundreds of numbers.
Defaults hold for         nothing that was measured: 80 is no rate of false alarms. Calibrate on clients of your own.
Does not see              whoever copies what axis-parallel splits do not show, as of networks on images; small steps
                          around few seeds, which cover less than honest questions do; a thief with many accounts,
                          unless their states are put together.

A decision tree is fitted to the client's latest `cap` questions and the model's labels, and is held against an
evaluation set of the owner's (recipe `evaluation_set`), never against the client's own questions. The suspicion is a
status from 0 to 100:
    agreement   how often the tree says what the model says, above what always saying the most frequent class gets
    gain        the information gain of the tree's leaves as a share of the entropy of the labels, which is the gain of
                the owner's tree where the model is one: the paper's measure. A tree with leaves about as many as
                there are rows in the set gains much by chance; make the set many times larger than `cap`.
It holds until the next fit. Only the columns are looked at, and kept, that the owner's own tree tests: the victim
itself where it is a tree, else a tree fitted to the evaluation set. `colluding` gives the status of the most advanced
clients together, from their states in a guard's store (`store.load((client, "0-watch")).detector`): offline, since a
guard sees one client at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.recipes import PREPARED, Recipe, prepared
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Answer, Array, Interface, Labels, Request
from portcullis_ml.detectors._evaluation import Singles, evaluation_rows, flat
from portcullis_ml.models.leaves import read_tree
from portcullis_ml.models.tree import LEAF

__all__ = ["ExtractionMonitor", "Learned", "gain_share", "skill"]


@dataclass
class Learned:
    """One client's latest questions and labels at the last fit, those since, and the status."""

    x: Singles = field(default_factory=lambda: np.empty((0, 0), np.float32))
    labels: Labels = field(default_factory=lambda: np.empty(0, np.int64))
    new_x: Singles = field(default_factory=lambda: np.empty((0, 0), np.float32))
    new_labels: Labels = field(default_factory=lambda: np.empty(0, np.int64))
    suspicion: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class ExtractionMonitor(Detector[Learned]):
    evaluation: Artifact | Recipe = field(metadata={"recipe": "evaluation_set"})  # what `evaluation_set` has drawn
    threshold: float = 80.0  # the status that is an alarm, from 0 to 100; lower alarms sooner
    measure: Literal["agreement", "gain"] = "agreement"  # what the status counts; gain is meant for trees
    every: int = 50  # questions from one fit to the next, at least
    growth: float = 0.25  # and at least this share of those kept; 0 fits at every `every` questions, which costs more
    cap: int = 1_000  # latest questions of a client that are kept; bounds memory and time
    _set: tuple[Singles, Labels] | None = field(default=None, init=False, compare=False, repr=False)  # once bound
    _columns: Labels | None = field(
        default=None, init=False, compare=False, repr=False
    )  # that are looked at, once bound

    name: ClassVar[str] = "extraction_monitor"
    code: ClassVar[str] = "MODEL_LEARNED"
    means: ClassVar[str] = "A tree that is fitted to the answers says what the model says, more often than it should."
    heavy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "evaluation", 'what evaluation_set has drawn: "FOLDER"', lambda v: isinstance(v, PREPARED))
        check(self, "threshold", "in (0, 100)", lambda v: 0 < v < 100)
        check(self, "measure", "'agreement' or 'gain'", lambda v: v in ("agreement", "gain"))
        check(self, "growth", "in [0, 1]", lambda v: 0 <= v <= 1)
        for name in ("every", "cap"):
            check(self, name, "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def bind(self, interface: Interface) -> Self:
        rows, labels = evaluation_rows(self, interface)
        tree = read_tree(prepared(self, "evaluation").files, interface, f"{self.name}.evaluation")
        columns = np.unique(tree.feature[tree.feature != LEAF])
        return bound(self, _set=(rows[:, columns], labels), _columns=columns)

    def start(self) -> Learned:
        return Learned()

    def suspicion(self, state: Learned) -> float:
        return state.suspicion

    def kept(self, state: Learned) -> int:
        return len(state.labels) + len(state.new_labels)

    def update(self, state: Learned, request: Request, answer: Answer) -> Array:
        if answer.labels is None:
            raise NotApplicable(
                f"{self.name} needs an API that predicts classes; this one does regression. Leave it out."
            )
        assert self._columns is not None  # the guard binds its stages
        x, suspicion, start = flat(request.x)[:, self._columns], np.empty(len(request)), 0
        while start < len(x):
            due = max(self.every, int(self.growth * len(state.labels)))
            stop = start + due - len(state.new_labels)
            state.new_x = _joined(state.new_x, x[start:stop])
            state.new_labels = np.concatenate([state.new_labels, answer.labels[start:stop]])
            suspicion[start : stop - 1] = state.suspicion
            if len(state.new_labels) == due:
                state.x = _joined(state.x, state.new_x)[-self.cap :]
                state.labels = np.concatenate([state.labels, state.new_labels])[-self.cap :]
                state.new_x, state.new_labels = state.new_x[:0], state.new_labels[:0]
                state.suspicion = self._status(state.x, state.labels)
            suspicion[stop - 1 : stop] = state.suspicion
            start = stop
        return suspicion

    def colluding(self, states: Mapping[str, Learned], k: int) -> tuple[tuple[str, ...], float]:
        """The k clients of the greatest status, and their status together: that of a tree fitted to all they asked.

        Clients without a status come last; NaN where nobody has asked anything.
        """
        ranked = sorted(states, key=lambda c: (-np.nan_to_num(states[c].suspicion, nan=-1.0), c))[:k]
        parts = [(s.x, s.labels) for s in map(states.__getitem__, ranked)]
        parts += [(s.new_x, s.new_labels) for s in map(states.__getitem__, ranked)]
        parts = [(x, labels) for x, labels in parts if len(labels)]
        if not parts:
            return tuple(ranked), float("nan")
        x, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        return tuple(ranked), self._status(x, labels)

    def _status(self, x: Singles, labels: Labels) -> float:
        from sklearn.tree import DecisionTreeClassifier

        assert self._set is not None  # the guard binds its stages
        rows, right = self._set
        tree = DecisionTreeClassifier(random_state=0).fit(x, labels)
        if self.measure == "gain":
            return 100 * gain_share(right, tree.apply(rows))
        return 100 * skill(right, tree.predict(rows))


def gain_share(labels: Labels, leaves: NDArray[np.int64]) -> float:
    """The information gain of leaves (n,) over labels (n,), as a share of the labels' entropy, from 0 to 1."""
    before, (_, at, sizes) = _entropy(labels), np.unique(leaves, return_inverse=True, return_counts=True)
    after = sum(n / len(labels) * _entropy(labels[at == leaf]) for leaf, n in enumerate(sizes))
    return max(0.0, float(1 - after / before))


def skill(labels: Labels, said: Labels) -> float:
    """How often said (n,) is labels (n,), rescaled so that always saying the most frequent label is 0 and all is 1."""
    most = np.unique(labels, return_counts=True)[1].max() / len(labels)
    return max(0.0, float(((said == labels).mean() - most) / (1 - most)))


def _entropy(labels: Labels) -> float:
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log2(shares)).sum())


def _joined(rows: Singles, more: Singles) -> Singles:
    return np.concatenate([rows.reshape(len(rows), more.shape[1]), more])
