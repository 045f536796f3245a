"""What attacks share that ask a pool in rounds: the rows that wait, the rows asked, and which copy is the best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.types import Array, Labels, Model

__all__ = ["Rounds", "largest"]

PART = 4096  # rows of the pool that are held at once

Indices = NDArray[np.int64]


class Rounds:
    """Pool rows that wait in random order, and what was asked; the rows asked first may be set aside from training."""

    def __init__(self, harvest: Harvest, pool: Array, rng: np.random.Generator) -> None:
        self.harvest, self.pool = harvest, pool
        self.waiting: Indices = rng.permutation(len(pool))
        self.aside = 0  # rows answered first, which no copy is trained on

    @property
    def trained_on(self) -> int:
        """How many answered rows copies are trained on."""
        return len(self.harvest) - self.aside

    def ask(self, rows: Indices) -> None:
        """Ask about these rows of the pool, which are then no longer waiting."""
        self.harvest.ask(self.pool[rows])
        self.waiting = self.waiting[~np.isin(self.waiting, rows)]

    def ask_aside(self, n: int) -> None:
        """Ask about n rows that only compare copies."""
        if n:
            self.ask(self.waiting[:n])
            self.aside = len(self.harvest)

    def answered(self) -> tuple[Array, Array]:
        """(n, *input_shape) and (n, c) the rows to train on and their targets."""
        return self.harvest.x[self.aside :], self.harvest.targets()[self.aside :]

    def parts(self) -> list[Indices]:
        """The waiting rows, so many at a time as are held at once."""
        return np.split(self.waiting, range(PART, len(self.waiting), PART))

    def scores(self, copy: Model) -> Array:
        """(waiting, c) what a copy says of the waiting rows."""
        return np.concatenate([copy.scores(self.pool[rows]) for rows in self.parts()])

    def best(self, copies: list[Model]) -> Model:
        """The last copy, or that of an earlier round where it does better on the rows set aside."""
        if not self.aside:
            return copies[-1]
        x, truth = self.harvest.x[: self.aside], self.harvest.targets()[: self.aside].argmax(axis=1)
        found = [_macro_f(truth, copy.scores(x).argmax(axis=1)) for copy in copies]
        self.harvest.notes["validation_macro_f"] = [round(f, 4) for f in found]
        return self.harvest.keep(copies[max(range(len(found)), key=lambda i: (found[i], i))])


def largest(values: Array, k: int) -> Indices:
    """Indices of the k largest, the largest first; ties by place."""
    return np.argsort(-values, kind="stable")[:k]


def _macro_f(truth: Labels, given: Labels) -> float:
    """The mean F1 of the classes that occur."""
    classes = np.union1d(truth, given)
    hits = np.array([((truth == c) & (given == c)).sum() for c in classes])
    sizes = np.array([(truth == c).sum() + (given == c).sum() for c in classes])
    return float((2 * hits / sizes).mean())
