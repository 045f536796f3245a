"""Reverse sigmoid: bend every probability by a curve that goes up and down again, so that several give one answer.

Lee, Edwards, Molloy, Su. "Defending Against Neural Network Model Stealing Attacks Using Deceptive Perturbations",
IEEE Security and Privacy Workshops 2019; parameters from the section on baselines of Orekondy, Schiele, Fritz,
"Prediction Poisoning", ICLR 2020: gamma 0.2, or 0.4 for Fashion-MNIST and 0.1 for CIFAR-10, and beta from 0 to 1.

Costs the honest client   the size of every score, and with a large beta some labels.
Does not stop             whoever reads labels; at small beta * gamma the curve is monotone and can be undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit, logit

from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.defenses._poisoned import Poisoned, as_distributions

__all__ = ["ReverseSigmoid"]

EDGE = 1e-9  # probabilities are taken to lie this far from 0 and 1 at least


@dataclass(frozen=True, kw_only=True)
class ReverseSigmoid(Poisoned):
    beta: float = 0.4  # how much is taken off; more costs the thief, and the honest client, more
    gamma: float = 0.2  # how steep the curve is

    name: ClassVar[str] = "reverse_sigmoid"

    def __post_init__(self) -> None:
        check(self, "beta", "a number in [0, 1]", lambda v: 0 <= v <= 1)
        check(self, "gamma", "a number in (0, 10]", lambda v: 0 < v <= 10)

    def poisoned(self, x: Array, y: Array, noise: Noise) -> Array:
        bend = self.beta * (expit(self.gamma * logit(np.clip(y, EDGE, 1 - EDGE))) - 0.5)
        return as_distributions(np.maximum(y - bend, 0.0))
