"""A guard that a thief has trained themselves, to see what it would say before anything is asked."""

from __future__ import annotations

import copy as copying
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Array, Interface, Model, Request

__all__ = ["LOOKED", "Rehearsed", "sorted_by_domain"]

FILTERS = ("out_of_domain",)
LOOKED = 5_000  # rows of the pool at most among which those are looked for that stand for the victim's domain
OWN = 300  # rows that stand for it, and as many for what is foreign to it


@dataclass
class Rehearsed:
    """The known guard as the thief has trained it: its filters, its detectors with their states after what was asked,
    and the copy that stands for the victim."""

    copy: Model
    filters: Guard
    detectors: list[Any]
    states: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, copy: Model, guard: Guard, x: Array) -> Rehearsed:
        filters = Guard(*(stage for stage in guard.stages if stage.name in FILTERS), key=bytes(16))
        made = cls(copy, filters, guard.detectors(), [detector.start() for detector in guard.detectors()])
        made.heard(x)
        return made

    def passes(self, x: Array) -> NDArray[np.bool_]:
        """(n,) which rows the filters leave as they are."""
        if not len(x):
            return np.empty(0, bool)
        return np.asarray(~self.filters.release(Request("rehearsal", x), self._answers(x)).altered)

    def suspicion(self, x: Array, more: int = 0) -> float:
        """The greatest suspicion of a detector while these rows go out next, as a share of its threshold.

        more   so many rows after them are like them: a verdict on a window that they leave unfinished counts as well
        """
        again = np.resize(np.arange(len(x)), len(x) + more)
        return self._updated(copying.deepcopy(self.states), x[again])

    def heard(self, x: Array) -> None:
        """These rows have gone out."""
        self._updated(self.states, x)

    def _updated(self, states: list[Any], x: Array) -> float:
        if not len(x):
            return 0.0
        answer, worst = self._answers(x), 0.0
        for detector, state in zip(self.detectors, states, strict=True):
            found = detector.update(state, Request("rehearsal", x), answer)
            worst = max(worst, float(np.nan_to_num(found).max(initial=0.0)) / detector.threshold)
        return worst

    def _answers(self, x: Array) -> Answer:
        scores = self.copy.scores(x)
        return Answer(scores.argmax(axis=1), scores)


def sorted_by_domain(pool: Array, seeds: Array, interface: Interface, rng: np.random.Generator) -> tuple[Array, Array]:
    """Rows that stand for the victim's domain (the seeds, and the pool's nearest to them), and foreign ones."""
    scale = np.maximum(np.broadcast_to(interface.high - interface.low, interface.n_inputs), 1e-12)
    flat = [part.reshape(len(part), -1) / scale for part in (pool, seeds)]
    order = np.argsort(cdist(*flat).min(axis=1), kind="stable")
    half = min(OWN, max(1, len(pool) // 2))
    near, far = order[: max(half - len(seeds), 0)], order[-half:]
    return np.concatenate([seeds, pool[near]]), np.concatenate([pool[far], interface.uniform(OWN, rng)])
