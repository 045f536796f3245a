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
from dataclasses import dataclass
from typing import Protocol

from portcullis.core.errors import PortcullisError, Refused
from portcullis.core.guard import Alarm, Guard, Released
from portcullis.core.types import Answer, Array
from portcullis.gateway.events import Event
from portcullis.gateway.fold import Failed, Fold, Outcome, Stream

__all__ = ["Down", "Journal", "Saved", "Streams"]

EVERY = 2_000  # events after which a stream is written as a snapshot and its journal cut


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
        self._loading: dict[str, asyncio.Lock] = {}
        self.fold = Fold(guard, self.open)

    async def admit(self, client: str, x: Array, at: float) -> int:
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
            return seq
        finally:
            stream.busy -= 1

    async def release(self, client: str, seq: int, clean: Answer) -> Released:
        """Fold the model's answer; on return it, its alarms and blocks are written down."""
        stream = await self._take(client)
        try:
            async with stream.lock:
                event = Event("release", of=seq, answer=clean)
                if seq < 0:
                    request = stream.pending[seq]
                    stream.debt.append(Event("whole", request.at, x=request.x, answer=clean))
                    outcome, _ = self.fold.apply(stream, seq, event)
                else:
                    _, outcome, alarms = await self._tell(stream, event, durable=True)
                    await self._keep_alarms(stream, alarms)
                    await self._cut(stream)
                if not isinstance(outcome, Released):
                    raise outcome if isinstance(outcome, Failed) else Failed("The answer came twice.")
                return outcome
        finally:
            stream.busy -= 1

    async def undo(self, client: str, seq: int) -> None:
        """The model did not answer: everything reserved is given back."""
        stream = await self._take(client)
        try:
            async with stream.lock:
                if seq < 0:
                    self.fold.guard.undo(stream.pending.pop(seq))
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
    ) -> tuple[int, Outcome, list[Alarm]]:
        try:
            saved = await self.journal.tell(stream.client, stream.position, event, durable=durable)
        except Down:
            self.failures += 1
            if closed or self.when_down == "closed":
                raise
            return self._offline(stream, event)
        return self._catch_up(stream, saved)

    def _offline(self, stream: Stream, event: Event) -> tuple[int, Outcome, list[Alarm]]:
        """The journal is down and the policy is to serve: fold here and now, write later."""
        if event.kind == "admit":
            seq = min([0, *stream.pending]) - 1
            outcome, alarms = self.fold.apply(stream, seq, event)
            return seq, outcome, alarms
        stream.debt.append(event)
        outcome, alarms = self.fold.apply(stream, 0, event)
        return event.of, outcome, alarms

    def _catch_up(self, stream: Stream, saved: Saved) -> tuple[int, Outcome, list[Alarm]]:
        """Fold what is new; the last event is ours."""
        if saved.snapshot is not None:
            self.fold.restore(stream, saved.snapshot)
        stream.position, outcome, alarms = saved.position, None, []
        for event in saved.events:
            stream.position += 1
            outcome, new = self.fold.apply(stream, stream.position, event)
            alarms += new
        return stream.position, outcome, alarms

    # Coming and going.

    async def _take(self, client: str) -> Stream:
        """The client's stream, marked busy: it is not let go until the caller has counted `busy` down."""
        stream = self.open.get(client)
        if stream is None:
            async with self._loading.setdefault(client, asyncio.Lock()):
                stream = self.open.get(client) or await self._load(client)
            self._loading.pop(client, None)
        stream.busy += 1
        self.open.move_to_end(client)
        if len(self.open) > self.capacity:
            await self._evict()
        return stream

    async def _load(self, client: str) -> Stream:
        saved = await self.journal.load(client)
        stream = self.open[client] = Stream(client, busy=1)
        try:
            _, _, alarms = self._catch_up(stream, saved)
            stream.snapped = saved.position
            await self._keep_alarms(stream, alarms)
        except BaseException:
            self.open.pop(client, None)
            raise
        finally:
            stream.busy -= 1
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
        self._catch_up(stream, saved)
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
        position, data = stream.position, self.fold.pack(stream)
        try:
            await self.journal.snapshot(stream.client, position, data)
        except Down:
            return
        stream.snapped = position
