"""A table as a grid of integers, on which line searches never compare floats; and identities read off answers.

A number runs over 0 .. last in steps of eps of its range, a category over its codes; OMITTED is a missing value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.types import Array, Interface

__all__ = ["OMITTED", "GameOver", "Grid", "Identities", "Ints"]

Ints = NDArray[np.int64]
OMITTED = -1
DIGITS = 12  # decimals of a score that belong to a leaf's identity; beyond lies the noise of sums


class GameOver(Exception):
    """Not every row was answered; the attack returns the copy that its answers allow."""


@dataclass(frozen=True)
class Grid:
    """low, high (d,); last (d,) the greatest position; categories (d,) is 0 for a number."""

    input_shape: tuple[int, ...]
    low: Array
    high: Array
    last: Ints
    categories: Ints

    @classmethod
    def of(cls, interface: Interface, eps: float) -> Grid:
        counts = [f.categories for f in interface.features] if interface.features else [0] * interface.n_inputs
        categories = np.array(counts, np.int64)
        steps = np.where(interface.high > interface.low, int(np.ceil(1 / eps)), 0)
        last = np.where(categories > 0, categories - 1, steps)
        return cls(interface.input_shape, interface.low, interface.high, last, categories)

    @property
    def d(self) -> int:
        return len(self.last)

    @property
    def numeric(self) -> NDArray[np.bool_]:
        return np.asarray(self.categories == 0)

    def values(self, points: Ints) -> Array:
        """(n, d) positions -> (n, *input_shape) inputs, NaN where omitted."""
        share = points / np.maximum(self.last, 1)
        x = np.where(points == self.last, self.high, self.low + share * (self.high - self.low))
        return np.where(points == OMITTED, np.nan, x).reshape(len(points), *self.input_shape)

    def between(self, feature: Ints, position: Ints | Array) -> Array:
        """(k,) the values halfway between these positions of these features and the next ones."""
        width = (self.high - self.low) / np.maximum(self.last, 1)
        return np.asarray(self.low[feature] + (position + 0.5) * width[feature])

    def uniform(self, n: int, rng: np.random.Generator) -> Ints:
        """(n, d) random positions."""
        return rng.integers(self.last + 1, size=(n, self.d))


class Identities:
    """Answers as numbers: two rows have the same one exactly when the API shows the same for both."""

    def __init__(self, harvest: Harvest, grid: Grid, n_classes: int, most: float = np.inf) -> None:
        self.harvest = harvest
        self.most = most  # queries of the harvest at which the game is over, though it may have more
        self.grid = grid
        self._n_classes = n_classes
        self._numbers: dict[bytes, int] = {}
        self._rows: list[Array] = []

    def __len__(self) -> int:
        return len(self._rows)

    def ask(self, points: Ints) -> Ints:
        """(n, d) positions -> (n,) identities. Raises GameOver unless all n are answered."""
        return self.of(self.grid.values(points))

    def of(self, x: Array) -> Ints:
        """(n, *input_shape) inputs -> (n,) identities; see `ask`."""
        if len(x) == 0:
            return np.empty(0, np.int64)
        if self.harvest.paid + len(x) > self.most:
            raise GameOver
        answer = self.harvest.ask(x)
        rows = answer.scores if answer.scores is not None else np.empty((len(answer), 0))
        if answer.labels is not None:
            rows = np.column_stack([answer.labels, rows])
        keys = np.round(rows, DIGITS) + 0.0
        unique, first, inverse = np.unique(
            np.nan_to_num(keys, nan=-1.0), axis=0, return_index=True, return_inverse=True
        )
        numbers = [self._number(key.tobytes(), rows[at]) for key, at in zip(unique, first, strict=True)]
        if len(answer) < len(x) or not answer.answered.all():
            raise GameOver
        return np.array(numbers, np.int64)[inverse.ravel()]

    def _number(self, key: bytes, row: Array) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self._rows)
            self._rows.append(row)
        return self._numbers[key]

    def scores(self, numbers: Ints) -> Array:
        """(k, c) what these identities (k,) answer, completed where part of it is hidden."""
        rows = np.array([self._rows[i] for i in numbers])
        if self._n_classes == 0:
            return rows
        return np.array([_completed(int(row[0]), row[1:]) for row in rows])


def _completed(label: int, shown: Array) -> Array:
    """(c,) a distribution: hidden classes share what is left evenly, and the label that was served comes first."""
    hidden = np.isnan(shown)
    p = np.where(hidden, 0.0, np.clip(shown, 0, None))
    p[hidden] = max(0.0, 1 - p.sum()) / max(hidden.sum(), 1)
    p = p / p.sum() if p.sum() > 0 else np.full(len(p), 1 / len(p))
    if p.argmax() != label:
        p[label] = p.max() + 1e-9
    return np.asarray(p / p.sum())
