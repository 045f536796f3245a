"""Batching: whose flow goes on when, whatever goes wrong with others."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.gateway.asgi import Here

from portcullis_ml.gateway.batching import MOST, Batching


class First(NamedTuple):
    who: str


class Second(NamedTuple):
    who: str


class Walk:
    """Who has a flow of two steps; an error in a step is noted, and the flow ends."""

    def __init__(self, name: str, walks: Walks) -> None:
        self.name, self.flow = name, self._flow(walks)

    def _flow(self, walks: Walks) -> Generator[Any, Any, str]:
        try:
            walks.seen.append(f"{self.name}0")
            walks.seen.append(f"{self.name}{yield First(self.name)}")
            walks.seen.append(f"{self.name}{yield Second(self.name)}")
        except (ValueError, asyncio.CancelledError) as error:
            return type(error).__name__
        return "end"


class Walks:
    """All walks of a test. `wait` and `fall` are the steps in which somebody waits or meets an error."""

    def __init__(self, wait: dict[str, asyncio.Event] | None = None, fall: dict[str, BaseException] | None = None):
        self.wait, self.fall = wait or {}, fall or {}
        self.seen: list[str] = []
        self.ended: list[tuple[str, str]] = []
        self.batching: Batching[Walk] = Batching(
            (Walk, First, Second),
            lambda step: self.take(step),
            lambda who, how: self.end(who, how),
        )

    def end(self, who: Walk, how: str) -> None:
        self.ended.append((who.name, how))

    def begin(self, *names: str) -> None:
        for name in names:
            self.batching.join(Walk(name, self), Walk)

    async def take(self, step: First | Second) -> int:
        if isinstance(step, First):
            if step.who in self.wait:
                await self.wait[step.who].wait()
            if step.who in self.fall:
                raise self.fall[step.who]
        return 1 if isinstance(step, First) else 2


async def quiet() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_all_whose_step_is_done_go_on_before_any_of_them_is_resumed_again() -> None:
    walks = Walks()
    walks.begin("a", "b", "c")
    assert walks.seen == []  # in the next turn of the loop, together with what else is ready then
    await quiet()
    assert walks.seen == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]
    assert walks.ended == [("a", "end"), ("b", "end"), ("c", "end")]


async def test_a_step_that_waits_or_fails_holds_up_nobody_else() -> None:
    walks = Walks(wait={"a": asyncio.Event()}, fall={"b": ValueError("b")})
    walks.begin("a", "b", "c")
    await quiet()
    assert walks.ended == [("b", "ValueError"), ("c", "end")]
    walks.wait["a"].set()
    await quiet()
    assert walks.seen[-2:] == ["a1", "a2"]
    assert walks.ended[-1] == ("a", "end")


async def test_a_step_that_was_cancelled_has_failed_like_any_other() -> None:
    walks = Walks(fall={"a": asyncio.CancelledError()})
    walks.begin("a", "b")
    await quiet()
    assert walks.ended == [("a", "CancelledError"), ("b", "end")]


async def test_whose_end_cannot_be_told_takes_nobody_along(caplog: pytest.LogCaptureFixture) -> None:
    walks = Walks(fall={"a": ValueError("a")})
    end = walks.end

    def fails(who: Walk, how: str) -> None:
        if who.name == "a":
            raise RuntimeError("the connection is broken")
        end(who, how)

    walks.end = fails  # type: ignore[method-assign]
    walks.begin("a", "b")
    await quiet()
    assert walks.ended == [("b", "end")]
    assert "the connection is broken" in caplog.text


async def test_more_than_so_many_are_resumed_in_several_turns_in_their_order() -> None:
    walks = Walks()
    names = [f"{n}." for n in range(2 * MOST + 1)]
    walks.begin(*names)
    await asyncio.sleep(0)
    assert walks.seen == [f"{name}{step}" for step in range(3) for name in names[:MOST]]
    await quiet()
    assert [who for who, _ in walks.ended] == names


async def test_a_flow_may_begin_another() -> None:
    walks = Walks()
    take = walks.take

    async def begins_another(step: First | Second) -> int:
        if isinstance(step, First) and step.who == "a":
            walks.begin("b")
        return await take(step)

    walks.take = begins_another  # type: ignore[method-assign]
    walks.begin("a")
    await quiet()
    assert walks.ended == [("a", "end"), ("b", "end")]


async def test_a_step_may_wait_as_often_and_for_whatever_it_likes() -> None:
    walks, free = Walks(), asyncio.Event()

    async def waits(step: First | Second) -> int:
        await free.wait()
        await asyncio.sleep(0)
        await asyncio.wait([asyncio.create_task(asyncio.sleep(0.001))])
        if step.who == "b" and isinstance(step, Second):
            raise ValueError("late")
        return await asyncio.to_thread(lambda: 1 if isinstance(step, First) else 2)

    walks.take = waits  # type: ignore[method-assign]
    walks.begin("a", "b")
    free.set()
    async with asyncio.timeout(5):
        while len(walks.ended) < 2:
            await asyncio.sleep(0.001)
    assert sorted(walks.ended) == [("a", "end"), ("b", "ValueError")]
    assert sorted(walks.seen) == ["a0", "a1", "a2", "b0", "b1"]


@pytest.mark.parametrize("ready", [True, False])
async def test_a_journal_that_lets_one_wait_leads_to_the_same(tmp_path: Any, ready: bool) -> None:
    """Twenty requests at once, with a journal that takes events at once and with one that never does."""
    here = Here(tmp_path, stages='[[guard]]\nunit = "quota"\nrows = 15\n')
    if not ready:

        async def tell(client: str, position: int, event: Any, *, durable: bool) -> Any:
            await asyncio.sleep(0.001)
            return await store.tell(client, position, event, durable=durable)

        store = here.store
        here.streams.journal = here.streams.cache._journal = Slow(store, tell)
    found = await asyncio.gather(*(here.infer(np.full((1, 4), i / 20)) for i in range(20)))
    assert sorted(status for status, _, _ in found) == [200] * 15 + [429] * 5
    stream = await here.streams.look("alice")
    assert stream.tally == {"requests": 15, "rows": 15, "altered": 0, "refused": 5}
    assert (stream.position, stream.busy, stream.pending) == (30, 0, {})
    await here.store.close()


class Slow:
    """A store that does nothing at once."""

    def __init__(self, store: Any, tell: Any) -> None:
        self._store, self.tell = store, tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
