"""From leaf to leaf: the box of each by line searches, and what is seen behind its walls as the next to visit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from portcullis_ml.extraction._grid import Grid, Ints
from portcullis_ml.extraction._lines import Asker, Changes, Known, search
from portcullis_ml.extraction._splitting import Box

__all__ = ["Climber", "outside"]


@dataclass
class Climber:
    """Visits every leaf. All inputs of all leaves in sight are searched together; of an answer that several boxes have
    shown so far, half as many places are visited at once, since each may be another leaf."""

    ask: Asker
    grid: Grid
    known: Known
    rng: np.random.Generator
    leaves: list[Box] = field(default_factory=list)
    unfinished: list[Box] = field(default_factory=list)
    _boxes_of: Counter[int] = field(default_factory=Counter)

    def run(self, points: Ints) -> None:
        """From these places (n, d) to all that can be seen from them."""
        numbers = self.ask(points)
        while len(points):
            wave = self._wave(numbers)
            self.unfinished = [self._seen_from(points[i], numbers[i]) for i in wave]
            boxes, places, their_numbers = self._expand(points[wave], numbers[wave])
            self.unfinished = []
            places, their_numbers = _uncovered(places, their_numbers, self.leaves)
            self.leaves += boxes
            self._boxes_of.update(int(box.number) for box in boxes if box.number is not None)
            points, numbers = np.concatenate([points, places]), np.concatenate([numbers, their_numbers])
            points, numbers = _uncovered(points, numbers, boxes)

    def _seen_from(self, point: Ints, number: int) -> Box:
        """The box known before any search: the point itself."""
        box = Box.whole(self.grid, point)
        masks = {j: np.arange(len(mask)) == point[j] for j, mask in box.allowed.items()}
        return replace(box, low=point, high=point, allowed=masks, number=int(number))

    def _wave(self, numbers: Ints) -> Ints:
        """Which of the places in sight to visit now."""
        order = self.rng.permutation(len(numbers))
        taken: dict[int, int] = {}
        wave = []
        for i in order:
            number = int(numbers[i])
            if taken.get(number, 0) <= self._boxes_of[number] // 2:
                taken[number] = taken.get(number, 0) + 1
                wave.append(i)
        return np.array(wave, np.int64)

    def _expand(self, points: Ints, numbers: Ints) -> tuple[list[Box], Ints, Ints]:
        """The box around each point (n, d), and points behind its walls with their answers."""
        boxes = [replace(Box.whole(self.grid, p), number=int(i)) for p, i in zip(points, numbers, strict=True)]
        lines, seen_line, seen_at, seen_id, found = self._search(points, numbers)
        owner, feature = lines
        for line, at, before, after in zip(found.line, found.at, found.before, found.after, strict=True):
            box, j = boxes[owner[line]], int(feature[line])
            if before == box.number and at >= box.point[j]:
                box.high[j] = min(box.high[j], at)
            elif after == box.number and at < box.point[j]:
                box.low[j] = max(box.low[j], at + 1)
        categorical = ~self.grid.numeric[feature[seen_line]]
        other = seen_id != numbers[owner[seen_line]]
        for line, at in zip(seen_line[categorical & other], seen_at[categorical & other], strict=True):
            boxes[owner[line]].allowed[int(feature[line])][at] = False
        # One place for every answer seen on a line is enough.
        _, first = np.unique(np.stack([seen_line, seen_id])[:, other], axis=1, return_index=True)
        chosen = np.flatnonzero(other)[first]
        places = points[owner[seen_line[chosen]]]
        places[np.arange(len(places)), feature[seen_line[chosen]]] = seen_at[chosen]
        return boxes, places, seen_id[chosen]

    def _search(self, points: Ints, numbers: Ints) -> tuple[tuple[Ints, Ints], Ints, Ints, Ints, Changes]:
        """((point, feature) of every line, what was asked on them (line, position, answer), the changes found)."""
        grid = self.grid
        varying = np.flatnonzero(grid.last > 0)
        owner, feature = np.repeat(np.arange(len(points)), len(varying)), np.tile(varying, len(points))
        own, here, last = numbers[owner], points[owner, feature], grid.last[feature]
        # First the ends of every number and all values of every category but the one that is known.
        counts = np.where(grid.numeric[feature], 2, last + 1)
        line = np.repeat(np.arange(len(owner)), counts)
        at = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.where(grid.numeric[feature[line]], at * last[line], at)
        line, at = line[at != here[line]], at[at != here[line]]
        asked = points[owner[line]]
        asked[np.arange(len(line)), feature[line]] = at
        ids = self.ask(asked)
        number = grid.numeric[feature[line]]
        left = at < here[line]
        a, b = np.where(left, at, here[line]), np.where(left, here[line], at)
        id_a, id_b = np.where(left, ids, own[line]), np.where(left, own[line], ids)
        stretches = (line[number], a[number], b[number], id_a[number], id_b[number])
        found = search(self.ask, points[owner], feature, stretches, self.known, own)
        return (
            (owner, feature),
            np.concatenate([line, found.probe_line]),
            np.concatenate([at, found.probe_at]),
            np.concatenate([ids, found.probe_id]),
            found,
        )


def outside(points: Ints, boxes: list[Box]) -> Ints:
    """Those of the points (n, d) that are in no box at all."""
    covered = np.zeros(len(points), bool)
    for box in boxes:
        covered |= box.contains(points)
    return points[~covered]


def _uncovered(points: Ints, numbers: Ints, boxes: list[Box]) -> tuple[Ints, Ints]:
    """The places (n, d) that no box of the same answer covers."""
    covered = np.zeros(len(points), bool)
    in_sight = set(numbers.tolist())
    for box in boxes:
        if box.number in in_sight:
            same = np.flatnonzero((numbers == box.number) & ~covered)
            covered[same] = box.contains(points[same])
    return points[~covered], numbers[~covered]
