"""Quota: so many rows in so many seconds, counted in rows and reserved before the model runs.

Kesarwani, Mukhoty, Arya, Mehta. "Model Extraction Warning in MLaaS Paradigm", ACSAC 2018 (a budget of
queries is the first warning); Juuti et al., EuroS&P 2019, section 7 (what a budget does not see).

Costs the honest client   refusals beyond the quota; a request is served whole or not at all, and a refusal says
                          how many rows are left.
Does not stop             a patient thief, and one with many accounts. It sets the price of a copy in days.

A window begins with the first row asked in it and lasts `per` seconds of the requests' own times, so
nothing here reads a clock; where these times go back, it begins anew with what is used in it. With
`per=None` the quota is for life. What was reserved for a request that the model could not answer is given
back, unless its window is over. Stack two for a day's and a second's limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Request
from portcullis_ml.defenses._windows import renewed

__all__ = ["Quota", "Used"]


@dataclass
class Used:
    """Rows used in the window that began at `since`."""

    rows: int = 0
    since: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Quota(Defense[Used]):
    rows: int = 10_000  # rows a client may ask in a window
    per: float | None = 86_400.0  # seconds that a window lasts; None means for life

    name: ClassVar[str] = "quota"
    keeps_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "rows", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "per", "None or a positive number of seconds", lambda v: v is None or v > 0)

    def start(self) -> Used:
        return Used()

    def admit(self, request: Request, state: Used) -> None:
        state.since, fresh = renewed(state.since, request.at, self.per, unused=state.rows == 0)
        if fresh:
            state.rows = 0
        if state.rows + len(request) > self.rows:
            wait = None if self.per is None else max(state.since + self.per - request.at, 0.0)
            raise Refused("its quota of rows is used up", retry_after=wait, room=self.rows - state.rows)
        state.rows += len(request)

    def undo(self, request: Request, state: Used) -> None:
        if request.at >= state.since:
            state.rows = max(state.rows - len(request), 0)

    def release(self, request: Request, answer: Answer, clean: Answer, state: Used, noise: Noise) -> Answer:
        return answer
