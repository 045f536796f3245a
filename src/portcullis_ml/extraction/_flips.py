"""Thresholds from labels: between two points of different labels one threshold decides, and halving finds it."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.extraction._cells import Cells
from portcullis_ml.extraction._grid import GameOver, Grid, Ints
from portcullis_ml.extraction._lines import Known, first_difference, search

__all__ = ["Flips"]

ROUNDS = 10  # among which the budget is divided
SEARCHES = 0.5  # of the budget for searches, the rest for new points


class Flips:
    """Spends a budget on random points, and on the way between those whose labels differ."""

    def __init__(self, harvest: Harvest, grid: Grid, known: Known, rng: np.random.Generator) -> None:
        self.harvest, self.known, self.rng = harvest, known, rng
        self.cells = Cells(grid, known)
        self.bill = {"points": 0, "searches": 0}

    def run(self, budget: int) -> None:
        """Until about so many queries are spent, or the game is over."""
        step, end = max(2, budget // ROUNDS), self.harvest.paid + budget
        try:
            while self.harvest.open and self.harvest.paid < end:
                self._round(step)
        except GameOver:
            pass
        self.bill["searches"] = self.harvest.paid - self.bill["points"]

    def _round(self, step: int) -> None:
        n = min(self.harvest.left, max(2, round((1 - SEARCHES) * step)))
        points = np.concatenate([self.cells.grid.uniform(n - n // 2, self.rng), self.cells.draw(n // 2, self.rng)])
        paid = self.harvest.paid
        try:
            labels = self._ask(points)
        finally:
            self.bill["points"] += self.harvest.paid - paid
        end = self.harvest.paid + round(SEARCHES * step)
        while self.harvest.paid < end and self.harvest.open:
            a, b = self.rng.integers(len(points), size=(2, max(8, (end - self.harvest.paid) // 40)))
            differ = labels[a] != labels[b]
            if not differ.any():
                return
            self._search(points[a[differ]], points[b[differ]], labels[a[differ]])

    def _ask(self, points: Ints) -> Ints:
        answer = self.harvest.ask(self.cells.grid.values(points))
        if len(answer) < len(points) or answer.labels is None or (answer.labels < 0).any():
            raise GameOver
        return answer.labels

    def _search(self, near: Ints, far: Ints, own: Ints) -> None:
        """One threshold on the way from each of near (n, d), of label own (n,), to far."""
        order = np.argsort(self.rng.random(near.shape), axis=1)
        feature, context = first_difference(self._ask, near, far, own, order)
        n = np.arange(len(near))
        number = self.cells.grid.numeric[feature]
        rows, feature = n[number], feature[number]
        if not len(rows):
            return
        context = context[rows]
        here, there = context[np.arange(len(rows)), feature], far[rows, feature]
        ends = np.where(here < there, own[rows], -1), np.where(here < there, -1, own[rows])
        m = np.arange(len(rows))
        stretches = (m, np.minimum(here, there), np.maximum(here, there), *ends)
        search(self._ask, context, feature, stretches, self.known, own[rows])
