"""Points to ask a linear model about, and what its answers say of its weights."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.types import Array, Interface
from portcullis_ml.models.encoding import Encoding
from portcullis_ml.models.softmax import SoftmaxRegression

__all__ = ["COARSE", "Points", "decimals_of", "enough", "solve_log_ratios", "usable"]

NEAR = 0.1  # the first point lies within this share of the range around the middle
WELL_CONDITIONED = 1e6  # a uniform design worse than this is drawn again; drawing is free
REDRAWS = 20  # after which uniform points are no use: many categories, most of them never drawn
HALVINGS = 20  # after which a step is too short to tell anything
LAST = 2.0**53  # 1 / the last digit of a float64 just below 1
LOST = 1e-8  # a complement below this has lost half of its digits
COARSE = 6  # answers that are all multiples of 10^-6 or more were rounded

SATURATED = (
    "Each of the {} answers had a probability of exactly 0 or was withheld, and 0 has no logarithm. Scale the inputs "
    "to where the victim is less sure, or take another attack."
)


class Points:
    """Where to ask: near the middle, then one step along every axis and to every other category."""

    def __init__(self, harvest: Harvest, interface: Interface, encoding: Encoding, rng: np.random.Generator) -> None:
        self._harvest = harvest
        self._interface = interface
        self._encoding = encoding
        self._rng = rng
        self._start: Array | None = None

    def collect(self, n: int, design: Literal["axes", "uniform"]) -> None:
        """Ask about n points; about half the step to them, again, where a probability was saturated."""
        if not self.start():
            raise AttackFailed(SATURATED.format(self._harvest.paid))
        assert self._start is not None  # found just now
        first = self._start
        points = self._uniform(n - 1, first) if design == "uniform" else self._axes(n - 1, first)
        for _ in range(HALVINGS):
            if not (len(points) and self._harvest.open):
                break
            good = self._ask(points)
            points = self._nearer(points[: len(good)][~good], first)

    def start(self, tries: int | None = None) -> bool:
        """Ask for an unsaturated point near the middle of the box, or anywhere if the middle is saturated; whether
        one was found within so many tries."""
        if self._start is not None:
            return True
        low, high, categories = self._interface.low, self._interface.high, self._encoding.categories
        point = (low + high) / 2 + NEAR * (high - low) * self._rng.uniform(-1, 1, size=low.shape)
        point = np.where(categories > 0, 0.0, point)
        while self._start is None and self._harvest.open and (tries is None or self._harvest.paid < tries):
            if self._ask(point[None]).any():
                self._start = point
            else:
                point = self._interface.uniform(1, self._rng).ravel()
        return self._start is not None

    def _axes(self, n: int, first: Array) -> Array:
        """(n, d) to the far end along each axis and to each other category, then part of the way, either way."""
        low, high, encoding = self._interface.low, self._interface.high, self._encoding
        moves: list[tuple[int, float | None]] = [(int(j), None) for j in np.flatnonzero(encoding.numeric)]
        moves += [
            (int(j), float(code))
            for j in np.flatnonzero(encoding.categories > 1)
            for code in range(encoding.categories[j])
            if code != first[j]
        ]
        points = np.tile(first, (n, 1))
        for row in range(n):
            j, code = moves[row % len(moves)]
            ends = np.array([low[j], high[j]])
            if code is not None:
                points[row, j] = code
            elif row < len(moves):
                points[row, j] = ends[np.abs(ends - first[j]).argmax()]
            else:
                points[row, j] += self._rng.uniform(0.5, 1.0) * (self._rng.choice(ends) - first[j])
            if row >= len(moves) and code is not None:  # the same category again, seen from elsewhere
                points[row] = np.where(encoding.numeric, self._interface.uniform(1, self._rng).ravel(), points[row])
        return points

    def _uniform(self, n: int, first: Array) -> Array:
        """(n, d) random points, drawn again until they make a well-conditioned system with the first."""
        for _ in range(REDRAWS):
            points = self._interface.uniform(n, self._rng).reshape(n, -1)
            if np.linalg.cond(self._encoding(points) - self._encoding(first[None])) < WELL_CONDITIONED:
                return points
        return self._axes(n, first)

    def _nearer(self, points: Array, first: Array) -> Array:
        """Half the step in every number; a step that has none starts from another place near the first point."""
        numeric = self._encoding.numeric
        nearer = np.where(numeric, (points + first) / 2, points)
        stuck = (nearer[:, numeric] == points[:, numeric]).all(axis=1)
        width = self._interface.high - self._interface.low
        jitter = 2 * NEAR * width * self._rng.uniform(-1, 1, size=points.shape)
        moved = np.clip(points + jitter, self._interface.low, self._interface.high)
        return np.where(stuck[:, None] & numeric, moved, nearer)

    def _ask(self, points: Array) -> NDArray[np.bool_]:
        """(m,) which of the m points that were answered can be written down."""
        answer = self._harvest.ask(points.reshape(len(points), *self._interface.input_shape))
        good = usable(answer.scores)
        self._harvest.notes["unusable"] = self._harvest.notes.get("unusable", 0) + int((~good).sum())
        return good


def usable(scores: Array | None) -> NDArray[np.bool_]:
    """(n,) rows whose logarithms all exist and mean something; NaN, a withheld score, is not above 0.

    A library that gives 1 - p for the other class (scikit-learn's logistic regression does) gives a multiple of the
    last digit of 1: where p is nearly 1, few digits of the complement are left, and its logarithm is worth as many.
    A small probability that was computed as such has all its digits, and is almost never such a multiple.
    """
    assert scores is not None  # `needs` asks for probabilities
    complement = (scores < LOST) & (scores * LAST == np.round(scores * LAST))
    return np.asarray(((scores > 0) & ~complement).all(axis=1))


def enough(z: Array, scores: Array) -> NDArray[np.bool_]:
    """(n,) rows to solve from: the usable ones, or, where those leave unknowns undetermined and there is no budget
    to ask again, every row that has a logarithm. Few digits are better than no equation."""
    good = usable(scores)
    if np.linalg.matrix_rank(np.column_stack([z[good], np.ones(good.sum())])) > z.shape[1]:
        return good
    return np.asarray((scores > 0).all(axis=1))


def decimals_of(scores: Array) -> int | None:
    """The decimals that the answers were rounded to, if to 6 or fewer."""
    for decimals in range(COARSE + 1):
        if np.array_equal(np.round(scores, decimals), scores):
            return decimals
    return None


def solve_log_ratios(z: Array, scores: Array, *, rounded: bool) -> tuple[SoftmaxRegression, int, float]:
    """z (n, width), positive scores (n, c) -> the regression on z, the rank and the condition of the system.

    Least squares around the first point; the smallest solution where equations are missing. A rounding error e in
    p_j and p_0 is about e / p_j + e / p_0 in their log-ratio: with `rounded`, every equation counts by its precision.
    """
    ratios = np.log(scores) - np.log(scores[:, :1])
    design = np.column_stack([z - z[0], np.ones(len(z))])
    solution, _, rank, singular = np.linalg.lstsq(design, ratios)
    if rounded:
        for j in range(1, scores.shape[1]):
            weight = scores[:, j] * scores[:, 0] / (scores[:, j] + scores[:, 0])
            solution[:, j] = np.linalg.lstsq(design * weight[:, None], ratios[:, j] * weight)[0]
    model = SoftmaxRegression(solution[:-1].T, solution[-1] - z[0] @ solution[:-1])
    return model, int(rank), float(singular[0] / singular[rank - 1])
