"""Batching: requests that are ready at the same time take each step together.

What a step needs, code and data, is in the processor's caches once one request has taken it, and gone when that
request has taken the next two. So those that are ready in one turn of the event loop are led through a step one after
another, and then through the next: decision 8 says what that gained.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Generic, TypeVar

__all__ = ["MOST", "Batching"]

MOST = 16  # that take a step together: more would gain nothing, and keep one another waiting
T = TypeVar("T")


class Batching(Generic[T]):
    """Leads what joins through the steps from its own on, in the next turn of the event loop.

    steps   each says whether whoever took it goes on to the next at once; who does not joins again, or is done
    failed  told of whoever met an exception in a step, and of that
    """

    def __init__(self, steps: Sequence[Callable[[T], bool]], failed: Callable[[T, BaseException], None]) -> None:
        self._queues: list[deque[T]] = [deque() for _ in range(len(steps) + 1)]
        self._steps = tuple(zip(steps, pairwise(self._queues), strict=True))
        self._failed = failed
        self._called = False

    def join(self, step: int, who: T) -> None:
        """From this step on, 0 being the first."""
        self._queues[step].append(who)
        self._call()

    def _turn(self) -> None:
        self._called = False
        try:
            for step, (here, there) in self._steps:
                for _ in range(min(len(here), MOST)):
                    who = here.popleft()
                    try:
                        if step(who):
                            there.append(who)
                    except (Exception, asyncio.CancelledError) as error:  # who waited for a task that was cancelled
                        self._failed(who, error)
            self._queues[-1].clear()
        finally:
            if any(self._queues[:-1]):
                self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._turn)
