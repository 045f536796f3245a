"""Building the sum of steps from counterexamples: points where the copy errs, each led to a step that is missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.core.types import Array
from portcullis_ml.extraction._cells import Cells
from portcullis_ml.extraction._grid import GameOver, Ints
from portcullis_ml.extraction._lines import Changes, Known
from portcullis_ml.extraction._stairs import Stairs, lower, shrink
from portcullis_ml.extraction._sums import Sums

__all__ = ["Builder"]

FIRST = 256  # new points of the first test
MOST = 4096  # of a later one
BATCH = (16, 512)  # counterexamples followed at a time: about twice the steps that the last batch brought
SHARE = 0.2  # of the bill goes to new points at least; where the game ends early, they are what there is to learn from
POOL = 20_000  # counterexamples kept at most


class Builder:
    """stairs is the copy so far; complete once `checks` new points in a row agree with it."""

    def __init__(self, sums: Sums, known: Known, rng: np.random.Generator, width: int) -> None:
        self.sums, self.known, self.rng = sums, known, rng
        self.cells = Cells(sums.grid, known)
        self.bill = {"lines": sums.harvest.paid, "sizes": 0, "tests": 0, "inputs": 0, "places": 0}
        self.complete = False
        self.drawn: list[Ints] = []  # which rows of the harvest were new points
        self._pool, self._left = np.empty((0, sums.grid.d), np.int64), np.empty((0, width))
        self._noise = np.empty(0)
        self._wrong_share, self._tested, self._stage = 1.0, 0, "lines"

    def run(self, bases: Ints, line: Ints, changes: Changes, checks: int) -> None:
        """From the changes on lines (n, 2) through bases (m, d) until complete, or until the game ends. The base with
        the fewest changes becomes the anchor: its neighbourhood is the simplest, and so is the sum seen from there."""
        owner, feature = line[changes.line].T
        base = np.bincount(owner, minlength=len(bases)).argmin()
        anchor = bases[base]
        self.stairs = Stairs(self.sums.grid, anchor, self._left.shape[1])
        j, at = feature[owner == base], changes.at[owner == base]
        first = np.tile(anchor, (len(at) + 1, 1))
        first[np.arange(len(at)), j] = np.where(at >= anchor[j], at + 1, at)
        try:
            self._add(self._with_categories(first, j))
            self._loop(checks)
        except GameOver:
            pass

    def _loop(self, checks: int) -> None:
        clean, size, gained = 0, FIRST, BATCH[1]
        while clean < checks:
            want = int(np.clip(2 * gained, *BATCH))
            picks = self._pick(want)
            if len(picks) < want // 2 or sum(map(len, self.drawn)) < SHARE * self.sums.harvest.paid:
                size = min(size, checks - clean) if not len(picks) else size
                wrong = self._test(size)
                clean = 0 if wrong or len(picks) else clean + size
                size = int(np.clip(size * (2 if wrong < want else 0.5), FIRST // 4, MOST))
                picks = self._pick(want)
            if len(picks):
                clean = 0
                gained = self._follow(picks)
        self.complete = True

    def notes(self) -> dict[str, Any]:
        """The attack's notes about its result."""
        return {
            "bill": self.bill,
            "complete": self.complete,
            "steps": len(self.stairs),
            "unexplained": self._wrong_share,  # of the last new points that were tested
            "tested": self._tested,
        }

    def _ask(self, points: Ints) -> tuple[Array, Array]:
        """(n, k) what the copy lacks there, (n,) noise; every row that the copy has wrong is kept."""
        paid = self.sums.harvest.paid
        try:
            answered, noise = self.sums.ask(points)
        finally:
            self.bill[self._stage] += self.sums.harvest.paid - paid
        left = answered - self.stairs.sums(points)
        bad = np.abs(left).max(axis=1) > noise
        self._pool = np.concatenate([self._pool, points[bad]])
        self._left, self._noise = np.concatenate([self._left, left[bad]]), np.concatenate([self._noise, noise[bad]])
        return left, noise

    def _wrong(self, points: Ints) -> Ints:
        left, noise = self._ask(points)
        return np.asarray(np.abs(left).max(axis=1) > noise, np.int64)

    def _test(self, size: int) -> int:
        """How many of as many new points the copy has wrong."""
        self._stage = "tests"
        half = size // 2
        points = np.concatenate([self.sums.grid.uniform(size - half, self.rng), self.cells.draw(half, self.rng)])
        start = len(self.sums.harvest)
        try:
            wrong = int(self._wrong(points).sum())
        finally:
            self.drawn.append(np.arange(start, len(self.sums.harvest)))
        self._wrong_share, self._tested = wrong / size, size
        return wrong

    def _pick(self, most: int) -> Ints:
        """Up to `most` counterexamples, nearest to the anchor first; of those that lack the same, one."""
        if not len(self._pool):
            return self._pool
        size = (self._pool != self.stairs.anchor).sum(axis=1) + self.rng.random(len(self._pool))
        order = np.argsort(size)[:POOL]
        self._pool, self._left, self._noise = self._pool[order], self._left[order], self._noise[order]
        _, first = np.unique(np.round(self._left / self._noise[:, None]) + 0.0, axis=0, return_index=True)
        return self._pool[np.sort(first)[:most]]

    def _follow(self, points: Ints) -> int:
        """Lead counterexamples to the steps that are missing; how many those were."""
        self._stage = "inputs"
        points = shrink(self._wrong, points, self.stairs.anchor, self.rng)
        self._stage = "places"
        return self._add(np.unique(lower(self._wrong, points, self.stairs, self.known, self.rng), axis=0))

    def _add(self, points: Ints) -> int:
        """Measure what is missing at points (u, d), all different, and make steps of it."""
        self._stage = "sizes"
        left, noise = self._ask(points)
        added = self.stairs.missing(points, left, noise)
        self.stairs.take(added.points, added.coef)
        self._left = self._left - added.sums(self._pool)
        bad = np.abs(self._left).max(axis=1, initial=0) > self._noise
        self._pool, self._left, self._noise = self._pool[bad], self._left[bad], self._noise[bad]
        return len(added)

    def _with_categories(self, points: Ints, features: Ints) -> Ints:
        """Points of one step each; for a category that matters, every code in place of places in a row of codes."""
        numeric, anchor = self.sums.grid.numeric, self.stairs.anchor
        points = points[(points == anchor)[:, ~numeric].all(axis=1)]
        codes = [
            np.where(np.arange(len(anchor)) == j, code, anchor)
            for j in np.unique(features[~numeric[features]])
            for code in range(self.sums.grid.last[j] + 1)
        ]
        return np.unique(np.concatenate([points, *(c[None] for c in codes)]), axis=0)
