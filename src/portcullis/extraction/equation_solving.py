"""Equation solving: read a logistic or softmax regression off its own confidences.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 4.1 (the log-ratio route for more than two classes is not in the paper).

Threat model   answers: full probabilities.  data: none.  victim: logistic or softmax regression on its inputs.
Query cost     d + 1 for d inputs, whatever the number of classes; each saturated answer costs another, and so
               do the `held_out` points that check the result where the budget has room for them.

log p_j(x) - log p_0(x) = (w_j - w_0).x + (b_j - b_0) is linear in the unknowns, so d + 1 points in general position
determine them; a logistic regression is the case of two classes. Adding one vector to every w_j changes no
probability: the solution with w_0 = 0, b_0 = 0 is as good as the victim's own, and is what we return.

The points are ours to choose. Uniform ones (the paper's) make a square system that can be badly conditioned, and add
up all the weights until a probability saturates at 0, which has no logarithm. One point near the middle and one step
from it along every axis ask for each weight alone: the same number of queries, a condition that stays small, and
rounding that solving does not amplify. A saturated answer is asked again halfway to the first point, and paid again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis.core.errors import AttackFailed
from portcullis.core.extraction import ExtractionAttack, Harvest, Knowledge, Needs
from portcullis.core.settings import check
from portcullis.core.types import Array, Interface, Model, Reveals
from portcullis.models.softmax import SoftmaxRegression

__all__ = ["EquationSolving"]

NEAR = 0.1  # the first point lies within this share of the range around the middle
WELL_CONDITIONED = 1e6  # a uniform design worse than this is drawn again; drawing is free
HALVINGS = 20  # after which a step is too short to tell anything
LINEAR = 1e-6  # a held-out log-ratio further off than this, relative to the largest, is no softmax regression


@dataclass(frozen=True, kw_only=True)
class EquationSolving(ExtractionAttack):
    design: Literal["axes", "uniform"] = "axes"  # where the points lie, see above
    oversample: float = 1.0  # points for every unknown of a class; more average out rounding
    held_out: int = 5  # further points, if the budget has them, to see whether the victim is what we think

    name: ClassVar[str] = "equation_solving"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS)

    def __post_init__(self) -> None:
        check(self, "design", "'axes' or 'uniform'", lambda v: v in ("axes", "uniform"))
        check(self, "oversample", "a number from 1 to 1000", lambda v: 1 <= v <= 1000)
        check(self, "held_out", "an int, at least 0", lambda v: isinstance(v, int) and v >= 0)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        unknowns = interface.n_inputs + 1
        if harvest.left < unknowns:
            raise AttackFailed(
                f"equation_solving needs {unknowns} queries for {interface.n_inputs} inputs; the budget is "
                f"{harvest.left}. Raise it, or take an attack that learns from fewer answers."
            )
        for feature in interface.features or ():
            if feature.categorical:
                raise AttackFailed(
                    f"equation_solving reads the weights of numbers; column {feature.name!r} is a category. "
                    "Offer the API's encoded columns, or take another attack."
                )
        rows = min(round(self.oversample * unknowns), harvest.left)
        book = _Equations(harvest, interface)
        first = book.first(rng)
        book.collect(first, self._steps(rows - 1, first, interface, rng))
        model = book.solve()
        if self.held_out and harvest.open:
            book.examine(model, interface.uniform(min(self.held_out, harvest.left), rng))
        return model

    def _steps(self, n: int, first: Array, interface: Interface, rng: np.random.Generator) -> Array:
        """(n, d) where the other points lie, seen from the first."""
        if self.design == "axes":
            return _axis_steps(n, first, interface, rng)
        width = interface.high - interface.low
        while True:
            steps = interface.uniform(n, rng).reshape(n, -1) - first
            if np.linalg.cond(steps[:, width > 0] / width[width > 0]) < WELL_CONDITIONED:
                return steps


def _axis_steps(n: int, first: Array, interface: Interface, rng: np.random.Generator) -> Array:
    """(n, d) along each axis in turn to the end of the box that is further away; then part of the way, either way."""
    d = interface.n_inputs
    steps = np.zeros((n, d))
    ends = np.stack([interface.low - first, interface.high - first])
    far = ends[np.abs(ends).argmax(axis=0), np.arange(d)]
    axis = np.arange(n) % d
    steps[np.arange(n), axis] = far[axis]
    more = np.arange(d, n)
    part = rng.uniform(0.5, 1.0, size=len(more)) * ends[rng.integers(2, size=len(more)), axis[more]]
    steps[more, axis[more]] = part
    return steps


class _Equations:
    """The system as it fills up: points and log-ratios, flat; saturated answers are paid for and not written down."""

    def __init__(self, harvest: Harvest, interface: Interface) -> None:
        self._harvest = harvest
        self._interface = interface
        self._points: list[Array] = []
        self._ratios: list[Array] = []

    def first(self, rng: np.random.Generator) -> Array:
        """(d,) an unsaturated point near the middle of the box, or anywhere if the middle is saturated."""
        low, high = self._interface.low, self._interface.high
        point = (low + high) / 2 + NEAR * (high - low) * rng.uniform(-1, 1, size=low.shape)
        while self._harvest.open:
            if self._ask(point[None]).any():
                return point
            point = self._interface.uniform(1, rng).ravel()
        raise AttackFailed(
            f"Each of the {self._harvest.paid} answers had a probability of exactly 0 or was withheld, and 0 has no "
            "logarithm. Scale the inputs to where the victim is less sure, or take another attack."
        )

    def collect(self, first: Array, steps: Array) -> None:
        """Ask about first + steps, and again about half a step where the answer was saturated."""
        for _ in range(HALVINGS):
            if not (len(steps) and self._harvest.open):
                break
            usable = self._ask(first + steps)
            steps = steps[: len(usable)][~usable] / 2

    def solve(self) -> SoftmaxRegression:
        """The least-squares solution; where equations are missing (the guard closed), the smallest one."""
        points, ratios = np.concatenate(self._points), np.concatenate(self._ratios)
        centre, width = points[0], self._interface.high - self._interface.low
        width = np.where(width > 0, width, 1.0)
        # Around the first point and in units of the range, so that no column drowns another.
        design = np.column_stack([(points - centre) / width, np.ones(len(points))])
        solution, _, rank, singular = np.linalg.lstsq(design, ratios)
        w = solution[:-1].T / width
        self._note(rank=int(rank), unknowns=design.shape[1], condition=float(singular[0] / singular[rank - 1]))
        return SoftmaxRegression(w, solution[-1] - w @ centre, input_shape=self._interface.input_shape)

    def examine(self, model: SoftmaxRegression, points: Array) -> None:
        """Ask about further points and note how far off the solution is there, in log-ratios."""
        before = len(self._points)
        self._ask(points.reshape(len(points), -1))
        if len(self._points) == before:
            return
        points, truth = np.concatenate(self._points[before:]), np.concatenate(self._ratios[before:])
        residual = float(np.abs(points @ model.w.T + model.b - truth).max())
        self._note(residual=residual, linear=residual <= LINEAR * max(1.0, float(np.abs(truth).max())))

    def _ask(self, points: Array) -> NDArray[np.bool_]:
        """(m,) which of the m points that were answered could be written down."""
        answer = self._harvest.ask(points.reshape(len(points), *self._interface.input_shape))
        scores = answer.scores
        assert scores is not None  # `needs` says so
        usable = np.asarray((scores > 0).all(axis=1))  # NaN, a withheld score, is not
        logs = np.log(scores[usable])
        if usable.any():
            self._points.append(points[: len(scores)][usable])
            self._ratios.append(logs - logs[:, :1])
        self._note(unusable=self._harvest.notes.get("unusable", 0) + int((~usable).sum()))
        return usable

    def _note(self, **notes: Any) -> None:
        self._harvest.notes |= notes
