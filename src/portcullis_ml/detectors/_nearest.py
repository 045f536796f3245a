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

import numpy as np

from portcullis_ml.core.types import Array
from portcullis_ml.detectors._forms import FORMS, encode, stored
from portcullis_ml.detectors._rows import StoredRows, squares
from portcullis_ml.detectors._sketches import Basis, Compiled, Plain

__all__ = ["Nearest"]

FIRST_FIT = 32  # stored rows before there is a basis; below, all are compared
REFIT = 8  # the basis is fitted anew when the rows have multiplied by this
SAMPLE = 256  # rows that a fit looks at, at most


@dataclass
class Nearest:
    """One client's rows by class, at most `cap` of each."""

    cap: int
    classes: dict[int, StoredRows] = field(default_factory=dict)
    _sketches: dict[int, Plain | Compiled] = field(init=False, repr=False, compare=False, default_factory=dict)
    _basis: Basis | None = field(init=False, repr=False, compare=False, default=None)
    _held: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._held = sum(len(rows) for rows in self.classes.values())

    def distance(self, label: int, x: Array) -> float | None:
        """From x (d,) to the nearest row of that class, exactly the least of all of them; None if there is none."""
        rows = self.classes.get(label)
        if rows is None:
            return None
        basis = self._current(len(rows))
        if basis is None or len(rows) <= FIRST_FIT:
            return math.sqrt(squares(rows.exact(), x).min())
        sketches = self._sketches.get(label)
        if sketches is None or sketches.basis is not basis:
            sketches = self._sketches[label] = basis.sketches(rows)
        return sketches.nearest(rows, x)

    def add(self, label: int, x: Array) -> None:
        if label not in self.classes:
            form = next(f for f in FORMS if encode(x, f) is not None)
            self.classes[label] = StoredRows(stored(x[None][:0], form), form)
        rows = self.classes[label]
        before, room = len(rows), rows.room
        slot = rows.put(x, self.cap)
        self._held += len(rows) - before
        sketches = self._sketches.get(label)
        if sketches is not None:
            if rows.room > room:
                sketches.grow(rows.room)
            sketches.put(slot, x)

    def __len__(self) -> int:
        return self._held

    @property
    def nbytes(self) -> int:
        """Bytes held in memory for rows, spare room, sketches and the basis."""
        basis = self._basis.nbytes if self._basis else 0
        return basis + sum(kept.nbytes for kept in (*self.classes.values(), *self._sketches.values()))

    def _current(self, wanted: int) -> Basis | None:
        """The basis, fitted anew when the client's rows have multiplied since; none is made before it is wanted."""
        if wanted <= FIRST_FIT:
            return self._basis
        if self._basis is None or self._held >= REFIT * self._basis.fitted_on:
            step = -(-self._held // SAMPLE)
            sample = np.concatenate([rows.exact(slice(None, None, step)) for rows in self.classes.values()])
            self._basis = Basis.fit(sample[:SAMPLE], self._held)
        return self._basis
