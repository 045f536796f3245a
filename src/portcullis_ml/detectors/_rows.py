"""The rows of one class, kept in the narrowest form that holds them, and squared distances to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.types import Array, Interface
from portcullis_ml.detectors._forms import FORMS, decode, encode, stored

__all__ = ["StoredRows", "longer", "needing_distances", "squares"]


D = TypeVar("D")


def needing_distances(detector: D, interface: Interface) -> D:
    """The detector, where rows are numbers between which there are distances. NotApplicable for an API of texts."""
    if interface.text:
        name = getattr(detector, "name", "")
        raise NotApplicable(
            f"{name} needs distances between rows of numbers; this API takes texts. Try low_confidence."
        )
    return detector


def squares(rows: Array, x: Array) -> Array:
    """(m,) squared distances. The sum along a contiguous last axis is the same for one row and for many."""
    away = rows - x
    return np.asarray((away * away).sum(axis=1))


def longer(rows: NDArray[Any], room: int) -> NDArray[Any]:
    """A copy with room for so many; what is beyond the given rows is not set."""
    grown = np.empty((room, *rows.shape[1:]), rows.dtype)
    grown[: len(rows)] = rows
    return grown


@dataclass
class StoredRows:
    """The rows of one class: `values` (n, d) in `form`, `added` so far, the newest over the oldest beyond the cap."""

    values: NDArray[Any]
    form: str
    added: int = 0
    buffer: NDArray[Any] = field(init=False, repr=False, compare=False)  # (room, d), of which values are the first

    def __post_init__(self) -> None:
        self.buffer = self.values

    def __len__(self) -> int:
        return len(self.values)

    @property
    def room(self) -> int:
        return len(self.buffer)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, spare room included."""
        return self.buffer.nbytes

    def exact(self, which: Any = slice(None)) -> Array:
        """(m, d) float64: the rows as they came."""
        return decode(self.values[which], self.form)

    def put(self, x: Array, cap: int) -> int:
        """Keep x (d,), in the place of the oldest row once there are `cap` of them; returns that place."""
        row = encode(x, self.form)
        if row is None:
            row = self._widen(x)
        slot = self.added % cap
        if slot == len(self.values) == self.room:
            room = min(cap, slot + max(8, slot // 8))  # an eighth to spare: memory matters more than copies
            self.buffer = longer(self.buffer, room)
        self.buffer[slot] = row
        self.added += 1
        self.values = self.buffer[: min(self.added, cap)]
        return slot

    def _widen(self, x: Array) -> NDArray[Any]:
        """x in the next form that holds it and every row so far; the rows are moved to that form."""
        rows = self.exact()
        wider = FORMS[FORMS.index(self.form) + 1 :]
        self.form = next(f for f in wider if encode(rows, f) is not None and encode(x, f) is not None)
        self.values = stored(rows, self.form)
        self.buffer = longer(self.values, self.room)
        return stored(x, self.form)
