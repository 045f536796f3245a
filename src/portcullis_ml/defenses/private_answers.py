"""Private answers: Laplace noise on every probability, so that one answer by itself gives little away.

Dwork, McSherry, Nissim, Smith. "Calibrating Noise to Sensitivity in Private Data Analysis", TCC 2006 (the mechanism);
Tramèr, Zhang, Juels, Reiter, Ristenpart, USENIX Security 2016, section 7, say what it is worth against extraction.

Costs the honest client   noise of scale 2 / `eps` in every score; labels, at an `eps` below about ten.
Does not stop             extraction at the `eps` that leaves a model useful: privacy of the training data and secrecy
                          of the model are two things, and a model trained privately is stolen like any other.

Two distributions differ by at most 2 in L1, so one answer has a privacy loss of at most `eps` towards any other answer
to that question, and n questions of one client n * eps (sequential composition). The same question gets the same noise,
so asking again costs nothing and tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.defenses._poisoned import Poisoned, as_distributions

__all__ = ["PrivateAnswers"]

SENSITIVITY = 2.0  # the greatest L1 distance of two distributions


@dataclass(frozen=True, kw_only=True)
class PrivateAnswers(Poisoned):
    eps: float = 20.0  # privacy loss of one answer; less is more noise

    name: ClassVar[str] = "private_answers"

    def __post_init__(self) -> None:
        check(self, "eps", "a number above 0", lambda v: 0 < v < np.inf)

    def poisoned(self, x: Array, y: Array, noise: Noise) -> Array:
        drawn = noise.uniform(x, y.shape[1]) - 0.5
        laplace = -(SENSITIVITY / self.eps) * np.sign(drawn) * np.log1p(-2 * np.minimum(np.abs(drawn), 0.5 - 1e-16))
        return as_distributions(np.clip(y + laplace, 0.0, 1.0))
