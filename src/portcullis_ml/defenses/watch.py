"""Watch: a detector, and what happens from its first alarm on.

Juuti, Szyller, Marchal, Asokan. "PRADA: Protecting Against DNN Model Stealing Attacks", IEEE EuroS&P
2019, section 5; latching because an attack's own statistics recover while it goes on (Papernot's
Shapiro-Wilk W is back at .986 after 3,200 queries).

Costs the honest client   nothing until an alarm; from a false alarm on, whatever `then` costs them.
Does not stop             what the detector does not see, and the rows answered before the alarm.

The row that sets the alarm off is the first to get `then`, and every later one gets it too; the
detector is not asked again. With `then=Block()` later requests are refused before the model runs.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, make_dataclass
from functools import cache
from typing import Any, ClassVar, Self

from portcullis_ml.core.guard import Defense, Detector
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Answer, Interface, Request
from portcullis_ml.defenses.block import Block

__all__ = ["Watch", "Watching"]


@dataclass
class Watching:
    """What is remembered of one client; `_watching` narrows the first two types, so that it can be stored."""

    detector: Any  # the detector's state
    then: Any  # the state of what happens then
    rows: int = 0  # seen before the alarm, the alarming one included
    row: int = 0  # which row set the alarm off, 1 being the first; 0 while there was none
    suspicion: float = float("nan")  # the latest, or the alarm's


@cache
def _watching(detector: Any, then: Any) -> type[Watching]:
    return make_dataclass("Watching", [("detector", detector), ("then", then)], bases=(Watching,))


@dataclass(frozen=True)
class Watch(Defense[Watching]):
    detector: Detector[Any]  # reads the undefended answers
    _: KW_ONLY
    then: Defense[Any] = field(default_factory=Block)  # the defense that every row gets from the alarm on

    name: ClassVar[str] = "watch"

    def __post_init__(self) -> None:
        check(self, "detector", "a detector, such as Prada()", lambda v: isinstance(v, Detector))
        check(self, "then", "a defense, such as Block()", lambda v: isinstance(v, Defense))

    @property
    def keeps_labels(self) -> bool:  # type: ignore[override]  # it depends on a setting
        return self.then.keeps_labels

    @property
    def blocks(self) -> bool:  # type: ignore[override]  # it depends on a setting
        return self.then.blocks

    @property
    def heavy(self) -> bool:  # type: ignore[override]  # it depends on a setting
        return self.detector.heavy or self.then.heavy

    def bind(self, interface: Interface) -> Self:
        return bound(self, detector=self.detector.bind(interface), then=self.then.bind(interface))

    def detectors(self) -> tuple[Detector[Any], ...]:
        return self.detector, *self.then.detectors()

    def warm(self) -> None:
        self.detector.warm()
        self.then.warm()

    def start(self) -> Watching:
        detector, then = self.detector.start(), self.then.start()
        kinds: Any = type(detector), type(then)
        return _watching(*kinds)(detector, then)

    def alarm(self, state: Watching) -> tuple[int, float] | None:
        return (state.row, state.suspicion) if state.row else None

    def suspicion(self, state: Watching) -> float:
        return state.suspicion

    def kept(self, state: Watching) -> int:
        return self.detector.kept(state.detector)

    def admit(self, request: Request, state: Watching) -> None:
        if state.row:
            self.then.admit(request, state.then)

    def undo(self, request: Request, state: Watching) -> None:
        if state.row:
            self.then.undo(request, state.then)

    def release(self, request: Request, answer: Answer, clean: Answer, state: Watching, noise: Noise) -> Answer:
        calm = self._calm(request, clean, state)
        if calm == len(request):
            return answer
        late = slice(calm, None)
        rest = Request(request.client, request.x[late], request.at)
        changed = self.then.release(rest, answer.take(late), clean.take(late), state.then, noise)
        return changed if calm == 0 else Answer.concat([answer.take(slice(calm)), changed])

    def _calm(self, request: Request, clean: Answer, state: Watching) -> int:
        """How many rows at the head of the request come before an alarm; notes it if there is one.

        The detector goes on reading after the alarm, although its result is not used: faster
        answers would give the alarm away.
        """
        suspicion = self.detector.update(state.detector, request, clean)
        n = len(request)
        if state.row:
            return 0
        loud = self.detector.alarms(suspicion).tolist()
        calm = loud.index(True) if True in loud else n
        if calm < n:
            state.row = state.rows + calm + 1
        if n:
            state.suspicion = float(suspicion[min(calm, n - 1)])
        state.rows += min(calm + 1, n)
        return calm
