"""Value noise: move every number that a regression answers by a random amount of a stated size.

Costs the honest client   `size` in every answer, as a standard deviation, in the units of the target.
Does not stop             whoever asks about many rows: the noise is the same for the same question, but its mean over
                          neighbouring questions is zero.

Uniform noise, keyed by the question, so that asking again teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Interface, Request

__all__ = ["ValueNoise"]


@dataclass(frozen=True, kw_only=True)
class ValueNoise(Defense[None]):
    size: float = 1.0  # standard deviation of the noise, in the units of the target

    name: ClassVar[str] = "value_noise"

    def __post_init__(self) -> None:
        check(self, "size", "a number of at least 0", lambda v: 0 <= v < np.inf)

    def bind(self, interface: Interface) -> Self:
        if interface.task != "regression":
            raise NotApplicable("value_noise needs an API that answers numbers; this one predicts classes. Take noise.")
        return self

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        if answer.labels is not None or answer.scores is None:
            raise NotApplicable("value_noise needs an API that answers numbers; this one predicts classes. Take noise.")
        drawn = np.sqrt(3) * self.size * (2 * noise.uniform(request.x, 1) - 1)
        return Answer(None, answer.scores + drawn, answer.explanation)
