"""A tree as its leaves: boxes, and what is answered in each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array

__all__ = ["BoxModel"]

CELLS = 20_000_000  # comparisons at a time


class BoxModel:
    """m boxes: inside means low < x <= high in every number, and `allowed` in every category.

    low, high (m, d), infinite where open; a column of categories has infinite edges and `allowed` {column: (m, k)}.
    value (m, c). The first box that a row is in answers; a row in none gets the answer of the nearest box. An omitted
    input (NaN) fits any box.
    """

    def __init__(
        self,
        low: Array,
        high: Array,
        allowed: dict[int, NDArray[np.bool_]],
        value: Array,
        *,
        input_shape: tuple[int, ...],
        n_classes: int,
        scale: Array | None = None,
    ) -> None:
        self.low, self.high, self.allowed, self.value = low, high, allowed, value
        self.input_shape, self.n_classes = tuple(input_shape), n_classes
        self.scale = np.ones(low.shape[1]) if scale is None else scale  # (d,) what counts as far, for the nearest

    def __len__(self) -> int:
        return len(self.value)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes), or (n, 1) for regression."""
        return self.value[self.find(x)[0]]

    def find(self, x: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(n,) the box of every row, and whether the row is inside it."""
        rows = np.asarray(x, np.float64).reshape(len(x), -1)
        found, known = np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
        step = max(1, CELLS // len(self.value))
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            inside = self._inside(rows[part])
            found[part], known[part] = inside.argmax(axis=1), inside.any(axis=1)
        lost = np.flatnonzero(~known)
        for at in range(0, len(lost), step):
            found[lost[at : at + step]] = self._distance(rows[lost[at : at + step]]).argmin(axis=1)
        return found, known

    def _inside(self, rows: Array) -> NDArray[np.bool_]:
        """(n, m)"""
        inside = np.ones((len(rows), len(self.value)), bool)
        for j in range(rows.shape[1]):
            x = rows[:, j : j + 1]
            if j in self.allowed:
                inside &= self._fits(j, rows[:, j])
                continue
            if (self.low[:, j] > -np.inf).any():
                inside &= ~(x <= self.low[:, j])
            if (self.high[:, j] < np.inf).any():
                inside &= ~(x > self.high[:, j])
        return inside

    def _fits(self, j: int, codes: Array) -> NDArray[np.bool_]:
        """(n, m) whether each box takes these codes; a code that nobody knows fits none."""
        table = self.allowed[j]
        known = (codes >= 0) & (codes < table.shape[1]) & (codes == np.floor(codes))
        fits = np.where(known[:, None], table[:, np.where(known, codes, 0).astype(np.int64)].T, False)
        return np.asarray(fits | np.isnan(codes)[:, None])

    def _distance(self, rows: Array) -> Array:
        """(n, m) how far outside, in units of `scale`; a category that does not fit counts 1."""
        total = np.zeros((len(rows), len(self.value)))
        for j in range(rows.shape[1]):
            if j in self.allowed:
                total += ~self._fits(j, rows[:, j])
            else:
                x = rows[:, j : j + 1]
                outside = np.maximum(np.maximum(self.low[:, j] - x, x - self.high[:, j]), 0) / self.scale[j]
                total += np.nan_to_num(outside)
        return total
