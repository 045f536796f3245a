"""Temperature: divide the logits by a number before they become probabilities, so that all answers look less sure.

Guo, Pleiss, Sun, Weinberger. "On Calibration of Modern Neural Networks", ICML 2017, the section on temperature scaling;
Shokri, Stronati, Song, Shmatikov. "Membership Inference Attacks Against Machine Learning Models", IEEE S&P 2017, the
section on mitigation, which names it against membership inference.

Costs the honest client   the size of every score; labels never change.
Does not stop             whoever knows the temperature, or sees enough answers to guess it: nothing is lost but digits,
                          so raising the scores to that power gives them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.defenses._poisoned import Poisoned

__all__ = ["Temperature"]

EDGE = 1e-300  # a probability of 0 has no logarithm


@dataclass(frozen=True, kw_only=True)
class Temperature(Poisoned):
    t: float = 5.0  # above 1 all classes look more alike, below 1 the first looks surer

    name: ClassVar[str] = "temperature"
    keeps_labels: ClassVar[bool] = True
    same_for_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "t", "a number above 0", lambda v: 0 < v < np.inf)

    def poisoned(self, x: Array, y: Array, noise: Noise) -> Array:
        logits = np.log(np.maximum(y, EDGE)) / self.t
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
