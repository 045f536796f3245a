"""Short sketches of a class's rows, from which lower bounds on distances rule out nearly all of them; see `_nearest`.

Two ways to the same distance: `Plain` is numpy's, `Compiled` that of `_kernels`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array
from portcullis_ml.detectors import _compiled
from portcullis_ml.detectors._forms import FORMS, SCALES
from portcullis_ml.detectors._rounding import TINY, slack
from portcullis_ml.detectors._rows import StoredRows, longer, squares

__all__ = ["Basis", "Compiled", "Plain"]

RANK = 47  # directions in a basis; with two residuals or a residual and a norm, 196 bytes of sketch a row
COARSE = 32  # of them are looked at in every row by the compiled search: memory read in order is the cheapest
CHUNK = 64  # candidates compared at a time
MANY = 4 * CHUNK  # candidates, beyond which products with the whole rows are had sooner than they are compared
FAST = np.float32


def _dot(rows: NDArray[Any]) -> NDArray[Any]:
    """Squared lengths along the last axis, as dot products: twice as fast as einsum."""
    return np.asarray(rows @ rows if rows.ndim == 1 else (rows[:, None] @ rows[:, :, None])[:, 0, 0])


@dataclass
class Basis:
    """Orthonormal directions (k, d) in float32 about a centre (d,), and how many rows they were fitted on."""

    directions: NDArray[np.float32]
    centre: Array  # float64: rows may differ from one another by less than float32 tells apart
    fitted_on: int

    @classmethod
    def fit(cls, rows: Array, fitted_on: int) -> Basis:
        centre = rows.mean(axis=0)
        if rows.shape[1] <= RANK:
            return cls(np.eye(rows.shape[1], dtype=FAST), centre, fitted_on)
        centred = rows - centre
        weight, vectors = np.linalg.eigh(centred @ centred.T)  # (m, m) is smaller than (d, d)
        kept = [i for i in np.argsort(-weight)[:RANK] if weight[i] > 1e-10 * max(weight[-1], 1e-300)]
        directions = np.linalg.qr(centred.T @ vectors[:, kept])[0].T
        return cls(np.ascontiguousarray(directions, FAST), centre, fitted_on)

    @property
    def nbytes(self) -> int:
        return self.directions.nbytes + self.centre.nbytes

    def sketches(self, rows: StoredRows) -> Plain | Compiled:
        """The sketches of these rows, by the fastest way there is."""
        return Plain(self, rows) if _compiled.kernels is None else Compiled(self, rows)

    def sketch(self, rows: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(m, k + 1) projections with the residual's length last, and (m,) squared norms less the slack.

        Of one row (d,): (k + 1,) and a number. The residual is taken from what is left of the row, not
        from a difference of squares, which would lose half of float32's digits.
        """
        with np.errstate(all="ignore"):  # what overflows float32 becomes a NaN bound, which rules nothing out
            centred = (rows - self.centre).astype(FAST)
            along = centred @ self.directions.T
            across = centred - along @ self.directions
            sketch = np.empty((*along.shape[:-1], along.shape[-1] + 1), FAST)
            sketch[..., :-1] = along
            sketch[..., -1] = np.sqrt(_dot(across))
            return sketch, FAST(1 - slack(centred.shape[-1])) * _dot(centred)


class Plain:
    """The sketches of one class's rows and the search by numpy."""

    def __init__(self, basis: Basis, rows: StoredRows) -> None:
        self.basis = basis
        self._sketches, self._norms = (longer(a, rows.room) for a in basis.sketch(rows.exact()))

    @property
    def nbytes(self) -> int:
        return self._sketches.nbytes + self._norms.nbytes

    def grow(self, room: int) -> None:
        self._sketches, self._norms = longer(self._sketches, room), longer(self._norms, room)

    def put(self, slot: int, x: Array) -> None:
        self._sketches[slot], self._norms[slot] = self.basis.sketch(x)

    def nearest(self, rows: StoredRows, x: Array) -> float:
        """The L2 distance from x (d,) to the closest row."""
        bound = self._bounds(len(rows), x)
        best, rest = _candidates(bound, rows, x, math.inf)
        if len(rest) > MANY:  # the rows have no structure that a sketch could hold
            best, rest = _candidates(np.fmax(bound, self._products(rows, x)), rows, x, best)
        if len(rest) > CHUNK:
            rest = rest[np.argsort(bound[rest])]
        for start in range(0, len(rest), CHUNK):
            if float(bound[rest[start]]) > best + TINY**2:
                break
            close = _close(rows, rest[start : start + CHUNK], x, best)
            if len(close):
                best = min(best, float(squares(rows.exact(close), x).min()))
        return math.sqrt(best)

    def _bounds(self, n: int, x: Array) -> NDArray[np.float32]:
        """(n,) lower bounds on the squared distances, true in spite of rounding."""
        sketch, norm = self.basis.sketch(x)
        with np.errstate(all="ignore"):
            bound = self._sketches[:n] @ (-2 * sketch)
            bound += self._norms[:n]
            bound += norm
        return bound

    def _products(self, rows: StoredRows, x: Array) -> Array:
        """(n,) lower bounds on the squared distances, from the products of x with all rows; NaN beyond float32.

        With w = x - c (c the centre) it is |y - c|^2 + |w|^2 - 2 (y w - c w). The product y w is off by at most half of
        the slack of |y| |w| <= |y - c| |w| + |c| |w|, twice of which is less than what the squares have been shortened
        by, and the slack of |c| |w|.
        """
        centre = self.basis.centre
        kind, loose = np.float64 if rows.form == "float64" else FAST, slack(len(x))
        with np.errstate(all="ignore"):
            away = x - centre
            along = (rows.values.astype(kind, copy=False) @ away.astype(kind)).astype(np.float64)
            along /= SCALES.get(rows.form, 1.0)
            square = float(away @ away)
            shorter = (1 - loose) * square - loose * math.sqrt(float(centre @ centre) * square)
            bound: Array = self._norms[: len(rows)] + shorter - 2 * (along - centre @ away)
        bound[~np.isfinite(bound)] = np.nan
        return bound


def _candidates(bound: NDArray[Any], rows: StoredRows, x: Array, best: float) -> tuple[float, NDArray[np.intp]]:
    """The squared distance to the row with the least bound, or `best` if that is less; and the other rows that may be
    closer."""
    first = int(bound.argmin())  # a NaN comes first
    best = min(best, float(squares(rows.exact(first)[None], x)[0]))
    with np.errstate(over="ignore"):  # beyond float32 it is infinite and rules nothing out
        rest = np.flatnonzero(~(bound > bound.dtype.type(best + TINY**2)))  # a NaN is compared too
    return best, rest[rest != first]


def _close(rows: StoredRows, which: NDArray[np.intp], x: Array, best: float) -> NDArray[np.intp]:
    """Those of `which` that may be closer than sqrt(best): distances in float32, less what rounding can have done.

    A difference is off by at most 2^-23 of its two numbers, so the distance by that share of
    |x| + |y| <= 2 |x| + |x - y|; the sum of squares by less than half of the slack, and its root by a quarter.
    """
    scale = SCALES.get(rows.form, 1.0)
    with np.errstate(all="ignore"):  # what overflows float32 becomes infinite or a NaN, and is kept
        away = rows.values[which].astype(FAST)
        away -= (x * scale).astype(FAST)
        shortest = np.sqrt(_dot(away)) * FAST((1 - slack(len(x))) / scale)
        far = math.sqrt(best) + 2.0**-21 * math.sqrt(x @ x) + TINY
        ruled_out: NDArray[np.bool_] = (shortest > far) & (shortest < math.inf)
    return which[~ruled_out]


class Compiled:
    """The sketches of one class's rows, as the compiled search reads them: the coarse part of all, then few others.

    Why the bound holds in spite of float32. Let s(x) be the sketch of x without rounding; |s(x) - s(y)| <= |x - y|, up
    to 6e-6 of it, k = 47 times two of float32's roundings u = 2^-24, since directions are orthonormal up to that. What
    is computed differs from s(x) by at most LOOSE |x - c| (c the centre):
    - A dot product, of STEP numbers at a time in whatever order, is off by STEP + 4 of u (of x - c, of products, of
      sums, of the result), k of them together by sqrt(k) 260 u = 1.1e-4.
    - The length r of what is left, where r^2 is the difference of |x - c|^2 and the squares of those and at least a
      16th of the former: r^2 is off by twice as much and by 6e-6, 2.2e-4 of |x - c|^2, so r by half of four times that.
    - Elsewhere what is left is computed number by number, each with k + 2 roundings, together (k + 2) (1 + sqrt(k)) u
      = 2.3e-5, and off by what the dot products are off by, and its length by 130 u.
    Together less than 4.6e-4. As |y - c| <= |x - c| + |x - y|, a computed |s(x) - s(y)| above
    (1 + 2 LOOSE) b + 2 LOOSE |x - c| means that |x - y| is above b, by more than what a sum in float64 can lose.
    """

    def __init__(self, basis: Basis, rows: StoredRows) -> None:
        assert _compiled.kernels is not None
        self.basis, self._kernels = basis, _compiled.kernels
        k = len(basis.directions)
        coarse = min(COARSE, k)
        block = self._kernels.BLOCK
        self._coarse = np.zeros((-(-rows.room // block), coarse + 1, block), FAST)
        self._fine = np.zeros((rows.room, k + 1 - coarse), FAST)
        for slot, x in enumerate(rows.exact()):
            self.put(slot, x)

    @property
    def nbytes(self) -> int:
        return self._coarse.nbytes + self._fine.nbytes

    def grow(self, room: int) -> None:
        self._coarse = longer(self._coarse, -(-room // self._kernels.BLOCK))
        self._fine = longer(self._fine, room)

    def put(self, slot: int, x: Array) -> None:
        self._kernels.put(x, self.basis.centre, self.basis.directions, slot, self._coarse, self._fine)

    def nearest(self, rows: StoredRows, x: Array) -> float:
        """The L2 distance from x (d,) to the closest row: numpy sums it, as in the other way."""
        terms, found, basis = np.empty(len(x)), np.empty(len(rows), np.intp), self.basis
        m = self._kernels.nearest(
            rows.buffer, FORMS.index(rows.form), SCALES.get(rows.form, 1.0), len(rows), self._coarse, self._fine, x,
            basis.centre, basis.directions, found, terms,
        )  # fmt: skip
        return math.sqrt(np.add.reduce(terms) if m == 1 else squares(rows.exact(found[:m]), x).min())
