"""Prediction poisoning: of all answers near the true one, give the one whose gradient leads a thief most astray.

Orekondy, Schiele, Fritz. "Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks", ICLR 2020, the
sections on its objective (MAD, maximising angular deviation, and MAD-argmax) and on its heuristic solver.

Costs the honest client   a distance of `eps` in every answer. With `mad` labels fall from eps = 1 (L1) on, and earlier
                          where the model is unsure; with `argmax` they never change.
Does not stop             whoever reads labels (with `argmax` at all, with `mad` below the cliff); a thief who knows it:
                          the poison of confident answers goes to almost one class, which they can subtract.

A stand-in for the thief's model, fixed and with random weights, says which gradient an answer gives. The published
code takes gradients of the last layer only; there the gradient of a target t is (t - p) h', p being the stand-in's
answer and h its last features, so the angle between two targets is that between t - p and y - p, whatever h is. This
closed form is what runs here, for a batch at once. Of the extreme points (the classes; with `argmax`, uniform
distributions on sets with the true class) the one of the greatest angle is taken, and the answer is moved towards it to
the edge of the ball.
`relaxed` maximises the length of the difference in place of the angle, and so moves to the least likely class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import numpy as np

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.recipes import PREPARED, Recipe
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Array, Interface
from portcullis_ml.defenses._extremes import best_sets, best_vertices
from portcullis_ml.defenses._networks import network_of
from portcullis_ml.defenses._poisoned import TINY, Poisoned
from portcullis_ml.models.blocks import BlockModel

__all__ = ["PredictionPoisoning"]

FILE = "surrogate.safetensors"
STEPS = 15  # halvings of the way to the edge of a ball in the Kullback-Leibler divergence
LEAST = 1e-6  # nearer than this to the true answer, a stand-in's answer gives no direction to turn away from


@dataclass(frozen=True, kw_only=True)
class PredictionPoisoning(Poisoned):
    surrogate: Artifact | Recipe = field(metadata={"recipe": "random_surrogate"})  # the stand-in for the thief's model
    eps: float = 0.5  # how far each answer is moved, in the ball's measure; more costs both sides more
    objective: Literal["mad", "argmax", "relaxed"] = "mad"  # which answer: any, one that keeps the label, the farthest
    ball: Literal["l1", "l2", "kl"] = "l1"  # how far is measured
    _model: BlockModel | None = field(default=None, init=False, compare=False, repr=False)  # the stand-in, once bound

    name: ClassVar[str] = "prediction_poisoning"
    heavy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "surrogate", 'what random_surrogate has made: "FOLDER"', lambda v: isinstance(v, PREPARED))
        check(self, "objective", "'mad', 'argmax' or 'relaxed'", lambda v: v in ("mad", "argmax", "relaxed"))
        check(self, "ball", "'l1', 'l2' or 'kl'", lambda v: v in ("l1", "l2", "kl"))
        most = 2**0.5 if self.ball == "l2" else 2.0  # no two distributions are farther apart in l1 or l2
        check(self, "eps", f"a number in [0, {most:.4g}] with ball={self.ball}", lambda v: 0 <= v <= most)

    @property
    def keeps_labels(self) -> bool:  # type: ignore[override]  # it depends on a setting
        return self.objective == "argmax"

    def bind(self, interface: Interface) -> Self:
        return bound(self, _model=network_of(self, "surrogate", FILE, "random_surrogate", interface))

    def poisoned(self, x: Array, y: Array, noise: Noise) -> Array:
        assert self._model is not None  # the guard binds its stages
        p = self._model.scores(x)
        same = np.abs(y - p).max(axis=1, keepdims=True) <= LEAST
        p = np.where(same, 1 / y.shape[1], p)  # there a stand-in that knows nothing, as this one gives no direction
        if self.objective == "relaxed":
            towards = np.eye(y.shape[1])[y.argmin(axis=1)]
        else:
            towards = (best_vertices if self.objective == "mad" else best_sets)(y, p)
        return _within(y, towards, self.ball, self.eps)


def _within(y: Array, towards: Array, ball: str, eps: float) -> Array:
    """(n, c) y moved towards other distributions to the edge of the ball around y."""
    if ball == "kl":
        share = _kl_share(y, towards, eps)
    else:
        gap = np.abs(y - towards)
        distance = gap.sum(axis=1) if ball == "l1" else np.sqrt((gap * gap).sum(axis=1))
        share = np.minimum(1.0, eps / np.maximum(distance, TINY))
    return (1 - share[:, None]) * y + share[:, None] * towards


def _kl_share(y: Array, towards: Array, eps: float) -> Array:
    """(n,) how far to go so that the divergence of y from the answer stays at most eps."""
    low, high = np.zeros(len(y)), np.ones(len(y))
    for _ in range(STEPS):
        middle = (low + high) / 2
        mixed = (1 - middle[:, None]) * y + middle[:, None] * towards
        divergence = (y * np.log(np.maximum(y, TINY) / np.maximum(mixed, TINY))).sum(axis=1)
        low, high = np.where(divergence <= eps, middle, low), np.where(divergence <= eps, high, middle)
    return low
