"""Exact nearest neighbours among one client's rows: a lower bound picks few candidates, float64 decides.

Random sketches of distances were seen to turn an attack's normality statistic from .945 into .999,
so no approximation enters a decision here. Let P have orthonormal rows and let r(x) be the length
of what P leaves of x. Then |Px - Py|^2 + (r(x) - r(y))^2 <= |x - y|^2: a matrix-vector product over
short float32 sketches rules out nearly all stored rows, full distances in float32 most of the
others, both less whatever rounding can do; what is left is compared in float64, with a summation
order that depends on nothing but the row length. The distance is that of a plain loop to the last
bit, whatever P is; P (a principal-component basis of the stored rows) and the sketches are a cache
that is rebuilt after loading and never stored.

Rows are kept in the narrowest form that gives them back exactly: one byte a number for 8-bit inputs
(k / 255 in double or single precision, or whole numbers 0 to 255), else float32, else float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis.core.types import Array

__all__ = ["Nearest", "Rows"]

RANK = 47  # directions in a basis; with the residual, 192 bytes of sketch a row
FIRST_FIT = 32  # stored rows before there is a basis; below, all are compared
REFIT = 8  # the basis is fitted anew when the rows have multiplied by this
SAMPLE = 256  # rows that a fit looks at, at most
CHUNK = 64  # candidates compared at a time
SLACK = 1e-4  # float32 rounding of a bound, relative to the squared norms: twice what a sum of 784 squares can lose
FAST = np.float32

_SCALES = {"unit": 255.0, "unit32": 255.0, "bytes": 1.0}  # of the 8-bit forms
_FORMS = (*_SCALES, "float32", "float64")


def _encode(x: Array, form: str) -> NDArray[Any] | None:
    """x in this form, or None where that would lose anything."""
    stored: NDArray[Any]
    if form in _SCALES:
        stored = np.clip(np.rint(x * _SCALES[form]), 0, 255).astype(np.uint8)
    else:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is not equal to x
            stored = x.astype(form)
    return stored if form == "float64" or np.array_equal(_decode(stored, form), x) else None


def _decode(stored: NDArray[Any], form: str) -> Array:
    """The float64 values; dividing is faster than looking them up in a table."""
    if form == "unit":
        stored = np.divide(stored, 255.0, dtype=np.float64)
    elif form == "unit32":
        stored = np.divide(stored, np.float32(255), dtype=np.float32)
    return np.asarray(stored, np.float64)


def _stored(x: Array, form: str) -> NDArray[Any]:
    """x in a form that is known to hold it."""
    stored = _encode(x, form)
    assert stored is not None
    return stored


def _squares(rows: Array, x: Array) -> Array:
    """(m,) squared distances. The sum along a contiguous last axis is the same for one row and for many."""
    away = rows - x
    return np.asarray((away * away).sum(axis=1))


def _slack(d: int) -> float:
    """SLACK for rows of d inputs: the rounding of a sum grows with its length."""
    return SLACK * max(1.0, d / 784)


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
            return sketch, FAST(1 - _slack(centred.shape[-1])) * _dot(centred)


@dataclass
class Rows:
    """The rows of one class: `values` (n, d) in `form`, `added` so far, the newest over the oldest beyond the cap."""

    values: NDArray[Any]
    form: str
    added: int = 0
    _buffer: NDArray[Any] = field(init=False, repr=False, compare=False)
    _basis: Basis | None = field(init=False, repr=False, compare=False, default=None)
    _sketches: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    _norms: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._buffer = self.values

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, spare room and sketches included."""
        cache = self._sketches.nbytes + self._norms.nbytes if self._basis else 0
        return self._buffer.nbytes + cache

    def exact(self, which: Any = slice(None)) -> Array:
        """(m, d) float64: the rows as they came."""
        return _decode(self.values[which], self.form)

    def put(self, x: Array, cap: int) -> None:
        stored = _encode(x, self.form)
        if stored is None:
            stored = self._widen(x)
        slot = self.added % cap
        if slot == len(self.values) == len(self._buffer):
            room = min(cap, slot + max(8, slot // 8))  # an eighth to spare: memory matters more than copies
            self._buffer = _longer(self._buffer, room)
            if self._basis:
                self._sketches, self._norms = _longer(self._sketches, room), _longer(self._norms, room)
        self._buffer[slot] = stored
        self.added += 1
        self.values = self._buffer[: min(self.added, cap)]
        if self._basis:
            self._sketches[slot], self._norms[slot] = self._basis.sketch(x)

    def _widen(self, x: Array) -> NDArray[Any]:
        """x in the next form that holds it and every row so far; the rows are moved to that form."""
        rows = self.exact()
        wider = _FORMS[_FORMS.index(self.form) + 1 :]
        self.form = next(f for f in wider if _encode(rows, f) is not None and _encode(x, f) is not None)
        self.values = _stored(rows, self.form)
        self._buffer = _longer(self.values, len(self._buffer))
        return _stored(x, self.form)

    def nearest(self, x: Array, basis: Basis | None) -> float:
        """The L2 distance from x (d,) to the closest row: exactly the least of all of them."""
        if basis is None or len(self) <= FIRST_FIT:
            return math.sqrt(_squares(self.exact(), x).min())
        bound = self._bounds(x, basis)
        first = int(bound.argmin())
        best = float(_squares(self.exact(first)[None], x)[0])
        with np.errstate(over="ignore"):  # beyond float32 it is infinite and rules nothing out
            rest = np.flatnonzero(~(bound > FAST(best)))  # a NaN is compared too
        rest = rest[rest != first]
        if len(rest) > CHUNK:
            rest = rest[np.argsort(bound[rest])]
        for start in range(0, len(rest), CHUNK):
            if float(bound[rest[start]]) > best:
                break
            close = self._close(rest[start : start + CHUNK], x, best)
            if len(close):
                best = min(best, float(_squares(self.exact(close), x).min()))
        return math.sqrt(best)

    def _close(self, which: NDArray[np.intp], x: Array, best: float) -> NDArray[np.intp]:
        """Those of `which` that may be closer than sqrt(best): distances in float32, less what rounding can have done.

        A difference is off by at most 2^-23 of its two numbers, so the distance by that share of
        |x| + |y| <= 2 |x| + |x - y|; the sum of squares by less than half of the slack, and its root by a quarter.
        """
        scale = _SCALES.get(self.form, 1.0)
        with np.errstate(all="ignore"):  # what overflows float32 becomes infinite or a NaN, and is kept
            away = self.values[which].astype(FAST)
            away -= (x * scale).astype(FAST)
            shortest = np.sqrt(_dot(away)) * FAST((1 - _slack(len(x))) / scale)
            far = math.sqrt(best) + 2.0**-21 * math.sqrt(x @ x)
            apart: NDArray[np.bool_] = (shortest > far) & (shortest < math.inf)
        return which[~apart]

    def _bounds(self, x: Array, basis: Basis) -> NDArray[np.float32]:
        """(n,) lower bounds on the squared distances, true in spite of rounding."""
        if self._basis is not basis:
            self._basis = basis
            self._sketches, self._norms = (_longer(a, len(self._buffer)) for a in basis.sketch(self.exact()))
        sketch, norm = basis.sketch(x)
        with np.errstate(all="ignore"):
            bound = self._sketches[: len(self)] @ (-2 * sketch)
            bound += self._norms[: len(self)]
            bound += norm
        return bound


def _longer(rows: NDArray[Any], room: int) -> NDArray[Any]:
    grown = np.empty((room, *rows.shape[1:]), rows.dtype)
    grown[: len(rows)] = rows
    return grown


@dataclass
class Nearest:
    """One client's rows by class, at most `cap` of each."""

    cap: int
    classes: dict[int, Rows] = field(default_factory=dict)
    _basis: Basis | None = field(init=False, repr=False, compare=False, default=None)

    def distance(self, label: int, x: Array) -> float | None:
        """From x (d,) to the nearest row of that class; None if there is none."""
        rows = self.classes.get(label)
        return None if rows is None else rows.nearest(x, self._current(len(rows)))

    def add(self, label: int, x: Array) -> None:
        if label not in self.classes:
            form = next(f for f in _FORMS if _encode(x, f) is not None)
            self.classes[label] = Rows(_stored(x[None][:0], form), form)
        self.classes[label].put(x, self.cap)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.classes.values())

    @property
    def nbytes(self) -> int:
        """Bytes held in memory for rows, spare room, sketches and the basis."""
        basis = self._basis.directions.nbytes + self._basis.centre.nbytes if self._basis else 0
        return basis + sum(rows.nbytes for rows in self.classes.values())

    def _current(self, wanted: int) -> Basis | None:
        """The basis, fitted anew when the client's rows have multiplied since; none is made before it is wanted."""
        if wanted <= FIRST_FIT:
            return self._basis
        held = len(self)
        if self._basis is None or held >= REFIT * self._basis.fitted_on:
            step = -(-held // SAMPLE)
            sample = np.concatenate([rows.exact(slice(None, None, step)) for rows in self.classes.values()])
            self._basis = Basis.fit(sample[:SAMPLE], held)
        return self._basis
