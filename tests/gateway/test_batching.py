"""Batching: who takes which step when, whatever goes wrong with others."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import Here

from portcullis_ml.gateway.batching import MOST, Batching


class Walk:
    """Three steps that note who takes them; some stop at one, some fall at one."""

    def __init__(self, stop: dict[str, int] | None = None, fall: dict[str, int] | None = None) -> None:
        self.stop, self.fall = stop or {}, fall or {}
        self.seen: list[str] = []
        self.fallen: list[tuple[str, str]] = []
        steps = [lambda who, n=n: self.step(n, who) for n in range(3)]
        self.batching: Batching[str] = Batching(steps, lambda who, error: self.fallen.append((who, str(error))))

    def step(self, n: int, who: str) -> bool:
        self.seen.append(f"{who}{n}")
        if self.fall.get(who) == n:
            raise ValueError(f"at {n}")
        return self.stop.get(who) != n


async def test_all_take_a_step_before_any_takes_the_next() -> None:
    walk = Walk()
    for who in "abc":
        walk.batching.join(0, who)
    walk.batching.join(2, "z")
    assert walk.seen == []  # in the next turn of the loop, together with what else is ready then
    await asyncio.sleep(0)
    assert walk.seen == ["a0", "b0", "c0", "a1", "b1", "c1", "z2", "a2", "b2", "c2"]


async def test_who_stops_comes_back_by_himself_and_who_falls_takes_nobody_along() -> None:
    walk = Walk(stop={"a": 1}, fall={"b": 1})
    for who in "abc":
        walk.batching.join(0, who)
    await asyncio.sleep(0)
    assert walk.seen == ["a0", "b0", "c0", "a1", "b1", "c1", "c2"]
    assert walk.fallen == [("b", "at 1")]
    walk.stop.clear()
    walk.batching.join(1, "a")
    await asyncio.sleep(0)
    assert walk.seen[-2:] == ["a1", "a2"]


async def test_a_step_that_was_cancelled_has_failed_like_any_other() -> None:
    fallen: list[str] = []

    def cancelled(who: str) -> bool:
        raise asyncio.CancelledError

    batching: Batching[str] = Batching([cancelled], lambda who, error: fallen.append(who))
    batching.join(0, "a")
    batching.join(0, "b")
    await asyncio.sleep(0)
    assert fallen == ["a", "b"]


async def test_more_than_so_many_are_led_in_several_turns_in_their_order() -> None:
    walk = Walk()
    for who in range(2 * MOST + 1):
        walk.batching.join(0, f"{who}.")
    await asyncio.sleep(0)
    assert len(walk.seen) == 3 * MOST
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [w for w in walk.seen if w.endswith(".2")] == [f"{who}.2" for who in range(2 * MOST + 1)]
    assert not walk.batching._called


async def test_one_may_join_from_within_a_step() -> None:
    walk = Walk()
    more = iter(["b", "c"])

    def joining(who: str) -> bool:
        walk.seen.append(who)
        if (one := next(more, None)) is not None:
            batching.join(0, one)
        return False

    batching: Batching[str] = Batching([joining], lambda who, error: None)
    batching.join(0, "a")
    for _ in range(3):
        await asyncio.sleep(0)
    assert walk.seen == ["a", "b", "c"]


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

    def tell_now(self, *values: Any, **words: Any) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
