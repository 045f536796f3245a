"""Noise: move the logarithm of every probability's odds by a random amount of a bounded size.

Orekondy, Schiele, Fritz. "Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks", ICLR 2020, the
section on baselines ("random noise"): uniform, of the expected norm `eps`, and projected to the ball of that norm.

Costs the honest client   the size of every score, and labels where two classes are close. A regression's numbers are
                          moved themselves, by `eps` at most, in the units of the target.
Does not stop             whoever asks about many rows: the noise is the same for the same question, but its mean over
                          neighbouring questions is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from scipy.special import expit, logit

from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.defenses._poisoned import Poisoned, as_distributions

__all__ = ["LogitNoise", "bounded", "odds_of", "onto_l1"]

EDGE = 1e-9  # probabilities are taken to lie this far from 0 and 1 at least


@dataclass(frozen=True, kw_only=True)
class LogitNoise(Poisoned):
    eps: float = 1.0  # the expected norm of the noise, and the greatest
    ball: Literal["l1", "l2"] = "l2"  # in which norm

    name: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        check(self, "eps", "a number of at least 0", lambda v: 0 <= v < np.inf)
        check(self, "ball", "'l1' or 'l2'", lambda v: v in ("l1", "l2"))

    def bind(self, interface: Interface) -> Self:
        return self  # a regression's numbers are moved, too

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        if answer.labels is not None or answer.scores is None:
            return super().release(request, answer, clean, state, noise)
        moved = answer.scores + bounded(request.x, answer.scores.shape[1], self.eps, self.ball, noise)
        return Answer(None, moved, answer.explanation)

    def poisoned(self, x: Array, y: Array, noise: Noise) -> Array:
        return as_distributions(expit(odds_of(y) + bounded(x, y.shape[1], self.eps, self.ball, noise)))


def odds_of(y: Array) -> Array:
    """(n, c) logarithms of the odds of probabilities."""
    return np.asarray(logit(np.clip(y, EDGE, 1 - EDGE)))


def bounded(x: Array, width: int, eps: float, ball: str, noise: Noise) -> Array:
    """(n, width) uniform noise of the expected norm `eps`, keyed by the rows x and projected to the ball."""
    drawn = 2 * noise.uniform(x, width) - 1
    expected = width / 2 if ball == "l1" else np.sqrt(width / 3)  # of a row of such numbers
    delta = drawn * (eps / expected)
    return onto_l1(delta, eps) if ball == "l1" else _onto_l2(delta, eps)


def _onto_l2(v: Array, radius: float) -> Array:
    length = np.sqrt((v * v).sum(axis=1, keepdims=True))
    return np.asarray(v * np.minimum(1.0, radius / np.maximum(length, 1e-300)))


def onto_l1(v: Array, radius: float) -> Array:
    """Rows v (n, c) projected to the L1 ball of this radius (Duchi, Shalev-Shwartz, Singer, Chandra, ICML 2008)."""
    size = np.abs(v)
    ranked = -np.sort(-size, axis=1)
    excess = np.cumsum(ranked, axis=1) - radius
    count = np.arange(1, v.shape[1] + 1)
    last = (ranked * count > excess).sum(axis=1, keepdims=True)  # entries that stay above zero
    last = np.maximum(last, 1)
    shift = np.maximum(np.take_along_axis(excess, last - 1, axis=1) / last, 0.0)
    return np.asarray(np.sign(v) * np.maximum(size - shift, 0.0))
