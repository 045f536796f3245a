"""The cells that known thresholds make: drawing points from them, and a best copy where no exact one was found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portcullis.core.extraction import Harvest
from portcullis.core.types import Array, Interface, Model
from portcullis.extraction._grid import Grid, Ints
from portcullis.extraction._lines import Known
from portcullis.extraction._stairs import Stairs
from portcullis.extraction._sums import completed
from portcullis.models.ranked import Ranks, fit_labels, fit_sums
from portcullis.models.steps import Link, StepSum, linked, unlinked

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

    def ranks(self) -> Ranks:
        columns: list[Array | None] = [None] * self.grid.d
        for j in np.flatnonzero(self.grid.numeric):
            at = self.known.of(int(j))
            columns[j] = self.grid.between(np.full(len(at), j), at)
        return Ranks(tuple(columns))


def from_labels(harvest: Harvest, cells: Cells, interface: Interface, trees: int, rng: np.random.Generator) -> Model:
    """Boosted trees on the cells, from everything that was answered with a label."""
    labels = harvest.answer.labels
    assert labels is not None
    known = np.asarray(labels >= 0)
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
    """The steps alone, boosted trees alone, or trees on top of the steps, by their mean error on `fresh` rows of the
    harvest that no fit has seen; and the errors of the three."""
    scores = harvest.answer.scores
    rows = harvest.x.reshape(len(harvest), -1)
    known = np.zeros(len(harvest), bool)
    if scores is not None:
        known = np.asarray(~np.isnan(completed(scores)).any(axis=1))
    usable = fresh[known[fresh]] if len(fresh) else fresh
    if len(usable) < FEW:  # the game ended early: better all rows than none
        usable = np.flatnonzero(known)
    empty = Stairs(cells.grid, stairs.anchor, stairs.width)
    if scores is None or not len(usable):
        return stairs.model(link), {}
    sums = np.clip(linked(completed(scores[usable]), link), *((-FAR, FAR) if link == "logit" else (-np.inf, np.inf)))
    rows = rows[usable]
    order = rng.permutation(len(usable))
    cut = max(1, round(SHARE * len(order)))
    test, train = order[:cut], order[cut:]
    seed = int(rng.integers(2**31))
    candidates = {"steps": stairs.model(link)}
    if not len(stairs):  # a constant, at least
        empty.points, empty.coef = stairs.anchor[None], sums.mean(axis=0)[None]
        candidates["steps"] = empty.model(link)
    if trees and len(train) >= FEW:
        for name, base in (("trees", Stairs(cells.grid, stairs.anchor, stairs.width)), ("steps and trees", stairs)):
            if name == "trees" or len(stairs):
                left = sums[train] - base.model(link).sums(rows[train].reshape(-1, *cells.grid.input_shape))
                extra = fit_sums(cells.ranks(), rows[train], left, trees=trees, seed=seed)
                candidates[name] = base.model(link, extra)
    truth = unlinked(sums[test], link)
    inputs = rows[test].reshape(-1, *cells.grid.input_shape)
    errors = {name: float(np.abs(model.scores(inputs) - truth).mean()) for name, model in candidates.items()}
    return candidates[min(errors, key=lambda name: errors[name])], errors
