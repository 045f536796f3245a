"""What a question costs a client whom a detector suspects: the price of a row, which rises with their suspicion.

A request is priced by what was known of its client before it, so that the price is known before the model runs.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field, make_dataclass
from functools import cache
from typing import Any, Self

from portcullis_ml.core.guard import Defense, Detector
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Answer, Interface, Request

__all__ = ["Bill", "Charged", "Charging"]


@dataclass
class Bill:
    """What a request that has not been answered yet has cost."""

    at: float
    rows: int
    cost: float


@dataclass
class Charged:
    """What is remembered of one client; `_charged` narrows the first type, so that it can be stored."""

    detector: Any  # the detector's state
    suspicion: float = float("nan")  # the latest
    spent: float = 0.0  # in the window that began at `since`
    since: float = 0.0
    open: list[Bill] = field(default_factory=list)


@cache
def _charged(detector: Any) -> type[Charged]:
    return make_dataclass("Charged", [("detector", detector)], bases=(Charged,))


@dataclass(frozen=True)
class Charging(Defense[Charged]):
    """A stage that charges instead of refusing. Subclasses say in `admit` what a price is paid in."""

    detector: Detector[Any]  # reads the undefended answers
    _: KW_ONLY
    normal: float = 0.0  # the suspicion of an ordinary client, up to which a row costs no more than theirs
    factor: float = 10.0  # by which the price has risen at the detector's threshold, and as much again as far beyond
    most: float = 1e6  # times the ordinary price, at most

    keeps_labels = True

    def __post_init__(self) -> None:
        check(self, "detector", "a detector, such as Prada()", lambda v: isinstance(v, Detector))
        below = "a number below the detector's threshold"
        check(self, "normal", below, lambda v: math.isfinite(v) and v < self.detector.threshold)
        check(self, "factor", "a number of at least 1", lambda v: 1 <= v < math.inf)
        check(self, "most", "a number of at least 1", lambda v: 1 <= v < math.inf)

    def times(self, suspicion: float) -> float:
        """How many times the ordinary price a row costs at this suspicion; 1 where there is no verdict."""
        steps = (suspicion - self.normal) / (self.detector.threshold - self.normal)
        if not steps > 0:  # nor where there is none
            return 1.0
        return self.most if steps * math.log(self.factor) > math.log(self.most) else float(self.factor**steps)

    @property
    def heavy(self) -> bool:  # type: ignore[override]  # it depends on a setting
        return self.detector.heavy

    def bind(self, interface: Interface) -> Self:
        return bound(self, detector=self.detector.bind(interface))

    def detectors(self) -> tuple[Detector[Any], ...]:
        return (self.detector,)

    def start(self) -> Charged:
        detector = self.detector.start()
        kind: Any = type(detector)
        return _charged(kind)(detector)

    def suspicion(self, state: Charged) -> float:
        return state.suspicion

    def kept(self, state: Charged) -> int:
        return self.detector.kept(state.detector)

    def charge(self, request: Request, state: Charged, cost: float) -> None:
        """Write the cost of a request down, until it is answered or given up."""
        state.spent += cost
        state.open.append(Bill(request.at, len(request), cost))

    def undo(self, request: Request, state: Charged) -> None:
        bill = _closed(request, state)
        if bill is not None and request.at >= state.since:
            state.spent = max(state.spent - bill.cost, 0.0)

    def release(self, request: Request, answer: Answer, clean: Answer, state: Charged, noise: Noise) -> Answer:
        _closed(request, state)
        suspicion = self.detector.update(state.detector, request, clean)
        if len(suspicion):
            state.suspicion = float(suspicion[-1])
        return answer


def _closed(request: Request, state: Charged) -> Bill | None:
    """The bill of this request, which waits for no answer any more."""
    for i, bill in enumerate(state.open):
        if (bill.at, bill.rows) == (request.at, len(request)):
            return state.open.pop(i)
    return None
