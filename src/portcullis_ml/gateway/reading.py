"""Large bodies are read, and large questions written, on a thread beside the event loop, one at a time and clients by
turns.

One thread, because what reads or writes holds Python's lock most of the time: two would share what one has, and leave
the event loop a third of it in place of half. Those who wait stand in a line of their own client, so that sixty bodies
of one are one turn for everybody else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from portcullis_ml.gateway.http.bodies import Bodies

__all__ = ["Reading"]

T = TypeVar("T")


class Reading:
    """Reads bodies for one gate, and writes questions. What waits for it counts among the bytes that the gate holds."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._busy = False

    async def read(self, client: str, size: int, read: Callable[[], T]) -> T:
        """What `read` makes of so many bytes, or the error that it raises."""
        self._bodies.buffered += size
        try:
            if self._busy:
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._lines.setdefault(client, deque()).append(turn)
                await turn
            self._busy = True
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, read)
            finally:
                self._next()
        finally:
            self._bodies.buffered -= size

    def _next(self) -> None:
        """The first of the next client's line has its turn; that client's others come after everybody else's first."""
        self._busy = bool(self._lines)
        if self._lines:
            client, line = self._lines.popitem(last=False)
            line.popleft().set_result(None)
            if line:
                self._lines[client] = line

    def close(self) -> None:
        """Wait for what is being read."""
        self._thread.shutdown()
