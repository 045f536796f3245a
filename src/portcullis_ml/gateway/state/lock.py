"""A lock without a queue."""

from __future__ import annotations

import asyncio

__all__ = ["Lock"]


class Lock:
    """Taken by whoever finds it free; when it is let go, all who wait look again.

    `asyncio.Lock` has a queue, and whoever comes while somebody is in it has to wait for a turn of the event loop, even
    if the lock is free by then. So once one request of a busy client had to wait, all that came later did too.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting: list[asyncio.Future[None]] = []

    def locked(self) -> bool:
        return self._held

    async def __aenter__(self) -> None:
        while self._held:
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(free)
            await free
        self._held = True

    async def __aexit__(self, *error: object) -> None:
        self._held = False
        waiting, self._waiting = self._waiting, []
        for free in waiting:
            if not free.done():  # whoever waited has been cancelled
                free.set_result(None)
