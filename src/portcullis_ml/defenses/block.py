"""Block: answer nothing.

Juuti, Szyller, Marchal, Asokan. "PRADA: Protecting Against DNN Model Stealing Attacks", IEEE EuroS&P
2019, section 5 (what to do on an alarm): sensible where a client cannot come back under another name.

Costs the honest client   everything, if the alarm was false.
Does not stop             a thief with many accounts, who loses one of them.

As the consequence of a `Watch` it turns later requests away before the model runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Request

__all__ = ["Block"]


@dataclass(frozen=True, kw_only=True)
class Block(Defense[None]):
    reason: str = "this client was blocked"  # what the client is told; it ends a sentence
    retry_after: float | None = None  # seconds after which the client may hope; None says nothing

    name: ClassVar[str] = "block"
    same_for_all: ClassVar[bool] = True
    blocks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "reason", "some text", lambda v: isinstance(v, str) and bool(v.strip()))
        check(self, "retry_after", "None or a number of seconds, at least 0", lambda v: v is None or v >= 0)

    def admit(self, request: Request, state: None) -> None:
        raise Refused(self.reason, retry_after=self.retry_after)

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        return answer.withhold(np.ones(len(answer), bool))
