"""Rows of a table with steps along every number, so that a linear model on them is any sum of functions of one column.

A pipeline that bins a column, takes its logarithm or fits a spline to it is such a sum; so is a plain regression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portcullis_ml.core.types import Array, Interface
from portcullis_ml.models.encoding import Encoding

__all__ = ["SteppedEncoding"]

MOST = 24  # steps along one column
WIDE_RANGE = 50.0  # a column that spans this many times its low end (or 1, from 0) has steps even in its logarithm, too


@dataclass(frozen=True)
class SteppedEncoding:
    """`linear` is the plain encoding; edges has, for every column that gets steps, its number and where they are."""

    linear: Encoding
    edges: tuple[tuple[int, Array], ...]

    @classmethod
    def of(cls, interface: Interface, columns: int) -> SteppedEncoding:
        """About so many columns at most, steps shared out evenly among the numbers; fewer than 2 each are left out."""
        linear = Encoding.of(interface, drop_first=True)
        numbers = np.flatnonzero(linear.numeric)
        each = min(MOST, (columns - linear.width) // max(len(numbers), 1))
        if each < 2:
            return cls(linear, ())
        spans = [(float(interface.low[j]), float(interface.high[j])) for j in numbers]
        return cls(linear, tuple((int(j), _edges(*span, each)) for j, span in zip(numbers, spans, strict=True)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.linear.input_shape

    @property
    def width(self) -> int:
        """Columns of an encoded row: those of the plain encoding, then the steps."""
        return self.linear.width + sum(len(edges) for _, edges in self.edges)

    def __call__(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, width)."""
        flat = np.asarray(x, np.float64).reshape(len(x), len(self.linear.low))
        steps = [(flat[:, [j]] > edges).astype(np.float64) for j, edges in self.edges]
        return np.concatenate([self.linear(x), *steps], axis=1)


def _edges(low: float, high: float, n: int) -> Array:
    """At most n edges between low and high, halfway between whole numbers where few of those lie there."""
    if low % 1 == 0 and high % 1 == 0 and high - low <= 2 * n:
        return np.asarray(low + 0.5 + np.unique(np.linspace(0, high - low, n + 1, dtype=np.int64)[:-1]), np.float64)
    start = low if low > 0 else 1.0
    if low < 0 or (high - low) / start < WIDE_RANGE:
        return np.asarray(np.linspace(low, high, n + 2)[1:-1], np.float64)
    skewed = low + start * np.expm1(np.linspace(0, 1, 3 * n // 4 + 2)[1:-1] * np.log1p((high - low) / start))
    return np.asarray(np.union1d(skewed, np.linspace(low, high, n - len(skewed) + 2)[1:-1]), np.float64)
