"""Boxes of a grid and how to split them until each holds one answer: the machine behind top-down path finding.

A box has a representative in its low corner whose answer is known. If the first split of the tree inside the box is on
a number, the low and the high corner are on either side of it; if it is on a category, so are the representative and
one of the points that take each category in turn. So a handful of further points tells a leaf from an inner node, and
where one answers differently, halving the way there names a feature, and a line search its threshold. An input that
the representative omits is moved from omitted to given in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.extraction._grid import OMITTED, GameOver, Grid, Ints
from portcullis_ml.extraction._lines import Asker, Changes, Known, first_difference, search

__all__ = ["Box", "Splitter", "merged"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Box:
    """low, high (d,) positions, both inside; allowed {column: (k,)} the categories; point (d,) whose answer is `number`
    (None where nobody has asked yet, and then `guess` is what the box that it was cut from answered)."""

    low: Ints
    high: Ints
    allowed: dict[int, Mask]
    point: Ints
    number: int | None = None
    guess: int | None = None

    @classmethod
    def whole(cls, grid: Grid, point: Ints) -> Box:
        allowed = {int(j): np.ones(grid.categories[j], bool) for j in np.flatnonzero(grid.categories)}
        return cls(np.zeros(grid.d, np.int64), grid.last.copy(), allowed, point)

    def contains(self, points: Ints) -> Mask:
        """(n,)"""
        inside = ((points >= self.low) & (points <= self.high)).all(axis=1)
        for j, mask in self.allowed.items():
            inside &= mask[points[:, j]]
        return np.asarray(inside)

    def within(self, j: int, low: int, high: int) -> Box:
        """The part where number j is in low .. high; the answer is kept where the point is inside."""
        edges = self.low.copy(), self.high.copy()
        edges[0][j], edges[1][j] = low, high
        part = replace(self, low=edges[0], high=edges[1])
        return part if low <= self.point[j] <= high else part.at(j, low)

    def among(self, j: int, mask: Mask) -> Box:
        """The part where category j is one of these."""
        part = replace(self, allowed=self.allowed | {j: mask})
        return part if self.point[j] != OMITTED and mask[self.point[j]] else part.at(j, int(mask.argmax()))

    def at(self, j: int, position: int, number: int | None = None) -> Box:
        """The same box seen from its point with input j set."""
        point = self.point.copy()
        point[j] = position
        return replace(self, point=point, number=number, guess=self.guess if self.number is None else self.number)

    def cornered(self) -> Box:
        """The same box, to be looked at from its low corner."""
        point = self.low.copy()
        for j, mask in self.allowed.items():
            point[j] = mask.argmax()
        return replace(self, point=point, number=None, guess=self.number)

    def settled(self) -> Box:
        """The same box with the guess for its answer, where nobody has asked."""
        return replace(self, number=self.guess) if self.number is None else self

    def tests(self, probes: int, rng: np.random.Generator) -> Ints:
        """(t, d) the opposite corner, every category in turn, and so many random points; all inputs given."""
        given = self.point != OMITTED
        open_ = [mask for j, mask in self.allowed.items() if given[j]]
        turns = max([2, *(int(mask.sum()) for mask in open_)]) - 1
        points = rng.integers(self.low, self.high + 1, size=(turns + probes, len(self.low)))
        points[:turns, given] = self.high[given]
        for j, mask in self.allowed.items():
            codes = np.flatnonzero(mask)
            points[:, j] = rng.choice(codes, size=len(points))
            if given[j]:
                after = int(np.searchsorted(codes, self.point[j])) + 1
                points[:turns, j] = codes[(after + np.arange(turns)) % len(codes)]
        return np.asarray(points[(points != self.point).any(axis=1)])


@dataclass
class Splitter:
    """Splits boxes until no test tells two parts of one apart. `open` and `leaves` are what there is at any time."""

    ask: Asker
    grid: Grid
    rng: np.random.Generator
    probes: int
    known: Known
    leaves: list[Box] = field(default_factory=list)
    open: list[Box] = field(default_factory=list)

    def run(self) -> None:
        """All open boxes advance together. On GameOver the parts that were found stay, coarse where unfinished."""
        while self.open:
            self._look()
            if not self.open:
                return
            boxes, self.open = self.open, []
            try:
                parts = list(self._split(boxes))
            except GameOver:
                self.open = boxes
                raise
            self.open = parts

    def _look(self) -> None:
        """Ask the points of new boxes, test all, move those that pass to the leaves; the others keep a witness."""
        fresh = [i for i, box in enumerate(self.open) if box.number is None]
        numbers = self.ask(np.array([self.open[i].point for i in fresh], np.int64).reshape(-1, self.grid.d))
        for i, number in zip(fresh, numbers, strict=True):
            self.open[i] = replace(self.open[i], number=int(number))
        tests = [box.tests(self.probes, self.rng) for box in self.open]
        numbers = self.ask(np.concatenate(tests))
        cuts = np.cumsum([len(t) for t in tests])[:-1]
        self._witness: list[Ints] = []
        still = []
        for box, points, seen in zip(self.open, tests, np.split(numbers, cuts), strict=True):
            differs = np.flatnonzero(seen != box.number)
            if len(differs):
                still.append(box)
                self._witness.append(points[differs[0]])
            else:
                self.leaves.append(box)
        self.open = still

    def _split(self, boxes: list[Box]) -> Iterator[Box]:
        near = np.array([box.point for box in boxes])
        own = np.array([box.number for box in boxes], np.int64)
        feature, context = first_difference(self.ask, near, np.array(self._witness), own, self._order(near))
        hidden = near[np.arange(len(boxes)), feature] != OMITTED
        context = np.where(hidden[:, None], context, near)
        numeric = self.grid.numeric[feature]
        rows = np.flatnonzero(numeric)
        yield from self._cut([boxes[i] for i in rows], feature[rows], context[rows], own[rows], hidden[rows], rows)
        rows = np.flatnonzero(~numeric)
        yield from self._group([boxes[i] for i in rows], feature[rows], context[rows])

    def _order(self, near: Ints) -> Ints:
        """(n, d) inputs that are given come before those that are omitted, each kind at random."""
        keys = self.rng.random(near.shape) + (near == OMITTED)
        return np.argsort(keys, axis=1)

    def _cut(
        self, boxes: list[Box], feature: Ints, context: Ints, own: Ints, hidden: Mask, rows: Ints
    ) -> Iterator[Box]:
        """Two parts of each box, on either side of a threshold of a number."""
        if not boxes:
            return
        far = np.array([self._witness[i][j] for i, j in zip(rows, feature, strict=True)])
        a, number, found = self._thresholds(boxes, feature, context, own, hidden, far)
        place = {int(line): k for k, line in reversed(list(enumerate(found.line)))}
        for i, (box, j) in enumerate(zip(boxes, feature.tolist(), strict=True)):
            if i not in place:  # the input counts, yet both its ends answer alike: one part, seen with it given
                yield box.at(j, int(a[i]), int(number[i]))
                continue
            t, after = int(found.at[place[i]]), int(found.after[place[i]])
            left, right = box.within(j, int(box.low[j]), t), box.within(j, t + 1, int(box.high[j]))
            if hidden[i]:
                yield from (left, right)
            else:
                yield left.at(j, int(a[i]), int(number[i]))
                yield right.at(j, t + 1, after)

    def _thresholds(
        self, boxes: list[Box], feature: Ints, context: Ints, own: Ints, hidden: Mask, far: Ints
    ) -> tuple[Ints, Ints, Changes]:
        """Where each search starts (n,), what is answered there (n,), and the first change from it. An input given
        already is moved from the point's value to the witness's, an omitted one from end to end of its range."""
        n, new = np.arange(len(boxes)), np.flatnonzero(~hidden)
        pairs = list(zip(boxes, feature, strict=True))
        a = np.where(hidden, [box.point[j] for box, j in pairs], [box.low[j] for box, j in pairs])
        b = np.where(hidden, far, [box.high[j] for box, j in pairs])
        ends = np.concatenate([context[new], context[new]])
        ends[np.arange(len(ends)), np.tile(feature[new], 2)] = np.concatenate([a[new], b[new]])
        id_a, id_b = own.copy(), np.full(len(n), -1)  # -1: some other than its own
        id_a[new], id_b[new] = self.ask(ends).reshape(2, -1)
        low, high, back = np.minimum(a, b), np.maximum(a, b), a > b
        stretches = (n, low, high, np.where(back, id_b, id_a), np.where(back, id_a, id_b))
        return a, id_a, search(self.ask, context, feature, stretches, self.known, id_a)

    def _group(self, boxes: list[Box], feature: Ints, context: Ints) -> Iterator[Box]:
        """A part of each box for every set of categories that answer alike."""
        codes = [np.flatnonzero(box.allowed[int(j)]) for box, j in zip(boxes, feature, strict=True)]
        lengths = [len(c) for c in codes]
        points = np.repeat(context, lengths, axis=0)
        points[np.arange(len(points)), np.repeat(feature, lengths)] = np.concatenate([[], *codes]).astype(np.int64)
        numbers = np.split(self.ask(points), np.cumsum(lengths)[:-1])
        for box, j, at, values, seen in zip(boxes, feature.tolist(), context, codes, numbers, strict=False):
            here = at.copy()
            here[j] = box.point[j]
            for number in np.unique(seen):
                mask = np.zeros_like(box.allowed[j])
                mask[values[seen == number]] = True
                part = box.among(j, mask)
                known = part.number is None and (here == box.point).all()
                yield replace(part, number=int(number)) if known else part


def merged(boxes: list[Box]) -> list[Box]:
    """Boxes of one answer that together fill a box, made one. No query."""
    stacks: dict[int | None, list[Box]] = {}
    for box in boxes:
        stacks.setdefault(box.number, []).append(box)
    return [box for stack in stacks.values() for box in _paired(_filled(stack))]


def _paired(stack: list[Box]) -> list[Box]:
    """Boxes of one answer, any two that differ along one input only, and touch there, made one."""
    before = -1
    while 1 < len(stack) != before:
        before = len(stack)
        for j in range(len(stack[0].low)):
            stack = _merged_along(stack, j)
    return stack


def _filled(stack: list[Box]) -> list[Box]:
    """The box around disjoint ones in their place, if they leave nothing of it out."""
    if len(stack) == 1:
        return stack
    low, high = np.min([b.low for b in stack], axis=0), np.max([b.high for b in stack], axis=0)
    allowed = {j: np.any([b.allowed[j] for b in stack], axis=0) for j in stack[0].allowed}
    around = replace(stack[0], low=low, high=high, allowed=allowed)
    return [around] if sum(map(_volume, stack)) == _volume(around) else stack


def _volume(box: Box) -> int:
    """Grid points inside, exactly."""
    sizes = box.high - box.low + 1
    for j, mask in box.allowed.items():
        sizes[j] = mask.sum()
    return math.prod(sizes.tolist())


def _merged_along(boxes: list[Box], j: int) -> list[Box]:
    """Boxes that differ along input j only, and touch there, made one."""
    stacks: dict[tuple[object, ...], list[Box]] = {}
    for box in boxes:
        edges = np.stack([box.low, box.high])
        edges[:, j] = 0
        masks = tuple(mask.tobytes() for column, mask in box.allowed.items() if column != j)
        stacks.setdefault((edges.tobytes(), *masks), []).append(box)
    result = []
    for stack in stacks.values():
        stack.sort(key=lambda box: int(box.low[j]))
        run = stack[0]
        for box in stack[1:]:
            if j in run.allowed:
                run = replace(run, allowed=run.allowed | {j: run.allowed[j] | box.allowed[j]})
            elif run.high[j] + 1 >= box.low[j]:
                run = replace(run, high=np.maximum(run.high, box.high))
            else:
                result.append(run)
                run = box
        result.append(run)
    return result
