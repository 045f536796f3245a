"""Threads for guards whose stages run a model, so that the event loop serves other clients meanwhile.

A light guard folds an event of a few rows sooner than a thread could be woken, and is folded on the event loop. numpy,
torch and ONNX Runtime let go of Python's lock while they compute; a stage that computes in Python itself shares it with
the loop, which then waits for each turn (`server.SWITCH_S`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from portcullis_ml.core.guard import Alarm
from portcullis_ml.gateway.state.events import JournalEvent
from portcullis_ml.gateway.state.fold import Fold, Outcome, Stream
from portcullis_ml.gateway.state.paging import SLICE_S

__all__ = ["Workers"]

T = TypeVar("T")
FEW = 16  # rows; a detector that compares them with all that its client asked takes two milliseconds for so many


class Workers:
    """Applies events to a stream whose lock the caller holds: on a thread if the guard is heavy or there are many rows,
    else here and now.

    One client's events are folded one after another; so many clients' at once as there are threads (the processor's
    cores and four more), and the others' wait for the next free one.
    """

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._threads = ThreadPoolExecutor(thread_name_prefix="guard")

    async def apply(self, stream: Stream, seq: int, event: JournalEvent) -> tuple[Outcome, list[Alarm]]:
        """As `Fold.apply`."""
        if not self._fold.heavy and _rows(event) <= FEW:
            return self._fold.apply(stream, seq, event)
        return await self._on_thread(lambda: self._fold.apply(stream, seq, event))

    async def apply_all(self, stream: Stream, events: Iterable[JournalEvent]) -> tuple[Outcome, list[Alarm]]:
        """Apply the events that follow the stream's position, by pieces of two milliseconds. Returns what the last one
        led to, and all alarms."""
        outcome, alarms, left = None, list[Alarm](), iter(events)

        def some() -> bool:
            """Whether the time was up before the events were."""
            nonlocal outcome
            end = time.perf_counter() + SLICE_S
            for event in left:
                stream.position += 1
                outcome, new = self._fold.apply(stream, stream.position, event)
                alarms.extend(new)
                if time.perf_counter() > end:
                    return True
            return False

        while await self._run(some):
            await asyncio.sleep(0)
        return outcome, alarms

    async def close(self) -> None:
        """Wait for what is running."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, work: Callable[[], T]) -> T:
        """What `work` gives or raises."""
        return await self._on_thread(work) if self._fold.heavy else work()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """What `work` gives or raises. Who is cancelled still waits for its end: until then a client's state is being
        changed, and nobody else may touch it."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            raise


def _rows(event: JournalEvent) -> int:
    """How many rows the guard looks at in this event."""
    if event.x is not None:
        return len(event.x)
    return 0 if event.answer is None else len(event.answer)
