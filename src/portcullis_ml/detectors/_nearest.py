"""Exact nearest neighbours among one client's rows: a lower bound picks few candidates, float64 decides.

Random sketches of distances were seen to turn an attack's normality statistic from .945 into .999,
so no approximation enters a decision here. Let P have orthonormal rows and let r(x) be the length
of what P leaves of x. Then |Px - Py|^2 + (r(x) - r(y))^2 <= |x - y|^2: a matrix-vector product over
short float32 sketches rules out nearly all stored rows, full distances in float32 most of the
others, both less whatever rounding can do; what is left is compared in float64, with a summation
order that depends on nothing but the row length. The distance is that of a plain loop to the last
bit, whatever P is; P (a principal-component basis of the stored rows) and the sketches are a cache
(`_sketches`) that is rebuilt after loading and never stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array
from portcullis_ml.detectors._forms import FORMS, decode, encode, stored
from portcullis_ml.detectors._sketches import Basis, Compiled, Plain, longer, squares

__all__ = ["Nearest", "StoredRows"]

FIRST_FIT = 32  # stored rows before there is a basis; below, all are compared
REFIT = 8  # the basis is fitted anew when the rows have multiplied by this
SAMPLE = 256  # rows that a fit looks at, at most


@dataclass
class StoredRows:
    """The rows of one class: `values` (n, d) in `form`, `added` so far, the newest over the oldest beyond the cap."""

    values: NDArray[Any]
    form: str
    added: int = 0
    buffer: NDArray[Any] = field(init=False, repr=False, compare=False)  # (room, d), of which values are the first
    _sketches: Plain | Compiled | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        self.buffer = self.values

    def __len__(self) -> int:
        return len(self.values)

    @property
    def room(self) -> int:
        return len(self.buffer)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, spare room and sketches included."""
        return self.buffer.nbytes + (self._sketches.nbytes if self._sketches else 0)

    def exact(self, which: Any = slice(None)) -> Array:
        """(m, d) float64: the rows as they came."""
        return decode(self.values[which], self.form)

    def put(self, x: Array, cap: int) -> None:
        row = encode(x, self.form)
        if row is None:
            row = self._widen(x)
        slot = self.added % cap
        if slot == len(self.values) == self.room:
            room = min(cap, slot + max(8, slot // 8))  # an eighth to spare: memory matters more than copies
            self.buffer = longer(self.buffer, room)
            if self._sketches:
                self._sketches.grow(room)
        self.buffer[slot] = row
        self.added += 1
        self.values = self.buffer[: min(self.added, cap)]
        if self._sketches:
            self._sketches.put(slot, x)

    def _widen(self, x: Array) -> NDArray[Any]:
        """x in the next form that holds it and every row so far; the rows are moved to that form."""
        rows = self.exact()
        wider = FORMS[FORMS.index(self.form) + 1 :]
        self.form = next(f for f in wider if encode(rows, f) is not None and encode(x, f) is not None)
        self.values = stored(rows, self.form)
        self.buffer = longer(self.values, self.room)
        return stored(x, self.form)

    def nearest(self, x: Array, basis: Basis | None) -> float:
        """The L2 distance from x (d,) to the closest row: exactly the least of all of them."""
        if basis is None or len(self) <= FIRST_FIT:
            return math.sqrt(squares(self.exact(), x).min())
        if self._sketches is None or self._sketches.basis is not basis:
            self._sketches = basis.sketches(self)
        return self._sketches.nearest(self, x)


@dataclass
class Nearest:
    """One client's rows by class, at most `cap` of each."""

    cap: int
    classes: dict[int, StoredRows] = field(default_factory=dict)
    _basis: Basis | None = field(init=False, repr=False, compare=False, default=None)
    _held: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._held = sum(len(rows) for rows in self.classes.values())

    def distance(self, label: int, x: Array) -> float | None:
        """From x (d,) to the nearest row of that class; None if there is none."""
        rows = self.classes.get(label)
        return None if rows is None else rows.nearest(x, self._current(len(rows)))

    def add(self, label: int, x: Array) -> None:
        if label not in self.classes:
            form = next(f for f in FORMS if encode(x, f) is not None)
            self.classes[label] = StoredRows(stored(x[None][:0], form), form)
        rows = self.classes[label]
        before = len(rows)
        rows.put(x, self.cap)
        self._held += len(rows) - before

    def __len__(self) -> int:
        return self._held

    @property
    def nbytes(self) -> int:
        """Bytes held in memory for rows, spare room, sketches and the basis."""
        basis = self._basis.nbytes if self._basis else 0
        return basis + sum(rows.nbytes for rows in self.classes.values())

    def _current(self, wanted: int) -> Basis | None:
        """The basis, fitted anew when the client's rows have multiplied since; none is made before it is wanted."""
        if wanted <= FIRST_FIT:
            return self._basis
        if self._basis is None or self._held >= REFIT * self._basis.fitted_on:
            step = -(-self._held // SAMPLE)
            sample = np.concatenate([rows.exact(slice(None, None, step)) for rows in self.classes.values()])
            self._basis = Basis.fit(sample[:SAMPLE], self._held)
        return self._basis
