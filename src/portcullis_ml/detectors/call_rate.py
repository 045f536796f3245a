"""Call rate: so many calls to one model within an hour, as security monitoring has it; blind to what is asked.

Juuti, Szyller, Dmitrenko, Marchal, Asokan. "PRADA: Protecting against DNN Model Stealing Attacks", arXiv 1805.02628
version 1 (2018), the section on countermeasures, says why a rate alone does not stop a thief. The figures, 500 calls in
60 minutes, are those of rules that are written for logs of model endpoints; nobody published how they were chosen.

Costs the honest client   an alarm in every hour in which they are busy, as a batch job or a retry loop is.
Defaults hold for         nothing that was measured: set `threshold` above what your own clients ask in an hour.
Does not see              whoever asks more slowly or, unless their streams are pooled, through several accounts.

Every row is a call, however many travel in one request, or a thief would put many into each. The suspicion is the
number of calls in the last `per_s` seconds of the requests' own times, at most one more than `threshold`: to calibrate
it, set that high first. A clock that is set back stands still for this detector until it is where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from portcullis_ml.core.guard import Detector
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Request

__all__ = ["CallRate", "Calls"]


@dataclass
class Calls:
    """The times of one client's latest calls, in rising order: those that can still count."""

    times: Array = field(default_factory=lambda: np.empty(0))
    suspicion: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class CallRate(Detector[Calls]):
    threshold: float = 499.0  # calls in the time that are let pass; the next is an alarm, so the 500th
    per_s: float = 3_600.0  # seconds in which calls are counted

    name: ClassVar[str] = "call_rate"
    code: ClassVar[str] = "CALL_RATE"
    means: ClassVar[str] = "More rows were asked within the window than the threshold allows."

    def __post_init__(self) -> None:
        check(self, "threshold", "in [1, 1,000,000]", lambda v: 1 <= v <= 1_000_000)
        check(self, "per_s", "a positive number of seconds", lambda v: 0 < v < float("inf"))

    def start(self) -> Calls:
        return Calls()

    def suspicion(self, state: Calls) -> float:
        return state.suspicion

    def kept(self, state: Calls) -> int:
        return len(state.times)

    def update(self, state: Calls, request: Request, answer: Answer) -> Array:
        if not len(request):
            return np.empty(0)
        most = int(self.threshold) + 1
        at = max(request.at, float(state.times[-1])) if len(state.times) else request.at
        before = state.times[np.searchsorted(state.times, at - self.per_s, side="right") :]
        suspicion: Array = np.minimum(len(before) + np.arange(1.0, len(request) + 1), most)
        state.times = np.concatenate([before, np.full(min(len(request), most), at)])[-most:]
        state.suspicion = float(suspicion[-1])
        return suspicion
