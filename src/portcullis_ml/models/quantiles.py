"""Rows of a table as a model wants them: numbers on two scales, categories as indicators.

A number stands there once as it is, between -1 and 1 by its known range, since many models are linear in it. A
heavy-tailed one (a capital gain from 0 to 99,999) stands there a second time as its rank among the rows that the
encoding was made from, since on the first scale nearly all of its values look alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Interface

__all__ = ["QuantileEncoding"]

KNOTS = 65  # ranks that are kept of every column
MOST_VALUES = 40  # indicators of one category; rarer values share the last
STRAIGHT = 0.98  # a correlation with its own ranks above this adds nothing


@dataclass(frozen=True)
class QuantileEncoding:
    """Made by `of`; calling it encodes rows.

    numbers     columns that are numbers and vary
    middle, half  (len(numbers),) what maps them to [-1, 1]
    ranked      of `numbers`, those that get ranks, with their knots
    indicators  for every category, its column and the values that have an indicator of their own
    """

    numbers: tuple[int, ...]
    middle: Array
    half: Array
    ranked: tuple[tuple[int, Array], ...]
    indicators: tuple[tuple[int, Array], ...]

    @classmethod
    def of(cls, x: Array, interface: Interface | None = None) -> QuantileEncoding:
        """From rows (n, ...) whose meaning the interface tells; without one every column is a number."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        features = (interface.features if interface is not None else None) or [None] * flat.shape[1]
        low, high = (interface.low, interface.high) if interface is not None else (flat.min(axis=0), flat.max(axis=0))
        varies = np.minimum(low, flat.min(axis=0)) < np.maximum(high, flat.max(axis=0))
        codes = [j for j, f in enumerate(features) if f is not None and f.categorical]
        numbers = [j for j in np.flatnonzero(varies).tolist() if j not in set(codes)]
        half = (high - low)[numbers] / 2
        return cls(
            tuple(numbers),
            ((low + high) / 2)[numbers],
            np.where(half > 0, half, 1.0),
            tuple((j, knots) for j in numbers if (knots := _knots(flat[:, j])) is not None),
            tuple((j, _values(flat[:, j])) for j in codes if len(np.unique(flat[:, j])) > 1),
        )

    @property
    def groups(self) -> NDArray[np.int64]:
        """(width,) a number for every encoded column: the indicators of one category share theirs."""
        alone = max(1, len(self.numbers) + len(self.ranked)) if self.numbers or not self.indicators else 0
        together = [np.full(len(values), alone + k) for k, (_, values) in enumerate(self.indicators)]
        return np.concatenate([np.arange(alone), *together]).astype(np.int64)

    def __call__(self, x: Array) -> Array:
        """(n, ...) rows -> (n, width), finite; a row of a table without a single column that varies has one zero."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        columns = [(flat[:, list(self.numbers)] - self.middle) / self.half] if self.numbers else []
        for j, knots in self.ranked:
            columns.append(2 * np.interp(flat[:, [j]], knots, np.linspace(0, 1, len(knots))) - 1)
        for j, values in self.indicators:
            columns.append((flat[:, [j]] == values).astype(np.float64))
        return np.concatenate(columns or [np.zeros((len(flat), 1))], axis=1)


def _knots(column: Array) -> Array | None:
    """Values at equal ranks, each once; None for a column whose ranks are nearly the column itself."""
    knots = np.unique(np.quantile(column, np.linspace(0, 1, KNOTS)))
    if len(knots) < 3:
        return None
    ranks = np.interp(column, knots, np.linspace(0, 1, len(knots)))
    straight = np.corrcoef(column, ranks)[0, 1] > STRAIGHT
    return None if straight else knots


def _values(column: Array) -> Array:
    """The values with an indicator: all of them, or the most frequent."""
    values, counts = np.unique(column, return_counts=True)
    return np.asarray(np.sort(values[np.argsort(-counts, kind="stable")[:MOST_VALUES]]))
