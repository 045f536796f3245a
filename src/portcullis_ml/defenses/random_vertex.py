"""Random vertex: move the answer towards one class, which has nothing to do with the question.

Orekondy, Schiele, Fritz. "Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks", ICLR 2020, the
section on ablations (a random class, or the least likely one, in place of the class of the greatest angle).

Costs the honest client   a distance of `eps` in L1 in every answer; labels from `eps` = 1 on, earlier where the model
                          is unsure.
Does not stop             whoever reads labels below that; the mean over neighbouring questions points to the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.defenses._poisoned import Poisoned, moved

__all__ = ["RandomVertex"]


@dataclass(frozen=True, kw_only=True)
class RandomVertex(Poisoned):
    eps: float = 0.5  # how far each answer is moved, in L1; from 0 to 2
    vertex: Literal["random", "least"] = "random"  # towards a random class, the question's own, or the least likely one

    name: ClassVar[str] = "random_vertex"

    def __post_init__(self) -> None:
        check(self, "eps", "a number in [0, 2]", lambda v: 0 <= v <= 2)
        check(self, "vertex", "'random' or 'least'", lambda v: v in ("random", "least"))

    def poisoned(self, x: Array, y: Array, noise: Noise) -> Array:
        width = y.shape[1]
        at = noise.integers(x, width) if self.vertex == "random" else y.argmin(axis=1)
        return moved(y, np.eye(width)[at], self.eps)
