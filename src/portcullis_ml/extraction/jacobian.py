"""Jacobian: grow a few seeds into a training set by asking where the copy's own gradients point.

Papernot, McDaniel, Goodfellow, Jha, Celik, Swami. "Practical Black-Box Attacks against Machine Learning",
ASIA CCS 2017, section 4 (augmentation; reservoir sampling: "Transferability in Machine Learning", 2016);
Juuti, Szyller, Dmitrenko, Marchal, Asokan. "PRADA: Protecting against DNN Model Stealing Attacks",
arXiv 1805.02628v1, section 3.1 (Jb-topk, Jb-self).

Threat model   answers: labels (probabilities help).  data: a few inputs from the victim's domain.
Query cost     n seeds become n 2^r after r rounds, n (k+1)^r with k targets; n 2^sigma + kappa (r - sigma) with
               a reservoir. The last round is cut to what is left, to the row.

A round trains a copy on every answer so far, moves the points it knows along the gradient of that copy, and asks
about the places where they land. The three published attacks differ in the direction only: one step *away* from
the class that the oracle gave (Papernot), many small steps to each of the k *other* classes that the copy finds
likeliest there (Jb-topk), or deeper into its *own* class (Jb-self). Boundaries are what a copy lacks, so the
second teaches most. Implementations disagree about the sign of Papernot's step, hence `direction` and `tau`.

A point that runs into the edge of the box may land where another already stands. It is asked, paid for and kept
like any other: the notes count such rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Differentiable, Interface, Labels, Learner, Model
from portcullis_ml.models.perturb import pgd

__all__ = ["Jacobian"]

IN_CACHE = 256  # images differentiated at a time: a quarter less CPU time than 512 on PRADA's MNIST network


@dataclass(frozen=True, kw_only=True)
class Jacobian(ExtractionAttack):
    """Settings left at None are those published with the direction; the catalog's presets are the attacks by name."""

    direction: Literal["away", "top_k", "own_class"] = "top_k"  # where a point moves, see above
    k: int = 3  # top_k: how many other classes each point moves to
    eps: float | None = None  # how far, as a share of each input's range; None: 0.1 away, 0.25 otherwise
    steps: int | None = None  # gradient steps; None: 1 away, 40 otherwise
    step: float | None = None  # length of one, as eps; None: 2.5 eps / steps, so that eps can be reached
    of: Literal["log_probs", "logits"] = "log_probs"  # what is differentiated: cross-entropy, or one Jacobian row
    tau: int | None = None  # the sign flips every tau rounds, 0 never; None: 3 away, 0 otherwise
    sigma: int | None = None  # rounds in which every point moves; None: all of them
    kappa: int = 400  # points that move in each round after that, drawn from all
    rounds: int | None = None  # rounds of synthesis; None: until the budget ends
    warm_start: bool = False  # train on from the last copy instead of anew

    name: ClassVar[str] = "jacobian"
    needs: ClassVar[Needs] = Needs(seeds=True, learner=True)

    def __post_init__(self) -> None:
        check(self, "direction", "one of 'away', 'top_k', 'own_class'", lambda v: v in _PUBLISHED)
        check(self, "k", "an int, at least 1", lambda v: _whole(v, 1))
        check(self, "eps", "in (0, 1], a share of the input range, or None", lambda v: v is None or 0 < v <= 1)
        check(self, "steps", "an int, at least 1, or None", lambda v: v is None or _whole(v, 1))
        check(self, "step", "in (0, 1], a share of the input range, or None", lambda v: v is None or 0 < v <= 1)
        check(self, "of", "'log_probs' or 'logits'", lambda v: v in ("log_probs", "logits"))
        check(self, "tau", "an int, at least 0, or None", lambda v: v is None or _whole(v, 0))
        check(self, "sigma", "an int, at least 0, or None", lambda v: v is None or _whole(v, 0))
        check(self, "kappa", "an int, at least 1", lambda v: _whole(v, 1))
        check(self, "rounds", "an int, at least 0, or None", lambda v: v is None or _whole(v, 0))
        check(self, "warm_start", "true or false", lambda v: isinstance(v, bool))
        if self.tau and self.direction == "top_k":
            raise ParameterError("Jacobian.tau", "0 or None with direction='top_k'", self.tau, "Targets have no sign.")
        for setting, value in _PUBLISHED[self.direction].items():
            if getattr(self, setting) is None:
                object.__setattr__(self, setting, value)  # so that a description says what was really run

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        seeds, learner = knowledge.seeds, knowledge.learner
        assert seeds is not None
        assert learner is not None  # `needs` says so
        if len(seeds) > harvest.left:
            seeds = seeds[_some(len(seeds), harvest.left, rng)]
        harvest.ask(seeds)
        model = self._train(harvest, learner, None, rng)
        done = 0
        while harvest.open and done != self.rounds:
            held = len(harvest)
            harvest.ask(self._synthesise(model, harvest, interface, done, rng))
            if len(harvest) == held:  # not one new row was answered: nothing to learn
                break
            model = self._train(harvest, learner, model if self.warm_start else None, rng)
            done += 1
        harvest.notes |= {"rounds": done, "repeated_rows": repeated(harvest.x)}
        return model

    def _train(self, harvest: Harvest, learner: Learner, start: Model | None, rng: np.random.Generator) -> Model:
        return harvest.keep(learner.fit(harvest.x, harvest.targets(), rng=rng, start=start))

    def _synthesise(
        self, model: Model, harvest: Harvest, interface: Interface, done: int, rng: np.random.Generator
    ) -> Array:
        """(m, *input_shape) the questions of round `done`, no more than can be paid for."""
        if not isinstance(model, Differentiable):
            raise NotApplicable(
                f"jacobian follows the gradients of its own copy; the learner made a {type(model).__name__}, which has "
                "no input_gradient. Give it a torch or a softmax learner."
            )
        x, labels = harvest.x, harvest.answer.labels
        assert labels is not None  # a classifier's answer
        base = np.arange(len(x))
        if self.sigma is not None and done >= self.sigma:
            base = _some(len(x), self.kappa, rng)
        if self.direction == "top_k":
            targets = likeliest_others(model.scores(x[base]), labels[base], self.k)
        else:
            targets = labels[base, None]
        # Whole rounds where they fit; otherwise a fair draw among the (point, target) pairs, so that the bill is exact.
        pairs = _some(targets.size, harvest.left, rng)
        base = base[pairs // targets.shape[1]]
        flipped = bool(self.tau and done // self.tau % 2)
        return self._moved(model, x[base], targets.reshape(-1)[pairs], interface, (self.direction != "away") != flipped)

    def _moved(self, model: Differentiable, x: Array, labels: Labels, interface: Interface, towards: bool) -> Array:
        """x after the gradient steps, in the unit box and back, so that eps is a share of every input's range."""
        low, high = (b.reshape(x.shape[1:]) for b in (interface.low, interface.high))
        codes = [f.categorical for f in interface.features or ()]
        free = (low < high) & ~np.array(codes or [False])  # a category cannot be moved part of the way
        width = np.where(low < high, high - low, 1.0)
        how: dict[str, Any] = {"eps": self.eps, "steps": self.steps, "step": self.step, "of": self.of}
        unit = _InUnitBox(model, low, width, free)
        start = (x - low) / width
        moved = pgd(unit, start, labels, bounds=(0.0, 1.0), targeted=towards, batch=IN_CACHE, **how)
        return np.where(free, np.clip(low + width * moved, low, high), x)


def likeliest_others(scores: Array, labels: Labels, k: int) -> Labels:
    """(n, k) the classes with the k greatest scores of each row, its own label left out; ties to the lower class.

    With fewer than k other classes, all of them.
    """
    ranked = scores.copy()
    ranked[np.arange(len(ranked)), labels] = -np.inf
    return np.argsort(-ranked, axis=1, kind="stable")[:, : min(k, scores.shape[1] - 1)]


def repeated(x: Array) -> int:
    """How many rows of x equal an earlier one."""
    return len(x) - len({row.tobytes() for row in x})


def _some(n: int, wanted: int, rng: np.random.Generator) -> Labels:
    """`wanted` of 0..n-1 in rising order, each with the same chance; all of them when they are not more."""
    return np.arange(n) if n <= wanted else np.sort(rng.choice(n, wanted, replace=False))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class _InUnitBox:
    """The copy as a function of inputs scaled to their ranges, with gradient 0 for inputs that may not move."""

    def __init__(self, model: Differentiable, low: Array, width: Array, free: NDArray[np.bool_]) -> None:
        self.input_shape, self.n_classes = model.input_shape, model.n_classes
        self._model, self._low, self._width, self._free = model, low, width, free

    def scores(self, x: Array) -> Array:
        return self._model.scores(self._low + self._width * x)

    def input_gradient(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        gradient = self._model.input_gradient(self._low + self._width * x, weights, of=of)
        return np.asarray(gradient * self._width * self._free, np.float64)


_PUBLISHED: dict[str, dict[str, Any]] = {
    "away": {"eps": 0.1, "steps": 1, "tau": 3},
    "top_k": {"eps": 0.25, "steps": 40, "tau": 0},
    "own_class": {"eps": 0.25, "steps": 40, "tau": 0},
}
