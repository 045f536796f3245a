"""The client cache: which clients are in memory, how they come and how they go.

Nothing here keeps other clients waiting for longer than two milliseconds: a journal is folded by pieces, a snapshot
is cut and written by pieces, and idle clients beyond the capacity are let go in the background.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

from portcullis_ml.core.guard import Alarm
from portcullis_ml.gateway.state.fold import Fold, Outcome, Stream
from portcullis_ml.gateway.state.journal import Down, Journal, Saved
from portcullis_ml.gateway.state.paging import cut
from portcullis_ml.gateway.state.workers import Workers

__all__ = ["EVERY", "LIGHT", "ClientCache"]

EVERY = 2_000  # events after which a stream is written as a snapshot and its journal cut
PER_PAGE = 8  # and so many events for each page of its last one, so that writing large ones costs a request little
LIGHT = 64  # events that are folded again rather than written as a snapshot when a client goes
LARGE = 1 << 20  # bytes of a snapshot that are read on another thread
log = logging.getLogger("portcullis.gate")


class ClientCache:
    """The clients in memory, least recently used first; the rest is in the journal.

    workers      apply the events of a journal
    keep_alarms  makes sure of alarms that were found while a journal was folded
    """

    def __init__(
        self,
        journal: Journal,
        fold: Fold,
        workers: Workers,
        capacity: int,
        keep_alarms: Callable[[Stream, list[Alarm]], Awaitable[None]],
    ) -> None:
        self.open: OrderedDict[str, Stream] = fold.streams  # type: ignore[assignment]
        self.capacity = capacity
        self._journal = journal
        self._fold = fold
        self._workers = workers
        self._keep_alarms = keep_alarms
        self._loading: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    async def take(self, client: str) -> Stream:
        """The client's stream, marked busy: it is not let go until the caller has counted `busy` down."""
        while (stream := self.open.get(client)) is None or not stream.ready:
            async with self._loading.setdefault(client, asyncio.Lock()):
                if client not in self.open:
                    await self._load(client)
            self._loading.pop(client, None)
        stream.busy += 1
        self.open.move_to_end(client)
        if len(self.open) > self.capacity:
            await self._make_room()
        return stream

    async def catch_up(self, stream: Stream, saved: Saved) -> tuple[Outcome, list[Alarm]]:
        """Bring a stream to where `saved` ends, by pieces: what the last event led to, and all alarms. The caller sees
        to it that nobody else folds this stream."""
        if saved.snapshot is not None:
            on_thread = len(saved.snapshot) > LARGE
            read = self._fold.read
            self._fold.restore(
                stream, await asyncio.to_thread(read, saved.snapshot) if on_thread else read(saved.snapshot)
            )
            stream.snapped, stream.pages = saved.position, saved.pages
        stream.position = saved.position
        return await self._workers.apply_all(stream, saved.events)

    def cut(self, stream: Stream) -> None:
        """Write a snapshot in the background if the journal has become long."""
        tail = stream.position - stream.snapped
        if tail >= max(EVERY, PER_PAGE * len(stream.pages)) and not (stream.debt or stream.saving):
            stream.saving = True
            self._in_background(self.save(stream))

    async def save(self, stream: Stream) -> None:
        """Cut a snapshot under the stream's lock, and write it without. One at a time: clients that ask alike would
        otherwise be written all at once."""
        stream.busy += 1
        stream.saving = True
        try:
            async with self._turn:
                async with stream.lock:
                    if stream.debt or stream.position == stream.snapped or any(seq < 0 for seq in stream.pending):
                        return
                    position = stream.position
                    order, fresh, stream.marks = await cut(self._fold.pack(stream), stream.pages, stream.marks)
                stream.snapped, stream.pages = await self._journal.snapshot(
                    stream.client, stream.snapped, position, order, fresh
                )
        except Down:
            pass  # a later one will do
        finally:
            stream.saving = False
            stream.busy -= 1

    async def close(self, seconds: float = 10.0) -> None:
        """Write the streams whose journals are longest, so that the next start folds little twice; what is not written
        in time is in the journal all the same."""
        end = time.monotonic() + seconds
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in sorted(self.open.values(), key=lambda s: s.snapped - s.position):
            if stream.position - stream.snapped <= LIGHT or time.monotonic() > end:
                return
            await self.save(stream)

    async def _load(self, client: str) -> Stream:
        saved = await self._journal.load(client)
        stream = self.open[client] = Stream(client, ready=False, busy=1)
        try:
            _, alarms = await self.catch_up(stream, saved)
            await self._keep_alarms(stream, alarms)
            stream.ready = True
        except BaseException:
            self.open.pop(client, None)
            raise
        finally:
            stream.busy -= 1
        return stream

    async def _make_room(self) -> None:
        """Let go of idle clients; those that must be written first go in the background, as long as that keeps up."""
        for stream in self._beyond():
            if _idle(stream) and stream.position - stream.snapped <= LIGHT:
                del self.open[stream.client]
        if len(self.open) > self.capacity and self._sweeper is None:
            self._sweeper = self._in_background(self._sweep())
        if len(self.open) > self.capacity + self.capacity // 4 + 16 and self._sweeper:
            await asyncio.wait([self._sweeper])

    async def _sweep(self) -> None:
        try:
            for stream in self._beyond():
                if _idle(stream):
                    await self.save(stream)
                    if _idle(stream) and stream.position - stream.snapped <= LIGHT:
                        self.open.pop(stream.client, None)
        finally:
            self._sweeper = None

    def _beyond(self) -> list[Stream]:
        """Those that have not been used for longest, as many as there are beyond the capacity."""
        return list(islice(self.open.values(), max(0, len(self.open) - self.capacity)))

    def _in_background(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a snapshot failed", exc_info=error)


def _idle(stream: Stream) -> bool:
    return not (stream.busy or stream.pending or stream.debt)
