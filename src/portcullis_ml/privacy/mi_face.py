"""MI-Face: what the model takes for the most typical input of a class, by descending the cost 1 - p(class).

Fredrikson, Jha, Ristenpart. "Model Inversion Attacks that Exploit Confidence Information and Basic Countermeasures",
ACM CCS 2015, algorithm 1.

Threat model   answers: probabilities; or the model itself, as whoever has stolen a copy holds it. data: none; the mean
               of a pool where a prior is wished for.
Query cost     none with the model. Through an API, one query for every input and one more for each step and class.

From zero, x is moved against the gradient of c(x) = 1 - p(class | x) + prior and processed. It ends when the cost is
not below the greatest of the last `patience` costs, or when the confidence is reached; the best x of all steps is
returned, not the last. Through an API the gradient is that of finite differences, and every one is paid for: an API
that rounds its answers by more than a step changes them has no gradient. All classes descend at once.

What comes back is an average of a class. It is a picture of somebody only where a class is one person.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Differentiable, Interface, Reveals, Rows
from portcullis_ml.privacy._shared import shares

__all__ = ["MiFace"]

ROWS = 256  # sent at a time
BY = ("auto", "gradients", "differences")


@dataclass(frozen=True, kw_only=True)
class MiFace(PrivacyAttack):
    by: Literal["auto", "gradients", "differences"] = "auto"  # gradients where the model is held, or queries
    classes: tuple[int, ...] = ()  # to invert; none named: all
    iterations: int = 1_000  # steps at most
    patience: int = 100  # steps whose costs are compared
    confidence: float = 0.99  # of the class, at which it ends
    step: float = 0.1  # along the gradient, as a share of an input's range
    process: Literal["clip", "smooth"] = (
        "clip"  # of every step; smooth averages each pixel a little with those around it
    )
    prior: float = 0.0  # the weight of the squared distance from the pool's mean
    difference: float = 1e-3  # of an input for finite differences, as a share of its range

    name: ClassVar[str] = "mi_face"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS)

    def __post_init__(self) -> None:
        check(self, "by", f"one of {', '.join(BY)}", lambda v: v in BY)
        check(self, "classes", "a tuple of ints", lambda v: all(isinstance(c, int) and c >= 0 for c in v))
        check(self, "iterations", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "patience", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "confidence", "in (0, 1]", lambda v: 0 < v <= 1)
        check(self, "step", "above 0", lambda v: v > 0)
        check(self, "process", "'clip' or 'smooth'", lambda v: v in ("clip", "smooth"))
        check(self, "prior", "at least 0", lambda v: v >= 0)
        check(self, "difference", "in (0, 1)", lambda v: 0 < v < 1)

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        classes = np.array(self.classes or range(interface.n_classes), np.int64)
        if classes.max() >= interface.n_classes:
            raise NotApplicable(
                f"mi_face inverts classes below {interface.n_classes}; class {classes.max()} was named."
            )
        target = self._target(harvest, interface, knowledge)
        best, notes = self._descend(target, classes, interface)
        return Leakage(recovered=best.reshape(-1, *interface.input_shape), notes=notes)

    def _target(self, harvest: Harvest, interface: Interface, knowledge: Knowledge) -> _Target:
        """What is asked: the model that the attacker holds, or the API."""
        centre = None
        if self.prior:
            if knowledge.pool is None or not len(knowledge.pool):
                raise NotApplicable("mi_face with a prior needs a pool, whose mean it stays near; there is none.")
            centre = knowledge.pool.reshape(len(knowledge.pool), -1).mean(axis=0)
        model = knowledge.model
        held = isinstance(model, Differentiable)
        if self.by == "gradients" and not held:
            what = "there is none" if model is None else f"this is a {type(model).__name__}"
            raise NotApplicable(
                f"mi_face(by=gradients) needs a model that can be differentiated; {what}. by=differences asks the API."
            )
        if held and self.by != "differences":
            return _Held(model, interface, self.prior, centre)  # type: ignore[arg-type]
        return _Asked(harvest, interface, self.prior, centre, self.difference)

    def _descend(
        self, target: _Target, classes: NDArray[np.int64], interface: Interface
    ) -> tuple[Array, dict[str, Any]]:
        """The best x of every class, as flat rows, and notes."""
        low, width = interface.low, interface.high - interface.low
        x = np.tile(np.clip(np.zeros_like(low), low, interface.high), (len(classes), 1))
        cost = target.costs(x, classes)
        best, least = x.copy(), cost.copy()
        recent, steps = np.full((self.patience, len(cost)), -np.inf), 0  # the last costs; the oldest is written over
        recent[0] = cost
        why = np.full(len(classes), "iterations", object)
        active = np.flatnonzero(~np.isnan(cost))
        for _ in range(self.iterations):
            if len(active) == 0 or not target.open:
                break
            gradient = target.gradients(x[active], classes[active], cost[active])
            if len(gradient) < len(active):
                break  # the door closed within a step: what is not whole is not used
            moved = x[active] - self.step * width**2 * gradient
            x[active] = self._processed(np.clip(moved, low, interface.high), interface)
            now = target.costs(x[active], classes[active])
            if len(now) < len(active):
                break
            steps += 1
            sure, stuck = now <= 1 - self.confidence, now >= recent[:, active].max(axis=0)
            cost[active] = recent[steps % self.patience, active] = now
            better = active[now < least[active]]
            best[better], least[better] = x[better], cost[better]
            why[active[stuck]], why[active[sure]] = "cost", "confidence"
            active = active[~(sure | stuck)]
        notes = {
            "classes": classes.tolist(),
            "cost": least.tolist(),
            "ended_by": why.tolist(),
            "steps": steps,
        }
        return best, notes

    def _processed(self, x: Array, interface: Interface) -> Array:
        shape = interface.input_shape
        if self.process == "clip" or len(shape) < 2:
            return x
        first = len(shape) == 3 and shape[0] <= 4 < min(shape[1:])
        pictures, axes = x.reshape(-1, *shape), (2, 3) if first else (1, 2)
        for axis in axes:
            size = pictures.shape[axis]
            before = np.take(pictures, np.maximum(np.arange(size) - 1, 0), axis=axis)
            after = np.take(pictures, np.minimum(np.arange(size) + 1, size - 1), axis=axis)
            pictures = 0.9 * pictures + 0.05 * (before + after)
        return np.asarray(pictures.reshape(len(x), -1))


class _Target:
    """Costs and gradients of flat rows; fewer come back where the door closed."""

    open = True

    def __init__(self, interface: Interface, prior: float, centre: Array | None) -> None:
        self.shape, self.n_classes = interface.input_shape, interface.n_classes
        self.low, self.width = interface.low, interface.high - interface.low
        self.prior, self.centre = prior, centre

    def costs(self, x: Array, classes: NDArray[np.int64]) -> Array:
        p = self.probability(x, classes)
        return np.asarray(1 - p + self.penalty(x[: len(p)]))

    def probability(self, x: Array, classes: NDArray[np.int64]) -> Array:
        raise NotImplementedError

    def gradients(self, x: Array, classes: NDArray[np.int64], cost: Array) -> Array:
        raise NotImplementedError

    def penalty(self, x: Array) -> Array:
        return np.zeros(len(x)) if self.centre is None else self.prior * ((x - self.centre) ** 2).mean(axis=1)

    def penalty_gradient(self, x: Array) -> Array:
        return np.zeros_like(x) if self.centre is None else 2 * self.prior * (x - self.centre) / x.shape[1]


@runtime_checkable
class _InOnePass(Differentiable, Protocol):
    """A model that says scores and gradients together, as a `TorchModel` does."""

    def scores_and_gradient(self, x: Array, weights: Array, *, of: Literal["log_probs"]) -> tuple[Array, Array]: ...


def _in_two_passes(model: Differentiable, x: Array, weights: Array, *, of: Literal["log_probs"]) -> tuple[Array, Array]:
    return model.scores(x), model.input_gradient(x, weights, of=of)


class _Held(_Target):
    """A model that the attacker holds. A class's gradient is found with its probability, and kept until it is used."""

    def __init__(self, model: Differentiable, interface: Interface, prior: float, centre: Array | None) -> None:
        super().__init__(interface, prior, centre)
        self.said = model.scores_and_gradient if isinstance(model, _InOnePass) else partial(_in_two_passes, model)
        self.slopes = np.zeros((interface.n_classes, interface.n_inputs))

    def probability(self, x: Array, classes: NDArray[np.int64]) -> Array:
        """The gradient of 1 - p is -p times that of log p."""
        rows, weights = x.reshape(-1, *self.shape), np.zeros((len(x), self.n_classes))
        weights[np.arange(len(x)), classes] = -1
        scores, found = self.said(rows, weights, of="log_probs")
        p = scores[np.arange(len(x)), classes]
        self.slopes[classes] = p[:, None] * found.reshape(len(x), -1)
        return np.asarray(p)

    def gradients(self, x: Array, classes: NDArray[np.int64], cost: Array) -> Array:
        return self.slopes[classes] + self.penalty_gradient(x)


class _Asked(_Target):
    """An API, asked about every input moved a little."""

    def __init__(
        self, harvest: Harvest, interface: Interface, prior: float, centre: Array | None, difference: float
    ) -> None:
        super().__init__(interface, prior, centre)
        self.harvest, self.difference = harvest, difference

    @property
    def open(self) -> bool:  # type: ignore[override]
        return self.harvest.open

    def probability(self, x: Array, classes: NDArray[np.int64]) -> Array:
        answer = self.harvest.ask(x.reshape(-1, *self.shape))
        p = shares(answer, self.n_classes)
        return np.asarray(p[np.arange(len(p)), classes[: len(p)]])

    def gradients(self, x: Array, classes: NDArray[np.int64], cost: Array) -> Array:
        """Forward differences, backward where an input stands at its upper bound: an API takes no input beyond it."""
        there, slopes = 1 - cost + self.penalty(x), np.zeros_like(x)
        for i, row in enumerate(x):
            back = row + self.difference * self.width > self.low + self.width
            step = np.where(back, -1.0, 1.0) * self.difference * self.width
            for start in range(0, len(row), ROWS):
                inputs = np.arange(start, min(start + ROWS, len(row)))
                moved = np.tile(row, (len(inputs), 1))
                moved[np.arange(len(inputs)), inputs] += step[inputs]
                p = self.probability(moved, np.repeat(classes[i], len(inputs)))
                if len(p) < len(inputs):
                    return -slopes[:i] + self.penalty_gradient(x[:i])
                slopes[i, inputs] = (p - there[i]) / step[inputs]
        return -slopes + self.penalty_gradient(x)
