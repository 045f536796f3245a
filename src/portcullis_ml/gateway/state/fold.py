"""The fold: one event at a time, what a client's journal means for the guard that reads it.

Nothing here waits, writes or reads a clock, so that a gate, its replica, a restart and `portcullis
replay` all come to the same decisions from the same events.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson

from portcullis_ml.catalog import identity
from portcullis_ml.core.errors import PortcullisError, Refused
from portcullis_ml.core.guard import Alarm, Defense, Guard, Released
from portcullis_ml.core.state import Key, parts, unpack
from portcullis_ml.core.types import Request
from portcullis_ml.gateway.state.accounts import Asked, count
from portcullis_ml.gateway.state.events import JournalEvent, pack_event, unpack_event
from portcullis_ml.gateway.state.evidence import recorded
from portcullis_ml.gateway.state.latest import KEPT, Latest, latest_of, singled_out
from portcullis_ml.gateway.state.lock import Lock
from portcullis_ml.gateway.state.paging import Marks

__all__ = ["OPERATOR", "Failed", "Fold", "Outcome", "Point", "Restored", "Stream", "alarmed"]

SKEW_S = 60.0  # by which clocks of replicas may differ
OPERATOR = "operator"  # in the place of a stage, where an operator's block refused a request
POINTS = 240  # of a client's curves on the dashboard
# The sentence of `block` unless a policy sets one, now and in earlier versions: whom they blocked stays blocked.
TOLD = b'"reason":"this client was blocked"', b'"reason":"its queries look like an extraction attack"'
log = logging.getLogger("portcullis.gate")


class Failed(PortcullisError):
    """A stage of the guard raised an error on this request; its state stands as the stage left it. `place` is the
    request's place in its client's journal, where there is one."""

    place = 0


Outcome = None | Refused | Released | Failed


class Point(NamedTuple):
    """Of a client's curves on the dashboard."""

    rows: int
    loudest: float  # suspicion of all stages; -1 where none has a verdict
    kept: int  # samples
    suspicions: dict[str, float]  # of each stage that has a verdict


@dataclass
class Stream:
    """One client as this process has folded it so far: a principal, whichever of its accounts asks."""

    client: str
    position: int = 0  # in the journal
    states: dict[str, Any] = field(default_factory=dict)  # stage -> what it remembers
    prints: dict[str, str] = field(default_factory=dict)  # stage -> digest of the settings under which it does
    pending: dict[int, Asked] = field(default_factory=dict)  # sequence number -> admitted, not answered yet
    tally: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("requests", "rows", "altered", "refused"), 0))
    decided: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  # stage -> rows "changed", requests "refused" by it
    accounts: dict[str, list[float]] = field(default_factory=dict)  # account -> rows answered, first and last time
    curve: list[Point] = field(default_factory=list)
    latest: deque[Latest] = field(default_factory=partial(deque, maxlen=KEPT))  # answers; not in snapshots
    blocked: str = ""  # the operator who did it
    generation: int = 0  # how often an operator has cleared this client
    last: float = 0.0  # time of the latest request
    debt: list[JournalEvent] = field(default_factory=list)  # events that the journal does not hold yet
    snapped: int = 0  # position of the latest snapshot ...
    pages: frozenset[bytes] = frozenset()  # ... and the names of its pages
    marks: Marks = field(default_factory=Marks)  # of the latest one that this process cut
    saving: bool = False  # a snapshot is being written
    ready: bool = True  # false while the journal is still being folded
    busy: int = 0  # coroutines that hold this stream
    lock: Lock = field(default_factory=Lock)


class Fold:
    """A guard, and the streams that it folds."""

    def __init__(self, guard: Guard, streams: MutableMapping[str, Stream]) -> None:
        self.streams = streams
        self.use(guard)

    def use(self, guard: Guard) -> None:
        """Take this guard from the next event on. What stages of the same name and settings know is kept; the rest
        starts anew. Whoever is applying an event on another thread ends it with the guard that they began with."""
        guard.store = _Hot(self.streams)
        prints = _fingerprints(guard)
        kinds = {n: type(s.start()) for n, s in zip(guard.names, guard.stages, strict=True)}
        self._used = _Used(guard, prints, kinds)
        self.heavy = guard.heavy  # whether a stage runs a model, so that `apply` takes long
        for stream in self.streams.values():
            if stream.ready and not stream.lock.locked():
                _adopt(stream, prints)

    @property
    def guard(self) -> Guard:
        return self._used.guard

    def apply(self, stream: Stream, seq: int, event: JournalEvent) -> tuple[Outcome, list[Alarm]]:
        """The outcome of one event, and the alarms that it set off. `seq` is its place in the journal.

        One call at a time for one stream; those for different streams may run on different threads.
        """
        used, kind = self._used, event.kind
        if stream.prints is not used.prints:
            _adopt(stream, used.prints)
        if kind == "release":
            return self._release(used.guard, stream, event.of, event)
        if kind in ("admit", "whole"):
            failed = self._admit(used.guard, stream, seq, event)
            return (failed, []) if kind == "admit" or failed else self._release(used.guard, stream, seq, event)
        if kind == "undo":
            request = stream.pending.pop(event.of, None)
            return (None if request is None else _undone(used.guard, request)), []
        stream.blocked = event.by if kind == "block" else ""
        if kind == "unblock":
            for name, _, _ in alarmed(used.guard, stream):
                del stream.states[name]  # its detector begins anew; quotas and other stages remember
                stream.generation += 1
        if kind == "clear":
            stream.states.clear()
            stream.curve.clear()
            stream.generation += 1
        return None, []

    def _admit(self, guard: Guard, stream: Stream, seq: int, event: JournalEvent) -> Refused | Failed | None:
        # Where clocks of replicas differ a little, a client's time stands still; where one was set right, it goes back.
        stream.last = event.at if event.at < stream.last - SKEW_S else max(stream.last, event.at)
        x = event.x.astype(np.float64, copy=False)  # type: ignore[union-attr]
        request = Asked(stream.client, x, stream.last, event.of, account=event.by)
        try:
            if stream.blocked:
                raise Refused("this client was blocked")
            guard.admit(request)
        except Refused as refusal:
            stream.tally["refused"] += 1
            _decided(stream, refusal.stage or OPERATOR)["refused"] += 1
            return refusal
        except Exception as error:
            return _failed(error, stream.client)
        stream.pending[seq] = request
        return None

    def _release(self, guard: Guard, stream: Stream, seq: int, event: JournalEvent) -> tuple[Outcome, list[Alarm]]:
        request = stream.pending.pop(seq, None)
        if request is None or event.answer is None:  # undone meanwhile by a replica that lost patience
            return Failed("The answer came after the request was given up."), []
        try:
            released = guard.release(request, event.answer)
        except Exception as error:
            return _failed(error, stream.client), []
        tally = stream.tally
        tally["requests"] += 1
        tally["rows"] += len(request)
        tally["altered"] += singled_out(released)
        for name, rows in released.by_stage.items():
            _decided(stream, name)["changed"] += rows.tolist().count(True)
        stream.latest.append(latest_of(request.at, event.answer, released))
        count(stream.accounts, request)
        _draw(guard, stream)
        if released.alarms:
            released = replace(released, alarms=tuple(_recorded(guard, stream, alarm) for alarm in released.alarms))
        return released, list(released.alarms)

    def pack(self, stream: Stream) -> list[bytes | memoryview]:
        """A head of JSON, then states and waiting requests one after another. The arrays are the states' own: whoever
        holds these buffers sees to it that nobody folds the stream meanwhile."""
        states = {n: parts(s) for n, s in stream.states.items()}
        waiting = {
            seq: pack_event(JournalEvent("admit", r.at, r.work, r.x, by=r.account)) for seq, r in stream.pending.items()
        }
        head = {
            "states": [(n, stream.prints.get(n), sum(map(len, b))) for n, b in states.items()],
            "pending": [(seq, len(b)) for seq, b in waiting.items()],
            "tally": stream.tally,
            "decided": stream.decided,
            "accounts": stream.accounts,
            "curve": [tuple(point) for point in stream.curve],
            "blocked": stream.blocked,
            "generation": stream.generation,
            "last": stream.last,
        }
        text = orjson.dumps(head)
        arrays = [part for state in states.values() for part in state]
        return [len(text).to_bytes(4, "little") + text, *arrays, *waiting.values()]

    def read(self, data: bytes) -> Restored:
        """What `pack` wrote, states of stages that changed since left out. Touches no stream: any thread may do it."""
        start = 4 + int.from_bytes(data[:4], "little")
        head = orjson.loads(data[4:start])
        states: dict[str, tuple[str, Any]] = {}
        pending, whole, used = {}, memoryview(data), self._used
        for name, mark, size in head["states"]:
            if mark == used.prints.get(name):
                states[name] = (mark, unpack(used.kinds[name], whole[start : start + size]))
            start += size
        for seq, size in head["pending"]:
            pending[seq] = unpack_event(data[start : start + size])
            start += size
        return Restored(head, states, pending)

    def restore(self, stream: Stream, found: Restored) -> None:
        """Bring a stream to where `pack` found it."""
        head, stream.prints = found.head, self._used.prints
        stream.states = {n: s for n, (mark, s) in found.states.items() if mark == stream.prints.get(n)}
        stream.pending = {seq: Asked(stream.client, e.x, e.at, e.by) for seq, e in found.pending.items()}  # type: ignore[arg-type]
        stream.tally, stream.decided = head["tally"], head.get("decided", {})
        stream.accounts = head.get("accounts", {})  # earlier versions had none
        stream.curve = [Point(*(*point, {})[:4]) for point in head["curve"]]  # earlier versions had three of the four
        stream.blocked, stream.generation, stream.last = head["blocked"], head["generation"], head["last"]


@dataclass(frozen=True)
class Restored:
    """A snapshot as read: its head, states by stage with the digest of their settings, and waiting requests."""

    head: dict[str, Any]
    states: dict[str, tuple[str, Any]]
    pending: dict[int, JournalEvent]


class _Used(NamedTuple):
    """A guard as the fold uses it."""

    guard: Guard
    prints: dict[str, str]  # stage -> digest of its settings
    kinds: dict[str, type]  # stage -> type of its state


class _Hot:
    """The guard's store: the states of the streams in memory."""

    def __init__(self, streams: MutableMapping[str, Stream]) -> None:
        self._streams = streams

    def load(self, key: Key) -> Any | None:
        return self._streams[key[0]].states.get(key[1])

    def save(self, key: Key, state: Any) -> None:
        self._streams[key[0]].states[key[1]] = state


def _adopt(stream: Stream, prints: dict[str, str]) -> None:
    """Forget what stages of other settings remember."""
    stream.states = {n: s for n, s in stream.states.items() if stream.prints.get(n) == prints.get(n)}
    stream.prints = prints


def _draw(guard: Guard, stream: Stream) -> None:
    """Note a point of the dashboard's curves; beyond POINTS, half of them go and new ones come half as often."""
    rows, curve = stream.tally["rows"], stream.curve
    if len(curve) > 1 and rows - curve[-1][0] < curve[-1][0] - curve[-2][0]:
        return
    suspicions, kept = dict[str, float](), 0
    for name, stage in zip(guard.names, guard.stages, strict=True):
        if (state := stream.states.get(name)) is not None:
            if not math.isnan(suspicion := float(stage.suspicion(state))):
                suspicions[name] = suspicion
            kept = max(kept, stage.kept(state))
    curve.append(Point(rows, max(suspicions.values(), default=-1.0), kept, suspicions))
    if len(curve) > POINTS:
        del curve[1::2]


def alarmed(guard: Guard, stream: Stream) -> list[tuple[str, Defense[Any], tuple[int, float]]]:
    """(name, stage, (row, suspicion) of its alarm) of every stage that acts on an alarm for this client."""
    known = [(n, s, stream.states.get(n)) for n, s in zip(guard.names, guard.stages, strict=True)]
    found = [(n, s, s.alarm(state)) for n, s, state in known if state is not None]
    return [(name, stage, alarm) for name, stage, alarm in found if alarm is not None]


def _recorded(guard: Guard, stream: Stream, alarm: Alarm) -> Alarm:
    """The alarm with what it rests on."""
    stage = guard.stages[guard.names.index(alarm.stage)]
    if not stage.detectors():
        return alarm
    return recorded(alarm, stage, stream.prints[alarm.stage], stream.tally["rows"], stream.accounts)


def _decided(stream: Stream, stage: str) -> dict[str, int]:
    return stream.decided.setdefault(stage, {"changed": 0, "refused": 0})


def _undone(guard: Guard, request: Request) -> Failed | None:
    try:
        guard.undo(request)
    except Exception as error:
        return _failed(error, request.client)
    return None


def _failed(error: Exception, client: str) -> Failed:
    """A stage's own mistake is an outcome like others: the same on every replica, after a restart and in a replay."""
    log.error("a stage of the guard failed", exc_info=error, extra={"client": client})
    return Failed(f"A stage of the guard failed: {error}")


def _fingerprints(guard: Guard) -> dict[str, str]:
    """Stage name -> a digest of its settings."""
    texts = (orjson.dumps(identity(d), option=orjson.OPT_SORT_KEYS).replace(*TOLD) for d in guard.describe())
    return {n: hashlib.blake2b(t, digest_size=8).hexdigest() for n, t in zip(guard.names, texts, strict=True)}
