"""Streams: every client's journal, folded through the one guard.

A request is written to the journal first and folded afterwards, together with whatever other replicas
wrote in between. Decisions therefore depend on the journal alone: two replicas on one journal decide as
one process would, and a crash loses nothing that was acknowledged.

Costs a request   two appends (one transaction in SQLite; two round trips to Redis).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from portcullis.core.errors import PortcullisError, Refused
from portcullis.core.guard import Alarm, Guard, Released
from portcullis.core.state import Key, pack, unpack
from portcullis.core.types import Answer, Array, Request
from portcullis.gateway.events import Event, pack_event, unpack_event

__all__ = ["Down", "Journal", "Saved", "Stream", "Streams"]

EVERY = 2_000  # events after which a stream is written as a snapshot and its journal cut
POINTS = 240  # of a client's curves on the dashboard


class Down(PortcullisError):
    """The journal cannot be written or read just now."""


@dataclass(frozen=True)
class Saved:
    """What a journal holds of one client: a snapshot as of `position`, and the events after it."""

    snapshot: bytes | None
    position: int
    events: list[Event]


class Journal(Protocol):
    """Where events are kept. Raises Down."""

    async def load(self, client: str) -> Saved: ...

    async def tell(self, client: str, position: int, event: Event, *, durable: bool) -> Saved:
        """Append; returns all events after `position`, this one among them (a snapshot too if it was overtaken).
        An event that is not durable may wait for the next durable one of the same client."""

    async def retract(self, client: str) -> bool:
        """Take back the client's last event, not durable and not read by anyone; false if that cannot be known."""

    async def snapshot(self, client: str, position: int, data: bytes) -> None: ...

    async def alarm(self, id: str, alarm: Alarm) -> bool:
        """Keep an alarm; true if it is new. On return it is safe."""


@dataclass
class Stream:
    """One client as this process has folded him so far."""

    client: str
    position: int = 0
    states: dict[str, Any] = field(default_factory=dict)
    pending: dict[int, Request] = field(default_factory=dict)
    tally: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("requests", "rows", "altered", "refused"), 0))
    curve: list[tuple[int, float, int]] = field(default_factory=list)  # (rows, suspicion, samples kept)
    blocked: str = ""
    generation: int = 0
    last: float = 0.0
    debt: list[Event] = field(default_factory=list)  # events that the journal does not hold yet
    snapped: int = 0
    busy: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Streams:
    """The clients in memory, least recently used first; the rest is in the journal.

    stages    the guard's defenses
    capacity  clients held in memory; idle ones beyond it are written to the journal and let go
    when_down "closed" refuses what cannot be written down, "open" serves it and writes it later
    """

    def __init__(
        self,
        guard: Guard,
        journal: Journal,
        *,
        capacity: int = 2_000,
        when_down: str = "closed",
        patience: float = 600.0,
    ) -> None:
        self.journal = journal
        self.capacity = capacity
        self.when_down = when_down
        self.patience = patience  # seconds after which a request whose replica died is undone
        self.open: OrderedDict[str, Stream] = OrderedDict()
        self.failures = 0
        self.use(guard)

    def use(self, guard: Guard) -> None:
        """Take this guard. What stages of the same name and settings know is kept; the rest starts anew."""
        guard.store = _Hot(self.open)
        prints = _fingerprints(guard)
        for stream in self.open.values():
            stream.states = {n: s for n, s in stream.states.items() if prints.get(n) == self._prints.get(n)}
        self.guard, self._prints = guard, prints

    async def admit(self, client: str, x: Array, at: float) -> tuple[int, list[Alarm]]:
        """The request's sequence number, once every stage has reserved its share; raises Refused or Down.

        A sequence number below 0 says that the journal was down and the policy is to serve."""
        stream = await self._take(client)
        try:
            async with stream.lock:
                await self._settle(stream)
                await self._give_up(stream, at)
                seq, outcome, alarms = await self._tell(stream, Event("admit", at, x=x), durable=False)
                await self._keep_alarms(stream, alarms)
                if isinstance(outcome, Refused):
                    await self._retract(stream, seq)
                    raise outcome
            return seq, alarms
        finally:
            stream.busy -= 1

    async def release(self, client: str, seq: int, clean: Answer) -> Released:
        """Fold the model's answer; on return it, its alarms and blocks are written down."""
        stream = await self._take(client)
        try:
            async with stream.lock:
                if seq < 0:
                    request = stream.pending.pop(seq)
                    stream.debt.append(Event("whole", request.at, x=request.x, answer=clean))
                    return self._released(stream, request, clean)
                _, outcome, alarms = await self._tell(stream, Event("release", of=seq, answer=clean), durable=True)
                await self._keep_alarms(stream, alarms)
                await self._cut(stream)
                return outcome  # type: ignore[no-any-return]
        finally:
            stream.busy -= 1

    async def undo(self, client: str, seq: int) -> None:
        """The model did not answer: everything reserved is given back."""
        stream = await self._take(client)
        try:
            async with stream.lock:
                if seq < 0:
                    self.guard.undo(stream.pending.pop(seq))
                    return
                await self._tell(stream, Event("undo", of=seq), durable=False)
        finally:
            stream.busy -= 1

    async def operate(self, client: str, kind: str, by: str, at: float) -> None:
        """An operator blocks, unblocks or clears a client."""
        stream = await self._take(client)
        try:
            async with stream.lock:
                await self._settle(stream)
                await self._tell(stream, Event(kind, at, by=by), durable=True, closed=True)
        finally:
            stream.busy -= 1

    async def look(self, client: str) -> Stream:
        """The client as the journal knows him."""
        stream = await self._take(client)
        stream.busy -= 1
        return stream

    async def close(self) -> None:
        """Write every stream as a snapshot, so that the next start folds nothing twice."""
        for stream in list(self.open.values()):
            if not stream.debt:
                await self._snapshot(stream)

    # One event, written and folded.

    async def _tell(
        self, stream: Stream, event: Event, *, durable: bool, closed: bool = False
    ) -> tuple[int, Any, list[Alarm]]:
        try:
            saved = await self.journal.tell(stream.client, stream.position, event, durable=durable)
        except Down:
            self.failures += 1
            if closed or self.when_down == "closed":
                raise
            return self._offline(stream, event)
        return self._catch_up(stream, saved, event)

    def _offline(self, stream: Stream, event: Event) -> tuple[int, Any, list[Alarm]]:
        """The journal is down and the policy is to serve: fold here and now, write later."""
        if event.kind == "admit":
            seq = min([0, *stream.pending]) - 1
            outcome, alarms = self._fold(stream, seq, event)
            return seq, outcome, alarms
        stream.debt.append(event)
        outcome, alarms = self._fold(stream, 0, event)
        return event.of, outcome, alarms

    def _catch_up(self, stream: Stream, saved: Saved, mine: Event) -> tuple[int, Any, list[Alarm]]:
        """Fold what is new; the last event is ours."""
        if saved.snapshot is not None:
            self._restore(stream, saved.snapshot)
        stream.position, outcome, alarms = saved.position, None, []
        for event in saved.events:
            stream.position += 1
            outcome, new = self._fold(stream, stream.position, event)
            alarms += new
        return stream.position, outcome, alarms

    def _fold(self, stream: Stream, seq: int, event: Event) -> tuple[Any, list[Alarm]]:
        """The outcome (None, Refused or Released) of one event, and the alarms that it set off."""
        if event.kind in ("admit", "whole"):
            refusal = self._admitted(stream, seq, event)
            if event.kind == "admit" or refusal:
                return refusal, []
        if event.kind in ("release", "whole"):
            request = stream.pending.pop(event.of if event.kind == "release" else seq, None)
            if request is None or event.answer is None:  # undone meanwhile by a replica that lost patience
                return Refused("the answer came too late"), []
            released = self._released(stream, request, event.answer)
            return released, list(released.alarms)
        if event.kind == "undo":
            request = stream.pending.pop(event.of, None)
            if request is not None:
                self.guard.undo(request)
        elif event.kind == "clear":
            stream.states.clear()
            stream.curve.clear()
            stream.generation += 1
            stream.blocked = ""
        else:
            stream.blocked = event.by if event.kind == "block" else ""
        return None, []

    def _admitted(self, stream: Stream, seq: int, event: Event) -> Refused | None:
        stream.last = max(stream.last, event.at)  # a client's time never runs backwards
        request = Request(stream.client, event.x, stream.last)  # type: ignore[arg-type]
        try:
            if stream.blocked:
                raise Refused("this client was blocked")
            self.guard.admit(request)
        except Refused as refusal:
            stream.tally["refused"] += 1
            return refusal
        stream.pending[seq] = request
        return None

    def _released(self, stream: Stream, request: Request, clean: Answer) -> Released:
        released = self.guard.release(request, clean)
        tally = stream.tally
        tally["requests"] += 1
        tally["rows"] += len(request)
        tally["altered"] += int(released.altered.sum())
        self._draw(stream)
        return released

    def _draw(self, stream: Stream) -> None:
        """Note a point of the dashboard's curves; beyond POINTS every second one goes."""
        rows = stream.tally["rows"]
        step = stream.curve[-1][0] - stream.curve[-2][0] if len(stream.curve) > 1 else 1
        if stream.curve and rows - stream.curve[-1][0] < step:
            return
        loudest, kept = -1.0, 0
        for state in stream.states.values():
            heard, held = _suspicion(state)
            loudest, kept = max(loudest, heard), max(kept, held)
        stream.curve.append((rows, loudest, kept))
        if len(stream.curve) > POINTS:
            del stream.curve[1::2]

    # Coming and going.

    async def _take(self, client: str) -> Stream:
        """The client's stream, marked busy: it is not let go until the caller has counted `busy` down."""
        stream = self.open.get(client)
        if stream is None:
            saved = await self.journal.load(client)
            stream = self.open.get(client)  # loaded by another request meanwhile?
        if stream is not None:
            stream.busy += 1
            self.open.move_to_end(client)
            return stream
        stream = self.open[client] = Stream(client, busy=1)
        try:
            _, _, alarms = self._catch_up(stream, saved, Event("undo"))
        except BaseException:
            del self.open[client]
            raise
        stream.snapped = saved.position
        await self._keep_alarms(stream, alarms)
        await self._evict()
        return stream

    async def _settle(self, stream: Stream) -> None:
        """Write what could not be written before, then stand where the journal stands."""
        if not stream.debt:
            return
        try:
            while stream.debt:
                await self.journal.tell(stream.client, stream.position, stream.debt[0], durable=True)
                stream.position += 1
                del stream.debt[0]
        except Down:
            return
        saved = await self.journal.load(stream.client)
        offline = {s: r for s, r in stream.pending.items() if s < 0}
        stream.states.clear()
        stream.pending.clear()
        stream.tally = dict.fromkeys(stream.tally, 0)
        self._catch_up(stream, saved, Event("undo"))
        stream.pending.update(offline)

    async def _give_up(self, stream: Stream, now: float) -> None:
        """Undo requests whose replica died between admit and release."""
        late = [s for s, r in stream.pending.items() if s > 0 and r.at + self.patience < now]
        for seq in late:
            await self._tell(stream, Event("undo", of=seq), durable=False)

    async def _keep_alarms(self, stream: Stream, alarms: Iterable[Alarm]) -> None:
        for alarm in alarms:
            words = f"{alarm.client}\x1f{stream.generation}\x1f{alarm.stage}\x1f{alarm.row}"
            try:
                await self.journal.alarm(hashlib.blake2b(words.encode(), digest_size=12).hexdigest(), alarm)
            except Down:
                if self.when_down == "closed":
                    self.open.pop(stream.client, None)  # the next request folds the journal again, alarms included
                    raise

    async def _retract(self, stream: Stream, seq: int) -> None:
        """A refused request changed nothing and need not be remembered."""
        if seq > 0 and await self.journal.retract(stream.client):
            stream.position -= 1
        else:
            await self._cut(stream)

    async def _cut(self, stream: Stream) -> None:
        if stream.position - stream.snapped >= EVERY and not stream.debt:
            await self._snapshot(stream)

    async def _evict(self) -> None:
        idle = [s for s in list(self.open.values())[: len(self.open) - self.capacity] if not (s.busy or s.pending)]
        for stream in idle if len(self.open) > self.capacity else []:
            if not stream.debt:
                await self._snapshot(stream)
                if not stream.busy:
                    self.open.pop(stream.client, None)

    async def _snapshot(self, stream: Stream) -> None:
        if stream.position == stream.snapped or any(seq < 0 for seq in stream.pending):
            return
        position, data = stream.position, self._pack(stream)
        try:
            await self.journal.snapshot(stream.client, position, data)
        except Down:
            return
        stream.snapped = position

    def _pack(self, stream: Stream) -> bytes:
        """A head of JSON, then states and waiting requests one after another."""
        states = {n: pack(s) for n, s in stream.states.items()}
        waiting = {seq: pack_event(Event("admit", r.at, x=r.x)) for seq, r in stream.pending.items()}
        head = {
            "states": [(n, self._prints.get(n), len(b)) for n, b in states.items()],
            "pending": [(seq, len(b)) for seq, b in waiting.items()],
            "tally": stream.tally,
            "curve": stream.curve,
            "blocked": stream.blocked,
            "generation": stream.generation,
            "last": stream.last,
        }
        text = orjson.dumps(head)
        return b"".join([len(text).to_bytes(4, "little"), text, *states.values(), *waiting.values()])

    def _restore(self, stream: Stream, data: bytes) -> None:
        start = 4 + int.from_bytes(data[:4], "little")
        head = orjson.loads(data[4:start])
        kinds = {n: type(s.start()) for n, s in zip(self.guard._names, self.guard.stages, strict=True)}
        stream.states.clear()
        stream.pending.clear()
        for name, mark, size in head["states"]:
            if mark == self._prints.get(name):
                stream.states[name] = unpack(kinds[name], data[start : start + size])
            start += size
        for seq, size in head["pending"]:
            event = unpack_event(data[start : start + size])
            stream.pending[seq] = Request(stream.client, event.x, event.at)  # type: ignore[arg-type]
            start += size
        stream.tally, stream.curve = head["tally"], [tuple(p) for p in head["curve"]]
        stream.blocked, stream.generation, stream.last = head["blocked"], head["generation"], head["last"]

    _prints: dict[str, str] = {}  # noqa: RUF012 (replaced, never changed)


class _Hot:
    """The guard's store: the states of the streams in memory."""

    def __init__(self, streams: OrderedDict[str, Stream]) -> None:
        self._streams = streams

    def load(self, key: Key) -> Any | None:
        return self._streams[key[0]].states.get(key[1])

    def save(self, key: Key, state: Any) -> None:
        self._streams[key[0]].states[key[1]] = state


def _fingerprints(guard: Guard) -> dict[str, str]:
    """Stage name -> a digest of its settings."""
    settings = zip(guard._names, guard.describe(), strict=True)
    return {
        n: hashlib.blake2b(orjson.dumps(d, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest() for n, d in settings
    }


def _suspicion(state: Any) -> tuple[float, int]:
    """(latest suspicion, samples kept) that a stage's state shows; (-1, 0) where it shows none."""
    heard, held = -1.0, 0
    for part in (state, *getattr(state, "__dict__", {}).values()):
        value = getattr(part, "suspicion", None)
        if heard < 0 and isinstance(value, float) and value == value:
            heard = value
        held = max(held, int(getattr(getattr(part, "sets", None), "size", 0)))
    return heard, held
