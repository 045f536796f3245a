"""Priced: every row costs credit, and the more the more its client is suspected. Nobody is refused who can pay.

Charging instead of refusing: Lee's talk and the lecture name up-front charging among the ways to restrict access; that
the price follows a detector's suspicion is ours. Compare Dziedzic et al., "Increasing the Cost of Model Extraction with
Calibrated Proof of Work", ICLR 2022, section 4, who take payment in work (see `proof_of_work`).

Costs the honest client   the ordinary price, and more while a detector suspects them.
Does not stop             who has the money, or many accounts; and a request is priced by what was known before it, so
                          the rows of a first large request cost the ordinary price.

The credit is renewed every `per` seconds of the requests' own times; with `per=None` it is for life. A request is
served whole or not at all, and a refusal says how many rows the credit still pays for. What a request has cost is given
back when the model could not answer.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Request
from portcullis_ml.defenses._charges import Charged, Charging
from portcullis_ml.defenses._windows import renewed

__all__ = ["Priced"]


@dataclass(frozen=True)
class Priced(Charging):
    _: KW_ONLY
    credit: float = 10_000.0  # that a client has in a window, in whatever unit the prices are
    price: float = 1.0  # of a row of an ordinary client
    per: float | None = 86_400.0  # seconds that a window lasts; None means for life

    name: ClassVar[str] = "priced"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "credit", "a positive number", lambda v: 0 < v < math.inf)
        check(self, "price", "a positive number of at most the credit", lambda v: 0 < v <= self.credit)
        check(self, "per", "None or a positive number of seconds", lambda v: v is None or v > 0)

    def admit(self, request: Request, state: Charged) -> None:
        state.since, fresh = renewed(state.since, request.at, self.per, unused=state.spent == 0)
        if fresh:
            state.spent = 0.0
        each = self.price * self.times(state.suspicion)
        left = self.credit - state.spent
        if each * len(request) > left:
            wait = None if self.per is None else max(state.since + self.per - request.at, 0.0)
            raise Refused("its credit is used up", retry_after=wait, room=math.floor(max(left, 0.0) / each))
        self.charge(request, state, each * len(request))
