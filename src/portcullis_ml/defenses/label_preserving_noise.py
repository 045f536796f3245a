"""Label-preserving noise: as `noise`, but a row whose label would change gets only as much of it as leaves the label.

Jia, Salem, Backes, Zhang, Gong. "MemGuard: Defending against Black-Box Membership Inference Attacks via Adversarial
Examples", ACM CCS 2019, ask the same of noise against membership inference in their section on the problem: no label
changes, and the change is bounded. Theirs is computed against a classifier of members; this one is drawn at random.

Costs the honest client   the size of every score; labels never change.
Does not stop             whoever reads labels only; whoever asks about many rows, since the mean of the noise over
                          neighbouring questions is near zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import expit

from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.defenses._poisoned import Poisoned, as_distributions
from portcullis_ml.defenses.noise import bounded, odds_of

__all__ = ["LabelPreservingNoise"]

KEPT = 0.9  # of the share of the noise that would make a tie: whoever reads scores alone must see the label, too


@dataclass(frozen=True, kw_only=True)
class LabelPreservingNoise(Poisoned):
    eps: float = 2.0  # the expected norm of the noise before it is shortened, and the greatest
    ball: Literal["l1", "l2"] = "l2"  # in which norm

    name: ClassVar[str] = "label_preserving_noise"
    keeps_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "eps", "a number of at least 0", lambda v: 0 <= v < np.inf)
        check(self, "ball", "'l1' or 'l2'", lambda v: v in ("l1", "l2"))

    def poisoned(self, x: Array, y: Array, noise: Noise) -> Array:
        odds = odds_of(y)
        return as_distributions(expit(odds + _keeping(odds, bounded(x, y.shape[1], self.eps, self.ball, noise))))


def _keeping(odds: Array, delta: Array) -> Array:
    """As much of every row of delta (n, c) as leaves the first of the odds (n, c) a tenth of its lead."""
    top = odds.argmax(axis=1)[:, None]
    lead = np.take_along_axis(odds, top, axis=1) - odds
    lost = delta - np.take_along_axis(delta, top, axis=1)  # by which each other class comes nearer
    share = np.where(lost > KEPT * lead, KEPT * lead / np.maximum(lost, 1e-300), 1.0).min(axis=1, keepdims=True)
    return np.asarray(share * delta)
