"""The guard: the one object that the audit attacks and the gateway serves.

A guard is an ordered list of defenses. `admit` runs before the model (quotas, blocks), `release` after it: every stage
sees the undefended answer and the answer so far, and returns the next one. `Watch` makes a defense of a detector.

    guard = Guard(Watch(Prada(), then=LabelOnly()), Rounding(decimals=2), key=secrets.token_bytes(32))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import ParameterError, Refused
from portcullis_ml.core.randomness import QUANTUM, Noise
from portcullis_ml.core.settings import describe
from portcullis_ml.core.state import MemoryStore, Store
from portcullis_ml.core.types import Answer, Array, Interface, Request

__all__ = ["Alarm", "Defense", "Detector", "Guard", "Released"]

S = TypeVar("S")


class _Served(ABC, Generic[S]):
    """What detectors and defenses share. The defaults say: nothing of the kind."""

    name: ClassVar[str] = ""
    heavy: ClassVar[bool] = False  # runs a model: the gate calls it off its event loop

    def bind(self, interface: Interface) -> Self:
        """A copy for this API, with its artifacts loaded: where shapes, classes and files are checked, once.

        `interface` is that of the undefended answers. Return `settings.bound(self, ...)`. Raises ParameterError,
        InputError or NotApplicable in one sentence.
        """
        return self

    def warm(self) -> None:
        """Load or compile what the first request would else wait for."""

    def suspicion(self, state: S) -> float:
        """The latest suspicion of this client; NaN where there is none."""
        return float("nan")

    def kept(self, state: S) -> int:
        """How many of the client's rows the state holds."""
        return 0


class Detector(_Served[S]):
    """Reads one client's stream and gives every row a suspicion. Knows nothing of consequences.

    `update` is called with the *undefended* answer. A row is alarming when its suspicion is greater than `threshold`;
    NaN means that there is no verdict yet. Cutting a stream into other batches changes nothing.
    """

    threshold: float

    @abstractmethod
    def start(self) -> S:
        """The state of a client who has asked nothing: a dataclass that `core.state.pack` can write."""

    @abstractmethod
    def update(self, state: S, request: Request, answer: Answer) -> Array:
        """(n,) suspicions, one for each row in order; changes `state` in place."""

    def alarms(self, suspicion: Array) -> NDArray[np.bool_]:
        """(n,) which suspicions are alarming; NaN is not."""
        return np.asarray(suspicion > self.threshold)  # a NaN is above nothing


@dataclass(frozen=True)
class Alarm:
    """A detector's first alarm for a client: which stage, at which of the client's rows (1 is the first), how loud."""

    stage: str
    client: str
    row: int
    suspicion: float
    at: float


class Defense(_Served[S]):
    """One stage of a guard. Settings are its fields; what it remembers of a client is `S` (None if nothing).

    `keeps_labels` promises that `release` never changes a label, and the contract tests hold it to that.
    """

    keeps_labels: ClassVar[bool] = False
    same_for_all: ClassVar[bool] = False  # every row of every client gets the same: no decision about anyone
    blocks: ClassVar[bool] = False  # nothing is answered

    def shown(self, interface: Interface) -> Interface:
        """What an API that shows `interface` still shows behind this stage."""
        return interface

    def detectors(self) -> tuple[Detector[Any], ...]:
        """The detectors that read the stream in this stage."""
        return ()

    def warm(self) -> None:
        for detector in self.detectors():
            detector.warm()

    def start(self) -> S | None:
        """The state of a new client: a dataclass that `core.state.pack` can write, or None."""
        return None

    def admit(self, request: Request, state: S) -> None:
        """Before the model runs. Raise Refused to turn the request away; reserve what it will use."""

    def undo(self, request: Request, state: S) -> None:
        """Give back what `admit` reserved: the model could not answer."""

    @abstractmethod
    def release(self, request: Request, answer: Answer, clean: Answer, state: S, noise: Noise) -> Answer:
        """The answer after this stage. `clean` is the undefended answer; neither is ever modified."""

    def alarm(self, state: S) -> tuple[int, float] | None:
        """(row, suspicion) of this client's first alarm, or None."""
        return None


@dataclass(frozen=True)
class Released:
    """What a guard lets out: the answer, the rows that it changed, and the alarms that went off just now."""

    answer: Answer
    altered: NDArray[np.bool_]
    alarms: tuple[Alarm, ...] = ()
    by_stage: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)  # rows changed by stages not `same_for_all`


class Guard:
    """Defenses in the order in which an answer meets them, one state for each client and stage.

    key        secret bytes that key all served randomness; two guards with one key answer alike
    store      where states live; in memory unless given
    quantum    how coarse a question is (1/255 for 8-bit images): see `randomness.canonical`
    interface  of the undefended answers; stages are bound to it. Without one, whoever serves the guard binds it

    Not thread-safe for one client: the caller serialises each client's `admit` and `release`.
    """

    def __init__(
        self,
        *stages: Defense[Any],
        key: bytes,
        store: Store | None = None,
        quantum: float = QUANTUM,
        interface: Interface | None = None,
    ) -> None:
        if len(key) < 16:
            raise ParameterError("Guard.key", "at least 16 secret bytes (secrets.token_bytes(32))", f"{len(key)} bytes")
        self.stages: Sequence[Defense[Any]] = stages
        self.store: Store = MemoryStore() if store is None else store
        self.names = [f"{i}-{stage.name or type(stage).__name__}" for i, stage in enumerate(stages)]
        self._noises = [Noise(key, name, quantum) for name in self.names]
        self._bound = False
        self._prepare()
        if interface is not None:
            self.bind(interface)

    def bind(self, interface: Interface) -> None:
        """Bind every stage to the API that it stands before. Only the first call does anything."""
        if not self._bound:
            self.stages = tuple(stage.bind(interface) for stage in self.stages)
            self._bound = True
            self._prepare()

    def _prepare(self) -> None:
        """A stage that remembers nothing is not asked what it remembers, nor one without alarms for an alarm."""
        self._plan = [
            (name, stage, noise, stage.start() is not None, type(stage).alarm is not Defense.alarm)
            for name, stage, noise in zip(self.names, self.stages, self._noises, strict=True)
        ]

    def describe(self) -> list[dict[str, Any]]:
        """The settings of every stage, JSON throughout; the key is not among them."""
        return [describe(stage) for stage in self.stages]

    @property
    def keeps_labels(self) -> bool:
        return all(stage.keeps_labels for stage in self.stages)

    @property
    def heavy(self) -> bool:
        """Whether some stage runs a model."""
        return any(stage.heavy for stage in self.stages)

    def detectors(self) -> list[Detector[Any]]:
        """Every stage's detectors, in order."""
        return [detector for stage in self.stages for detector in stage.detectors()]

    def shown(self, interface: Interface) -> Interface:
        """What an API that shows `interface` still shows behind this guard."""
        for stage in self.stages:
            interface = stage.shown(interface)
        return interface

    def warm(self) -> None:
        """Load or compile what the first request would else wait for."""
        for stage in self.stages:
            stage.warm()

    def admit(self, request: Request) -> None:
        """Raise Refused if any stage turns the request away; otherwise every stage has reserved its share."""
        reserved: list[tuple[str, Defense[Any], Any]] = []
        client = request.client
        for name, stage, _, remembers, _ in self._plan:
            state = self._state(client, name, stage) if remembers else None
            try:
                stage.admit(request, state)
            except Refused as refusal:
                refusal.stage = name
                self._undo(request, reserved)
                raise
            reserved.append((name, stage, state))
            if remembers:
                self._keep(client, name, state)

    def undo(self, request: Request) -> None:
        """The model did not answer: give back what `admit` reserved."""
        states = [(n, s, self._state(request.client, n, s)) for n, s in zip(self.names, self.stages, strict=True)]
        self._undo(request, states)

    def release(self, request: Request, clean: Answer) -> Released:
        """Pass the undefended answer through every stage."""
        answer, alarms, by_stage = clean, [], {}
        client = request.client
        for name, stage, noise, remembers, sounds in self._plan:
            state = self._state(client, name, stage) if remembers else None
            before = stage.alarm(state) if sounds else None
            was, answer = answer, stage.release(request, answer, clean, state, noise)
            if answer is not was and not stage.same_for_all:
                by_stage[name] = changed(was, answer)
            if sounds and before is None and (after := stage.alarm(state)) is not None:
                alarms.append(Alarm(name, client, *after, request.at))
            if remembers:
                self._keep(client, name, state)
        return Released(answer, changed(clean, answer), tuple(alarms), by_stage)

    def _undo(self, request: Request, reserved: list[tuple[str, Defense[Any], Any]]) -> None:
        for name, stage, state in reversed(reserved):
            stage.undo(request, state)
            self._keep(request.client, name, state)

    def _state(self, client: str, name: str, stage: Defense[Any]) -> Any:
        state = self.store.load((client, name))
        return stage.start() if state is None else state

    def _keep(self, client: str, name: str, state: Any) -> None:
        if state is not None:
            self.store.save((client, name), state)


def changed(clean: Answer, answer: Answer) -> NDArray[np.bool_]:
    """(n,) rows in which the answer differs from the undefended one, in label, score or explanation."""
    differs = np.zeros(len(clean), bool)
    pairs = ((clean.labels, answer.labels), (clean.scores, answer.scores), (clean.explanation, answer.explanation))
    for was, now in pairs:
        if was is None or was is now:
            continue
        if now is None:
            return np.ones(len(clean), bool)
        if was.tobytes() == now.tobytes():  # as nearly always; it also spares a look for NaN
            continue
        unlike = was != now
        if was.dtype.kind == "f":
            unlike &= ~(np.isnan(was) & np.isnan(now))  # withheld before and after
        differs |= unlike.reshape(len(clean), -1).any(axis=1)
    return differs
