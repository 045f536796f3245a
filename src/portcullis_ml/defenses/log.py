"""Log: change nothing, so that a `Watch` only takes note.

Juuti, Szyller, Marchal, Asokan. "PRADA: Protecting Against DNN Model Stealing Attacks", IEEE EuroS&P
2019, section 5: an alarm is a finding first, and a consequence is a separate choice.

Costs the honest client   nothing.
Does not stop             anything; the alarm is on record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import Answer, Request

__all__ = ["Log"]


@dataclass(frozen=True, kw_only=True)
class Log(Defense[None]):
    name: ClassVar[str] = "log"
    keeps_labels: ClassVar[bool] = True
    same_for_all: ClassVar[bool] = True

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        return answer
