"""Searches along axis-parallel lines for the places where the answer changes, all lines at once, one batch a level.

A threshold t lies between the positions t and t + 1. A threshold that one line has shown is where the others look
first, so that a tree's threshold is paid for in full once and costs a probe on either side wherever it is met again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.extraction._grid import Ints

__all__ = ["Asker", "Changes", "Known", "first_difference", "search"]

Asker = Callable[[Ints], Ints]  # (n, d) positions -> (n,) identities, or GameOver
SHIFT = 40  # bits of a position


@dataclass
class Known:
    """The thresholds seen so far, of all features."""

    keys: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, feature: Ints, position: Ints) -> None:
        self.keys = np.union1d(self.keys, (feature << SHIFT) + position)

    def of(self, feature: int) -> Ints:
        """(k,) the sorted thresholds of one feature."""
        return np.asarray(self.keys[self.keys >> SHIFT == feature] - (feature << SHIFT))

    def middle(self, feature: Ints, a: Ints, b: Ints) -> Ints:
        """(s,) where to cut the stretches a .. b: at the middle one of the thresholds known there, else halfway."""
        base = feature << SHIFT
        first, end = np.searchsorted(self.keys, base + a), np.searchsorted(self.keys, base + b)
        if not len(self.keys):
            return (a + b) // 2
        candidate = self.keys[np.minimum((first + end) // 2, len(self.keys) - 1)] - base
        return np.where(end > first, np.where(candidate == a, a + 1, candidate), (a + b) // 2)


@dataclass(frozen=True)
class Changes:
    """Where the answer changes: on line (k,), between at and at + 1, from identity `before` to `after`.
    probe_* hold every position that was asked on the way: line, position, identity."""

    line: Ints
    at: Ints
    before: Ints
    after: Ints
    probe_line: Ints
    probe_at: Ints
    probe_id: Ints

    @classmethod
    def joined(cls, parts: list[Changes], lines: list[int]) -> Changes:
        """Of several searches, each along so many lines, numbered on."""
        first = np.cumsum([0, *lines[:-1]])
        moved = [(c.line + n, c.at, c.before, c.after, c.probe_line + n, c.probe_at, c.probe_id)
                 for c, n in zip(parts, first, strict=True)]  # fmt: skip
        return cls(*(np.concatenate(column) for column in zip(*moved, strict=True)))


def search(
    ask: Asker,
    points: Ints,
    feature: Ints,
    stretches: tuple[Ints, Ints, Ints, Ints, Ints],
    known: Known,
    own: Ints | None = None,
    keep: NDArray[np.bool_] | None = None,
) -> Changes:
    """Halve stretches (line, a, b, identity at a, at b), each (s,), of the lines through points (n, d) along
    feature (n,). A stretch with one answer at both ends is taken to be constant. With own (n,), only the edges of
    that identity's region are looked for. keep (n,) false leaves a line's thresholds out of `known`."""
    done: list[tuple[Ints, ...]] = []
    probes: list[tuple[Ints, ...]] = []
    line, a, b, id_a, id_b = stretches
    while True:
        differ = id_a != id_b
        if own is not None:
            differ &= (id_a == own[line]) | (id_b == own[line])
        ends = differ & (b - a == 1)
        if ends.any():
            done.append((line[ends], a[ends], id_a[ends], id_b[ends]))
            sure = ends if keep is None else ends & keep[line]
            known.add(feature[line[sure]], a[sure])
        live = differ & ~ends
        line, a, b, id_a, id_b = line[live], a[live], b[live], id_a[live], id_b[live]
        if not len(line):
            break
        middle = known.middle(feature[line], a, b)
        at = points[line]
        at[np.arange(len(line)), feature[line]] = middle
        id_m = ask(at)
        probes.append((line, middle, id_m))
        line, a, b = np.tile(line, 2), np.concatenate([a, middle]), np.concatenate([middle, b])
        id_a, id_b = np.concatenate([id_a, id_m]), np.concatenate([id_m, id_b])
    empty = (np.empty(0, np.int64),) * 4
    found = [np.concatenate(column) for column in zip(*done, strict=True)] if done else empty
    seen = [np.concatenate(column) for column in zip(*probes, strict=True)] if probes else empty[:3]
    order = np.lexsort((found[1], found[0]))
    return Changes(*(column[order] for column in found), *seen)


def first_difference(ask: Asker, near: Ints, far: Ints, own: Ints, order: Ints) -> tuple[Ints, Ints]:
    """Which feature makes the difference between near and far (n, d), whose identities differ, near's being own (n,).

    Features are moved from near to far in the `order` (n, d) given; halving the order finds a feature (n,) and the
    point (n, d) before it moves, which has the identity `own` and loses it with that move. Features that are the
    same at both ends cost nothing.
    """
    n, d = near.shape
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.tile(np.arange(d), (n, 1)), axis=1)
    differs = near != far
    # Places are counted among the features that differ, so that a feature that does not is never chosen.
    ordered = np.take_along_axis(differs, order, axis=1)
    place = np.take_along_axis(np.cumsum(ordered, axis=1), rank, axis=1) - 1
    low, high = np.zeros(n, np.int64), differs.sum(axis=1)

    def mixed(rows: Ints, count: Ints) -> Ints:
        return np.where(differs[rows] & (place[rows] < count[:, None]), far[rows], near[rows])

    while (high - low > 1).any():
        rows = np.flatnonzero(high - low > 1)
        middle = (low[rows] + high[rows]) // 2
        same = ask(mixed(rows, middle)) == own[rows]
        low[rows[same]], high[rows[~same]] = middle[same], middle[~same]
    feature = np.asarray((differs & (place == low[:, None])).argmax(axis=1))
    return feature, mixed(np.arange(n), low)
