"""Batching: flows that wait for the same step are resumed together.

What a step needs, code and data, is in the processor's caches once one request has taken it, and gone when that request
has taken the next two. So those whose step is done in one turn of the event loop go on one after another, step by step:
decision 8 says what that gained.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["MOST", "Batching", "Runs"]

log = logging.getLogger("portcullis.gate")
MOST = 16  # that are resumed together: more would gain nothing, and keep one another waiting


class Runs(Protocol):
    """Who has a flow."""

    flow: Generator[Any, Any, Any]


T = TypeVar("T", bound=Runs)


class Batching(Generic[T]):
    """Drives flows.

    kinds  the types of steps, in the order in which their flows are resumed
    take   the work that a step is. It is done outside of any task, so that it must make its own where it needs one, as
           `asyncio.timeout` does
    ended  called with whose flow has returned, and with what it returned
    """

    def __init__(
        self,
        kinds: Sequence[type],
        take: Callable[[Any], Coroutine[Any, Any, Any]],
        ended: Callable[[T, Any], None],
    ) -> None:
        self._done: dict[type, deque[tuple[T, Any, BaseException | None]]] = {kind: deque() for kind in kinds}
        self._take, self._ended = take, ended
        self._called = False

    def join(self, who: T, kind: type, value: Any = None, failure: BaseException | None = None) -> None:
        """A step of this kind is done: in the next turn of the event loop the flow is sent the value, or the failure is
        thrown into it."""
        self._done[kind].append((who, value, failure))
        self._call()

    def fail(self, who: T, failure: BaseException) -> None:
        """Throw the failure into the flow at once."""
        step = self._next(who, None, failure)
        if step is not None:
            self._work(who, type(step), self._take(step))

    def _turn(self) -> None:
        try:
            for done in self._done.values():
                batch = [done.popleft() for _ in range(min(len(done), MOST))]
                steps = [(who, self._next(who, value, failure)) for who, value, failure in batch]
                for who, step in steps:
                    if step is not None:
                        self._work(who, type(step), self._take(step))
        finally:
            self._called = False
            if any(self._done.values()):
                self._call()

    def _next(self, who: T, value: Any, failure: BaseException | None) -> Any:
        """The flow's next step; None if it has returned."""
        try:
            try:
                return who.flow.send(value) if failure is None else who.flow.throw(failure)
            except StopIteration as end:
                self._ended(who, end.value)
        except Exception as error:  # of this flow alone
            log.error("a flow broke off", exc_info=error)
        return None

    def _work(self, who: T, kind: type, work: Coroutine[Any, Any, Any], waited_for: object = None) -> None:
        """Lead the work that a step is to where it has to wait, from there on when the wait is over, and to its end.

        A task would do the same. Most steps never wait, so that one for each would be made for nothing (decision 11).
        """
        try:
            waits_for: asyncio.Future[Any] | None = work.send(None)
        except StopIteration as end:
            self.join(who, kind, end.value)
        except (Exception, asyncio.CancelledError) as error:
            self.join(who, kind, failure=error)
        else:
            go_on = partial(self._work, who, kind, work)
            if waits_for is None:  # for the next turn of the event loop
                asyncio.get_running_loop().call_soon(go_on)
            else:
                waits_for.add_done_callback(go_on)

    def _call(self) -> None:
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._turn)
