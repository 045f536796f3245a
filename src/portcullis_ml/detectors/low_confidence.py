"""Low confidence: of rows that are not of the model's domain, the model is often unsure.

Hendrycks, Gimpel. "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks", ICLR
2017, the section on the maximum softmax probability as a score of single rows.

Costs the honest client   an alarm if many of their rows are hard for the model: set `below` and `threshold` on benign
                          streams of your own. Nothing is trained or fitted.
Defaults hold for         no model but one that is seldom in doubt: of 60 honest clients 0 to 5.8% were called on a
                          day on five data sets (worst 95% interval 2.1% to 12.6%, `benchmarks/calibration.py`),
                          and all on CIFAR-10 by a model that is right on a third of it: calibrate.
Does not see              a thief whose rows are like the victim's own; foreign rows of which the model is sure, as
                          networks often are; steps that lead away from borders.

A row is doubtful where the greatest probability of the undefended answer is below `below`. One such row says little of
a client, so the suspicion is the share of doubtful rows in every `window` questions; it holds until the next window is
full. Two counters are kept of a client. To act on single rows, take the defense `out_of_domain(score=msp)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Request, Reveals
from portcullis_ml.detectors._shares import Doubts, shares

__all__ = ["LowConfidence"]


@dataclass(frozen=True, kw_only=True)
class LowConfidence(Detector[Doubts]):
    threshold: float = 0.3  # the share of doubtful rows that is an alarm; lower alarms sooner and more often falsely
    below: float = 0.5  # a row is doubtful whose greatest probability is below
    window: int = 50  # questions in one verdict; more makes it surer and later

    name: ClassVar[str] = "low_confidence"
    code: ClassVar[str] = "UNSURE_ANSWERS"
    means: ClassVar[str] = "The model is unsure of an unusual share of the questions."

    def __post_init__(self) -> None:
        check(self, "threshold", "in (0, 1)", lambda v: 0 < v < 1)
        check(self, "below", "in (0, 1]", lambda v: 0 < v <= 1)
        check(self, "window", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def bind(self, interface: Interface) -> Self:
        if interface.task == "regression":
            raise NotApplicable(
                f"{self.name} needs an API that predicts classes; this one does regression. Leave it out."
            )
        if interface.reveals is Reveals.LABELS:
            raise NotApplicable(f"{self.name} needs a model that gives probabilities; this one gives labels alone.")
        return self

    def start(self) -> Doubts:
        return Doubts()

    def suspicion(self, state: Doubts) -> float:
        return state.suspicion

    def update(self, state: Doubts, request: Request, answer: Answer) -> Array:
        if answer.labels is None:
            raise NotApplicable(
                f"{self.name} needs an API that predicts classes; this one does regression. Leave it out."
            )
        if not len(request):
            return np.empty(0)
        if answer.scores is None:
            raise NotApplicable(f"{self.name} needs a model that gives probabilities; this one gives labels alone.")
        return shares(state, ~(answer.scores.max(axis=1) >= self.below), self.window)
