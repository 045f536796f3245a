"""Streams: every client's journal, folded through the one guard.

A request is written to the journal first and folded afterwards, together with whatever other replicas
wrote in between. Decisions therefore depend on the journal alone: two replicas on one journal decide as
one process would, and a crash loses nothing that was acknowledged.

Costs a request   two appends (one transaction in SQLite; two round trips to Redis).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Alarm, Guard, Released
from portcullis_ml.core.types import Answer, Floats
from portcullis_ml.gateway.state.accounts import Asked
from portcullis_ml.gateway.state.client_cache import ClientCache
from portcullis_ml.gateway.state.events import JournalEvent
from portcullis_ml.gateway.state.fold import Failed, Fold, Outcome, Stream
from portcullis_ml.gateway.state.journal import Down, Journal
from portcullis_ml.gateway.state.workers import Workers

__all__ = ["Down", "Streams"]


class Streams:
    """Every client's stream: admit, release, undo, and an operator's word.

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
        self.when_down = when_down
        self.patience = patience  # seconds after which a request whose replica died is undone
        self.open: OrderedDict[str, Stream] = OrderedDict()
        self.failures = 0
        self.fold = Fold(guard, self.open)
        self.workers = Workers(self.fold)
        self.cache = ClientCache(journal, self.fold, self.workers, capacity, self._keep_alarms)

    async def join(self, account: str, principal: str, at: float) -> str:
        """The principal that the account stays with: the one that it first came to, on any replica. Raises Down."""
        try:
            return await self.journal.join(account, principal, at)
        except Down:
            self.failures += 1
            if self.when_down == "closed":
                raise
            return principal

    async def admit(self, client: str, x: Floats, at: float, account: str = "", work: int = 0) -> int:
        """The request's sequence number, once every stage has reserved its share; raises Refused, Failed or Down.
        `client` is the principal, `account` the one of its accounts that asks, `work` the bits that it has shown.

        A sequence number below 0 says that the journal was down and the policy is to serve."""
        async with self._held(client) as stream:
            if stream.debt:
                await self._settle(stream)
            for late in self._late(stream, at):
                await self._tell(stream, JournalEvent("undo", of=late), durable=False)
            event = JournalEvent("admit", at, of=work, x=x, by=account)
            seq, outcome, alarms = await self._tell(stream, event, durable=False)
            if alarms:
                await self._keep_alarms(stream, alarms)
            if isinstance(outcome, Refused | Failed):
                raise self._refusal(stream, seq, outcome)
        return seq

    async def release(self, client: str, seq: int, clean: Answer) -> tuple[int, Released]:
        """Fold the model's answer: its place in the journal, and what is let out. On return it, its alarms and blocks
        are written down."""
        async with self._held(client) as stream:
            event, place = JournalEvent("release", of=seq, answer=clean), 0
            if seq < 0:
                request = stream.pending[seq]
                stream.debt.append(_whole(request, clean))
                outcome, _ = await self.workers.apply(stream, seq, event)
            else:
                place, outcome, alarms = await self._tell(stream, event, durable=True)
                if alarms:
                    await self._keep_alarms(stream, alarms)
                self.cache.cut(stream)
            return place, _let_out(outcome)

    async def undo(self, client: str, seq: int) -> int:
        """The model did not answer: everything reserved is given back. Returns the place of that in the journal."""
        async with self._held(client) as stream:
            event = JournalEvent("undo", of=seq)
            if seq < 0:
                await self.workers.apply(stream, 0, event)
                return 0
            place, _, _ = await self._tell(stream, event, durable=False)
            self.cache.cut(stream)
            return place

    async def operate(self, client: str, kind: str, by: str, at: float) -> None:
        """An operator blocks, unblocks or clears a client."""
        async with self._held(client) as stream:
            if stream.debt:
                await self._settle(stream)
            await self._tell(stream, JournalEvent(kind, at, by=by), durable=True, closed=True)

    async def look(self, client: str) -> Stream:
        """The client as the journal knows it."""
        stream = await self.cache.take(client)
        stream.busy -= 1
        return stream

    async def close(self) -> None:
        """Leave a journal that the next start folds quickly."""
        await self.cache.close()
        await self.workers.close()

    def _held(self, client: str) -> _Held:
        return _Held(self.cache, client)

    # One event, written and folded.

    async def _tell(
        self, stream: Stream, event: JournalEvent, *, durable: bool, closed: bool = False
    ) -> tuple[int, Outcome, list[Alarm]]:
        try:
            saved = await self.journal.tell(stream.client, stream.position, event, durable=durable)
        except Down:
            self.failures += 1
            if closed or self.when_down == "closed":
                raise
            return await self._offline(stream, event)
        if saved.snapshot is None and len(saved.events) == 1:
            stream.position = saved.position + 1
            return stream.position, *await self.workers.apply(stream, stream.position, event)
        outcome, alarms = await self.cache.catch_up(stream, saved)  # the last event is ours
        return stream.position, outcome, alarms

    async def _offline(self, stream: Stream, event: JournalEvent) -> tuple[int, Outcome, list[Alarm]]:
        """The journal is down and the policy is to serve: fold here and now, write later."""
        if event.kind == "admit":
            seq = min([0, *stream.pending]) - 1
            outcome, alarms = await self.workers.apply(stream, seq, event)
            return seq, outcome, alarms
        stream.debt.append(event)
        outcome, alarms = await self.workers.apply(stream, 0, event)
        return 0, outcome, alarms

    async def _settle(self, stream: Stream) -> None:
        """Write what could not be written before, then stand where the journal stands."""
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
        stream.decided.clear()
        stream.accounts.clear()
        await self.cache.catch_up(stream, saved)
        stream.pending.update(offline)

    def _late(self, stream: Stream, now: float) -> list[int]:
        """Requests whose replica died between admit and release: they are undone."""
        oldest = next(iter(stream.pending.values()), None)
        if oldest is None or abs(now - oldest.at) <= self.patience:
            return []
        # Those from the future too: a clock was set right since.
        return [s for s, r in stream.pending.items() if s > 0 and abs(now - r.at) > self.patience]

    async def _keep_alarms(self, stream: Stream, alarms: Iterable[Alarm]) -> None:
        for alarm in alarms:
            words = f"{alarm.client}\x1f{stream.generation}\x1f{alarm.stage}\x1f{alarm.row}"
            try:
                await self.journal.alarm(hashlib.blake2b(words.encode(), digest_size=12).hexdigest(), alarm)
            except Down:
                if self.when_down == "closed":
                    self.open.pop(stream.client, None)  # the next request folds the journal again, alarms included
                    raise

    def _refusal(self, stream: Stream, seq: int, why: Refused | Failed) -> Refused | Failed:
        """The error to raise, with its place; a refused request changed nothing and need not be remembered."""
        why.place = seq
        if isinstance(why, Refused) and seq > 0 and self.journal.retract(stream.client):
            stream.position -= 1
        else:
            self.cache.cut(stream)
        return why


class _Held:
    """The client's stream while nobody else holds it. One that was let go while we waited for it is not used: the
    journal has been folded into another since, or will be."""

    def __init__(self, cache: ClientCache, client: str) -> None:
        self._cache, self._client = cache, client

    async def __aenter__(self) -> Stream:
        while True:
            self._stream = stream = await self._cache.take(self._client)
            try:
                await stream.lock.__aenter__()
            except BaseException:
                stream.busy -= 1
                raise
            if self._cache.open.get(self._client) is stream:
                return stream
            await self.__aexit__()

    async def __aexit__(self, *error: object) -> None:
        await self._stream.lock.__aexit__()
        self._stream.busy -= 1


def _whole(request: Asked, clean: Answer) -> JournalEvent:
    """A request and its answer in one event, for a journal that could not take them one by one."""
    return JournalEvent("whole", request.at, request.work, request.x, clean, request.account)


def _let_out(outcome: Outcome) -> Released:
    if isinstance(outcome, Released):
        return outcome
    raise outcome if isinstance(outcome, Failed) else Failed("The answer came twice.")
