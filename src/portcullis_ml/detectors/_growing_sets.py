"""What both PRADA detectors remember of a client: a growing set of differing queries for every class.

Juuti, Szyller, Marchal, Asokan. "PRADA: Protecting Against DNN Model Stealing Attacks", arXiv v1 and
EuroS&P 2019, section 5.1, Algorithm 1.

A query joins the set of its class when its distance to the nearest member is above the class's
threshold; the threshold is the greatest value so far of mean minus standard deviation of the
distances at which members joined. That list of distances begins with a 0: begun empty, the first
distance would become the threshold and freeze the set at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.randomness import canonical
from portcullis_ml.core.types import Answer, Array, Request
from portcullis_ml.detectors._compiled import questions
from portcullis_ml.detectors._nearest import Nearest

__all__ = ["GrowingSets", "Joining", "Seen", "rows_by_class"]


Question = bytes | memoryview  # what `canonical` returns


def rows_by_class(request: Request, answer: Answer) -> Iterator[tuple[Array, int, Question]]:
    """(row, predicted class, canonical question) of every row; an omitted input (NaN) is measured as 0.

    All rows of a regression are of one class.

    Inputs beyond 1e100 are cut, so that no distance overflows: an infinite one would leave the mean infinite for ever.
    """
    labels = [0] * len(request) if answer.labels is None else answer.labels.tolist()
    rows = np.ascontiguousarray(request.x, np.float64)
    if rows.ndim != 2:
        rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    asked: Sequence[Question] | None = questions(rows)
    if asked is None:
        if not np.vdot(rows, rows) < 1e200:  # one number is far cheaper than a look at each; a NaN is not below
            rows = np.clip(np.where(np.isnan(rows), 0.0, rows), -1e100, 1e100)
        asked = canonical(rows)
    return zip(rows, labels, asked, strict=True)


@dataclass
class Joining:
    """Distances at which members joined one class, in three numbers, and the threshold that follows from them."""

    count: int = 1  # the list begins with a single 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean
    threshold: float = 0.0

    def append(self, distance: float) -> None:
        self.count += 1
        away = distance - self.mean
        self.mean += away / self.count
        self.squares += away * (distance - self.mean)
        self.threshold = max(self.threshold, self.mean - math.sqrt(self.squares / self.count))


@dataclass
class Seen:
    """The latest distinct questions, as 64-bit digests in a ring, so that a retry is not a new query.

    A table of marks for the low bits of the digests shows quickly that most new questions are new; a set of so many
    Python numbers would take ten times the memory. Marks of overwritten digests stay until the table is rebuilt.
    """

    room: int
    digests: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    added: int = 0
    _buffer: NDArray[np.uint64] = field(init=False, repr=False, compare=False)
    _marks: bytearray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._buffer = self.digests
        self._mark()

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self._buffer.nbytes + len(self._marks)

    def again(self, question: Question) -> bool:
        """Whether this question was seen before; it is remembered either way."""
        digest = int.from_bytes(hashlib.sha256(question).digest()[:8], "little")  # most processors have it built in
        if self._marks[digest & (len(self._marks) - 1)] and (self.digests == np.uint64(digest)).any():
            return True
        slot = self.added % self.room
        if slot == len(self.digests) == len(self._buffer):
            self._buffer = np.resize(self.digests, min(self.room, max(64, 2 * slot)))
            self._mark()
        elif slot == 0:
            self._mark()
        self._buffer[slot] = digest
        self._marks[digest & (len(self._marks) - 1)] = 1
        self.added += 1
        self.digests = self._buffer[: min(self.added, self.room)]
        return False

    def _mark(self) -> None:
        """Marks of what is in the ring: a power of two of them, at least eight times as many."""
        marks = np.zeros(8 << len(self._buffer).bit_length(), np.uint8)
        marks[(self.digests & np.uint64(len(marks) - 1)).astype(np.intp)] = 1
        self._marks = bytearray(marks)


@dataclass
class GrowingSets:
    """The sets of all classes, and how large they have become together."""

    near: Nearest
    joining: dict[int, Joining] = field(default_factory=dict)
    size: int = 0  # members ever, those that made way at the cap included

    def place(self, label: int, x: Array) -> float | None:
        """The distance of x (d,) to its class's set, which x joins if that is far; None for a class's first."""
        distance = self.near.distance(label, x)
        if distance is None:
            self.joining[label] = Joining()
        elif distance > self.joining[label].threshold:
            self.joining[label].append(distance)
        else:
            return distance
        self.near.add(label, x)
        self.size += 1
        return distance
