"""The cells that known thresholds make: drawing points from them, and a best copy where no exact one was found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.extraction._grid import Grid, Ints
from portcullis_ml.extraction._lines import Known
from portcullis_ml.extraction._stairs import Stairs
from portcullis_ml.extraction._sums import completed
from portcullis_ml.models.ranked import Ranks, fit_labels, fit_sums
from portcullis_ml.models.steps import Link, StepSum, linked, unlinked

__all__ = ["Cells", "best_of", "from_labels"]

SHARE = 0.2  # of the rows, to choose by
FEW = 20  # rows below which nothing is fitted
FAR = 20.0  # log-odds beyond which a fit does not care


@dataclass(frozen=True)
class Cells:
    grid: Grid
    known: Known

    def draw(self, n: int, rng: np.random.Generator) -> Ints:
        """(n, d) grid points, every cell between two neighbouring thresholds of an input equally likely."""
        points = self.grid.uniform(n, rng)
        for j in np.flatnonzero(self.grid.numeric):
            edges = np.concatenate([[-1], self.known.of(int(j)), [self.grid.last[j]]])
            cell = rng.integers(len(edges) - 1, size=n)
            points[:, j] = edges[cell] + 1 + np.floor(rng.random(n) * (edges[cell + 1] - edges[cell]))
        return points

    def spend(self, harvest: Harvest, pool: Array | None, rng: np.random.Generator) -> Ints:
        """Ask all that the harvest may still ask: as much as half of it from the pool where there is one, and of the
        rest half anywhere and half in the cells. Returns the rows of the harvest that this made."""
        start, total = len(harvest), harvest.left
        own = np.empty((0, *self.grid.input_shape))
        if pool is not None:
            own = pool[rng.permutation(len(pool))[: total // 2]]
        n = total - len(own)
        points = np.concatenate([self.grid.uniform(n - n // 2, rng), self.draw(n // 2, rng)])
        asked = np.concatenate([own, self.grid.values(points)])
        harvest.ask(asked[rng.permutation(len(asked))])
        return np.arange(start, len(harvest))

    def ranks(self) -> Ranks:
        columns: list[Array | None] = [None] * self.grid.d
        for j in np.flatnonzero(self.grid.numeric):
            at = self.known.of(int(j))
            columns[j] = self.grid.between(np.full(len(at), j), at)
        return Ranks(tuple(columns))


def from_labels(
    harvest: Harvest, cells: Cells, interface: Interface, trees: int, aside: Ints, rng: np.random.Generator
) -> Model:
    """Boosted trees on the cells, from everything that was answered with a label but the rows in `aside`."""
    labels = harvest.answer.labels
    assert labels is not None
    known = np.asarray(labels >= 0)
    known[aside] = False
    return fit_labels(
        cells.ranks(),
        harvest.x[known],
        labels[known],
        input_shape=interface.input_shape,
        n_classes=interface.n_classes,
        trees=trees,
        seed=int(rng.integers(2**31)),
    )


def best_of(
    harvest: Harvest, cells: Cells, stairs: Stairs, link: Link, *, fresh: Ints, trees: int, rng: np.random.Generator
) -> tuple[StepSum, dict[str, float]]:
    """The best, by mean error on `fresh` rows of the harvest that no fit has seen, of the steps alone or a constant,
    boosted trees on the cells, alone or on top of the steps, and boosted trees on the plain inputs, which need no
    threshold to be known; and the errors of all."""
    rows, sums = _learnable(harvest, fresh, link)
    if not len(rows):
        return stairs.model(link), {}
    order = rng.permutation(len(rows))
    cut = max(1, round(SHARE * len(order)))
    test, train = order[:cut], order[cut:]
    seed = int(rng.integers(2**31))
    empty, level = (Stairs(cells.grid, stairs.anchor, stairs.width) for _ in range(2))
    level.take(stairs.anchor[None], np.median(sums[train] if len(train) else sums, axis=0)[None])
    candidates = {"constant": level.model(link)}
    bases = {"trees": (empty, cells.ranks()), "trees on inputs": (empty, Ranks((None,) * cells.grid.d))}
    if len(stairs):
        candidates["steps"] = stairs.model(link)
        bases["steps and trees"] = (stairs, cells.ranks())
    if trees and len(train) >= FEW:
        for name, (base, ranks) in bases.items():
            left = sums[train] - base.model(link).sums(rows[train].reshape(-1, *cells.grid.input_shape))
            candidates[name] = base.model(link, fit_sums(ranks, rows[train], left, trees=trees, seed=seed))
    truth = unlinked(sums[test], link)
    inputs = rows[test].reshape(-1, *cells.grid.input_shape)
    errors = {name: float(np.abs(model.scores(inputs) - truth).mean()) for name, model in candidates.items()}
    return candidates[min(errors, key=lambda name: errors[name])], errors


def _learnable(harvest: Harvest, fresh: Ints, link: Link) -> tuple[Array, Array]:
    """(n, d) rows and (n, k) their sums: of the fresh rows, or of all where those are few. Lines through a few anchors
    say little of the rest of the space."""
    scores = harvest.answer.scores
    rows = harvest.x.reshape(len(harvest), -1)
    if scores is None:
        return rows[:0], np.empty((0, 1))
    scores = completed(scores)
    known = np.asarray(~np.isnan(scores).any(axis=1))
    usable = fresh[known[fresh]]
    if len(usable) < FEW:
        usable = np.flatnonzero(known)
    sums = np.clip(linked(scores[usable], link), *((-FAR, FAR) if link == "logit" else (-np.inf, np.inf)))
    return rows[usable], sums
