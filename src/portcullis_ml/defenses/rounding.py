"""Rounding: show every score to a few decimals only.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 7.

Costs the honest client   half a unit of the last decimal in every score; labels never change.
Does not stop             equation solving at 4 or 5 decimals, retraining at any, anything that reads labels.

The label is the one from before rounding, so that ties between rounded scores change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Interface, Request

__all__ = ["Rounding"]


@dataclass(frozen=True, kw_only=True)
class Rounding(Defense[None]):
    decimals: int = 2  # digits that are left after the point; below 0, of a regression's answers, before it: -1 is tens
    renormalise: bool = False  # divide rounded probabilities by their sum; rows that round to 0 stay

    name: ClassVar[str] = "rounding"
    keeps_labels: ClassVar[bool] = True
    same_for_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "decimals", "an int in [-12, 12]", lambda v: isinstance(v, int) and -12 <= v <= 12)
        check(self, "renormalise", "True or False", lambda v: isinstance(v, bool))

    def bind(self, interface: Interface) -> Self:
        if self.decimals < 0 and interface.task == "classification":
            raise ParameterError(f"{self.name}.decimals", "an int in [0, 12] for probabilities", self.decimals)
        return self

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        if answer.scores is None:
            return answer
        scores = answer.scores.round(self.decimals)
        if self.renormalise and answer.labels is not None:
            total = np.nansum(scores, axis=1, keepdims=True)
            scores = scores / np.where(total > 0, total, 1.0)
        return Answer(answer.labels, scores, answer.explanation)
