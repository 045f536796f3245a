"""A copy that is a sum of steps over a grid, and the search for the next step that it lacks.

A step is a point z of the grid, and adds its coefficient wherever z lies between the anchor and the point asked about:
for every input in which z differs from the anchor, the point is at z or farther out (a category: has that value). One
threshold of a tree is a step in one input, a branch that asks three inputs makes steps in three; a step that many trees
have is one step. Any function on the grid is a sum of steps, and a sum of trees is a sum of few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array
from portcullis_ml.extraction._grid import Grid, Ints
from portcullis_ml.extraction._lines import Known, first_difference, search
from portcullis_ml.models.steps import ABOVE, BELOW, EQUAL, Link, Literals, StepSum, summed

__all__ = ["Stairs", "Tester", "lower", "shrink"]

Tester = Callable[[Ints], Ints]  # (n, d) -> (n,) 1 where the copy is wrong, 0 where right; or GameOver
Mask = NDArray[np.bool_]


@dataclass
class Stairs:
    """anchor (d,); points (m, d) and coef (m, k) of the steps. The step at the anchor itself is the constant."""

    grid: Grid
    anchor: Ints
    width: int
    points: Ints = field(init=False)
    coef: Array = field(init=False)

    def __post_init__(self) -> None:
        self.points, self.coef = np.empty((0, self.grid.d), np.int64), np.empty((0, self.width))
        self._at: dict[bytes, int] = {}
        self._table: tuple[Literals, Ints] | None = None

    def __len__(self) -> int:
        return len(self.points)

    def beyond(self, z: Ints, x: Ints) -> Mask:
        """Whether z (..., d) lies between the anchor and x (..., d)."""
        out, far = z - self.anchor, x - self.anchor
        past = (np.sign(out) == np.sign(far)) & (np.abs(far) >= np.abs(out))
        return np.asarray(((out == 0) | np.where(self.grid.numeric, past, z == x)).all(axis=-1))

    def sums(self, x: Ints) -> Array:
        """(n, d) -> (n, k)"""
        if self._table is None:
            self._table = self._literals()
        return summed(x, *self._table, self.coef)

    def missing(self, z: Ints, left: Array, noise: Array) -> Stairs:
        """The steps at the points z (u, d), all different, at which left (u, k) is lacking: each is what the others
        that it lies beyond do not add up to, if that is more than its noise (u,)."""
        off = z != self.anchor
        far = np.abs(z - self.anchor) / np.maximum(self.grid.last, 1)
        order = np.lexsort((far.sum(axis=1), off.sum(axis=1)))  # nothing comes before what it is beyond
        z, coef, noise = z[order], left[order].copy(), noise[order]
        for i in range(len(z)):
            coef[i] -= coef[:i][self.beyond(z[:i], z[i])].sum(axis=0)
            coef[i] *= np.abs(coef[i]).max() > noise[i]
        real = coef.any(axis=1)
        steps = Stairs(self.grid, self.anchor, self.width)
        steps.take(z[real], coef[real])
        return steps

    def take(self, points: Ints, coef: Array) -> None:
        """Add steps; one at a point that has one already changes that."""
        fresh: list[int] = []
        for row, point in enumerate(points):
            key = point.tobytes()
            if key in self._at:
                self.coef[self._at[key]] += coef[row]
            else:
                self._at[key] = len(self.points) + len(fresh)
                fresh.append(row)
        self.points = np.concatenate([self.points, points[fresh]])
        self.coef = np.concatenate([self.coef, coef[fresh]])
        self._table = None

    def _literals(self) -> tuple[Literals, Ints]:
        """Questions about grid positions, and every step as the numbers of those that it asks."""
        rows, feature = np.nonzero(self.points != self.anchor)
        pairs = np.column_stack([feature, self.points[rows, feature]])
        asked, number = np.unique(pairs, axis=0, return_inverse=True)
        feature, position = asked.T
        above = position > self.anchor[feature]
        kind = np.where(self.grid.numeric[feature], np.where(above, ABOVE, BELOW), EQUAL)
        edge = position + np.where(kind == ABOVE, -0.5, np.where(kind == BELOW, 0.5, 0.0))
        size = np.bincount(rows, minlength=len(self.points))
        terms = np.zeros((len(self.points), max(1, size.max(initial=0))), np.int64)
        terms[rows, np.arange(len(rows)) - (np.cumsum(size) - size)[rows]] = number.ravel() + 1
        return Literals(feature, edge, kind), terms

    def model(self, link: Link, extra: Callable[[Array], Array] | None = None) -> StepSum:
        """The same steps for inputs; a threshold lies halfway between two positions."""
        asked, terms = self._literals()
        between = self.grid.between(asked.feature, asked.edge - 0.5)
        edge = np.where(asked.kind == EQUAL, asked.edge, between)
        literals = Literals(asked.feature, edge, asked.kind)
        return StepSum(literals, terms, self.coef, link, input_shape=self.grid.input_shape, extra=extra)


def shrink(wrong: Tester, x: Ints, anchor: Ints, rng: np.random.Generator) -> Ints:
    """Points x (n, d) where the copy is wrong, with as many inputs set back to the anchor as it stays wrong without."""
    x, needed = x.copy(), np.zeros(x.shape, bool)
    live = np.arange(len(x))
    while True:
        bare = np.where(needed[live], x[live], anchor)
        more = (bare != x[live]).any(axis=1)
        live, bare = live[more], bare[more]
        if not len(live):
            return x
        still = wrong(bare) == 1
        x[live[still]] = bare[still]
        live, bare = live[~still], bare[~still]
        if not len(live):
            return x
        order = np.argsort(rng.random(bare.shape), axis=1)
        feature, x[live] = first_difference(wrong, x[live], bare, np.ones(len(live), np.int64), order)
        needed[live, feature] = True


def lower(wrong: Tester, x: Ints, stairs: Stairs, known: Known, rng: np.random.Generator) -> Ints:
    """Points x (n, d) where the copy is wrong, every number moved towards the anchor as far as it stays wrong."""
    x, anchor = x.copy(), stairs.anchor
    open_ = (x != anchor) & stairs.grid.numeric
    while True:
        rows = np.flatnonzero(open_.any(axis=1))
        if not len(rows):
            return x
        feature = np.where(open_[rows], rng.random((len(rows), len(anchor))), -1).argmax(axis=1)
        open_[rows, feature] = False
        bare = x[rows]
        bare[np.arange(len(rows)), feature] = anchor[feature]
        still = wrong(bare) == 1
        x[rows[still]] = bare[still]
        rows, feature = rows[~still], feature[~still]
        x[rows, feature] = _edge(wrong, x[rows], feature, anchor[feature], known)


def _edge(wrong: Tester, x: Ints, feature: Ints, end: Ints, known: Known) -> Ints:
    """(n,) on the way of feature (n,) from x (n, d), which is wrong, to `end` (n,), which is right: a position that is
    wrong, the next being right."""
    n = np.arange(len(x))
    here = x[n, feature]
    up = here < end
    one, none = np.ones(len(n), np.int64), np.zeros(len(n), np.int64)
    ends = (np.where(up, one, none), np.where(up, none, one))
    found = search(wrong, x, feature, (n, np.minimum(here, end), np.maximum(here, end), *ends), known)
    place = here.copy()
    place[found.line] = np.where(up[found.line], found.at, found.at + 1)
    return place
