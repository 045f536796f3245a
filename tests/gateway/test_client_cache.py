"""The client cache: clients come and go by pieces, and nothing is written twice or lost on the way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.gateway.harness import SECRET, Softmax, stored

from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.types import Answer, Array
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.gateway.state import client_cache as cache_module
from portcullis_ml.gateway.state import paging as pages_module
from portcullis_ml.gateway.state import workers as workers_module
from portcullis_ml.gateway.state.journal import Down
from portcullis_ml.gateway.state.paging import PAGE, Marks, cut
from portcullis_ml.gateway.state.redis_store import RedisStore
from portcullis_ml.gateway.state.sqlite_snapshots import LIGHT as INLINE
from portcullis_ml.gateway.state.sqlite_snapshots import split
from portcullis_ml.gateway.state.stores import SqliteStore
from portcullis_ml.gateway.state.streams import Streams

MODEL = Softmax()


@dataclass
class Ring:
    rows: int = 0
    kept: Array = field(default_factory=lambda: np.zeros((4 * PAGE // 8, 1)))  # four pages


@dataclass(frozen=True, kw_only=True)
class Remember(Defense[Ring]):
    """Keeps one number of every request in a large array."""

    name: ClassVar[str] = "tests.gateway.test_client_cache:Remember"

    def start(self) -> Ring:
        return Ring()

    def release(self, request, answer, clean, state, noise):  # type: ignore[no-untyped-def]
        state.kept[state.rows] = request.x[0, 0]
        state.rows += 1
        return answer


def guard() -> Guard:
    return Guard(Quota(rows=100_000, per=None), Remember(), key=SECRET)


async def ask(streams: Streams, client: str, value: float) -> None:
    x = np.full((1, 4), value)
    seq = await streams.admit(client, x, 1.0)
    scores = MODEL.scores(x)
    await streams.release(client, seq, Answer(scores.argmax(axis=1), scores))


async def remembered(streams: Streams, client: str) -> list[float]:
    ring = (await streams.look(client)).states["1-tests.gateway.test_client_cache:Remember"]
    return ring.kept[: ring.rows, 0].tolist()


def contents(store: SqliteStore, client: str) -> tuple[set[bytes], int]:
    """(names of all pages, number of events) that the file holds of a client."""
    store._move()
    found = store._db.execute("SELECT name FROM pages WHERE client = ?", (client,)).fetchall()
    events = store._db.execute("SELECT body FROM events WHERE client = ?", (client,)).fetchall()
    return {name for (name,) in found}, sum(len(split(body)) for (body,) in events)


async def test_pages_join_to_what_was_cut_and_only_what_changed_is_fresh() -> None:
    rng = np.random.default_rng(0)
    sizes = (10, 3 * PAGE + 7, 200, PAGE // 4, 5, *[PAGE // 5] * 9, 2 * PAGE)
    buffers = [rng.bytes(size) for size in sizes]
    order, fresh, marks = await cut(buffers, frozenset(), Marks())
    assert b"".join(fresh[name] for name in order) == b"".join(buffers)
    assert (await cut(buffers, set(order), marks))[1] == {}
    grown = [*buffers]
    grown[1] += b"new"  # a large buffer that grows moves no other page
    assert len((await cut(grown, set(order), marks))[1]) == 1
    assert (await cut([], frozenset(), marks))[:2] == ([], {})


async def test_a_page_named_before_is_named_alike_and_a_changed_one_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    state = [bytearray(rng.bytes(PAGE)) for _ in range(6)]
    asked: list[int] = []
    named = pages_module.named
    monkeypatch.setattr(pages_module, "named", lambda page: asked.append(1) or named(page))
    order, _, marks = await cut(list(map(bytes, state)), frozenset(), Marks())
    for bit in range(0, 64, 7):  # whichever bit of a page changes, the lowest and the highest of a number too
        state[2][8 * bit + bit // 8] ^= 1 << bit % 8
        asked.clear()
        order, fresh, marks = await cut(list(map(bytes, state)), set(order), marks)
        assert order == [named(bytes(page)) for page in state]
        assert (len(fresh), len(asked), len(marks)) == (1, 1, 6)  # marks of pages that are gone are gone


async def test_a_second_snapshot_writes_one_page_and_cuts_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "EVERY", 10)
    monkeypatch.setattr(cache_module, "PER_PAGE", 0)
    store = stored(tmp_path / "s.db")
    streams = Streams(guard(), store)
    written: list[int] = []
    save = store._snapshots.save

    async def spy(client: str, base: int, position: int, order: Any, fresh: Any) -> Any:
        written.append(len(fresh))
        return await save(client, base, position, order, fresh)

    monkeypatch.setattr(store._snapshots, "save", spy)
    for i in range(12):
        await ask(streams, "c", float(i))
        await asyncio.gather(*streams.cache._tasks)
    assert written == [3, 2]  # head, the changed page and the zeros, which are one; then head and changed page
    names, events = contents(store, "c")
    assert len(names) == 3
    assert events == 4  # of two requests
    again = Streams(guard(), stored(tmp_path / "s.db"))
    assert await remembered(again, "c") == [float(i) for i in range(12)]


async def test_pages_that_a_crash_left_behind_belong_to_nothing_and_go(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    streams = Streams(guard(), store)
    await ask(streams, "c", 1.0)
    store._db.execute("INSERT INTO pages VALUES ('c', x'00', x'00')")  # written, and then the process died
    assert await remembered(Streams(guard(), store), "c") == [1.0]
    await streams.cache.save(await streams.look("c"))
    assert b"\0" not in contents(store, "c")[0]
    assert await remembered(Streams(guard(), store), "c") == [1.0]


async def test_a_request_that_a_snapshot_caught_between_admit_and_release_counts_once(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    streams = Streams(guard(), store)
    x = np.ones((1, 4))
    seq = await streams.admit("c", x, 1.0)
    await streams.cache.save(await streams.look("c"))
    scores = MODEL.scores(x)
    await streams.release("c", seq, Answer(scores.argmax(axis=1), scores))
    for again in (Streams(guard(), store), Streams(guard(), stored(tmp_path / "s.db"))):
        stream = await again.look("c")
        assert stream.states["0-quota"].rows == 1
        assert stream.tally["requests"] == 1
        assert not stream.pending


@pytest.mark.parametrize("many", [False, True])
async def test_a_long_journal_is_folded_by_pieces_and_nobody_sees_half_of_it(
    many: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = INLINE[1] if many else 20  # few are read where they are asked for, many on another thread
    streams = Streams(guard(), stored(tmp_path / "s.db"))
    for i in range(requests):
        await ask(streams, "c", float(i))
    monkeypatch.setattr(workers_module, "SLICE_S", 0.0)
    again = Streams(guard(), stored(tmp_path / "s.db"))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while not (again.open.get("c") and again.open["c"].ready):
            turns += 1
            await asyncio.sleep(0)

    found = await asyncio.gather(remembered(again, "c"), other(), remembered(again, "c"))
    assert found[0] == found[2] == [float(i) for i in range(requests)]
    assert turns >= 2 * requests  # one turn at least after every event


async def test_a_journal_that_cannot_be_folded_is_folded_anew_by_the_next_request(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    await ask(Streams(guard(), store), "c", 5.0)
    streams = Streams(guard(), store)
    load, fails = store.load, [True, True]

    async def failing(client: str) -> Any:
        if fails:
            fails.pop()
            raise Down("not now")
        return await load(client)

    store.load = failing  # type: ignore[method-assign]
    found = await asyncio.gather(*(remembered(streams, "c") for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(f, Down) for f in found) == 2
    assert [f for f in found if not isinstance(f, Down)] == [[5.0], [5.0]]
    assert not streams.cache._loading


async def test_clients_with_long_journals_are_written_and_let_go_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "LIGHT", 0)
    streams = Streams(guard(), stored(tmp_path / "s.db"), capacity=3)
    clients = [f"c{i}" for i in range(40)]
    for turn in range(3):
        for client in clients:
            await ask(streams, client, float(turn))
            assert len(streams.open) <= 3 + 16 + 1  # memory is bounded however fast they come
    for client in clients:
        assert await remembered(streams, client) == [0.0, 1.0, 2.0]
    await streams.close()


async def test_a_snapshot_does_not_begin_twice_and_does_not_hold_a_request_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "EVERY", 2)
    monkeypatch.setattr(cache_module, "PER_PAGE", 0)
    store = stored(tmp_path / "s.db")
    streams = Streams(guard(), store)
    going, hold = 0, asyncio.Event()

    async def slow(client: str, base: int, position: int, order: Any, fresh: Any) -> Any:
        nonlocal going
        going += 1
        await hold.wait()
        return position, frozenset(order)

    monkeypatch.setattr(store._snapshots, "save", slow)
    for i in range(8):
        await ask(streams, "c", float(i))
        await asyncio.sleep(0)
    assert going == 1
    hold.set()
    await asyncio.gather(*streams.cache._tasks)


async def test_a_replica_whose_snapshot_was_overtaken_goes_on_from_the_others(redis: Any) -> None:
    stores = [RedisStore(redis[0], prefix="overtaken") for _ in range(2)]
    one, two = (Streams(guard(), store) for store in stores)
    for i in range(3):
        await ask(one, "c", float(i))
        await ask(two, "c", float(10 + i))
    await one.cache.save(await one.look("c"))
    behind = await two.look("c")
    await two.cache.save(behind)
    assert (behind.snapped, behind.pages) == ((await one.look("c")).snapped, (await one.look("c")).pages)
    await ask(two, "c", 20.0)
    await two.cache.save(behind)
    assert await remembered(one, "c") == [0.0, 10.0, 1.0, 11.0, 2.0]  # has not asked since
    await ask(one, "c", 21.0)  # and now folds what it missed, on the other's snapshot
    assert await remembered(one, "c") == [0.0, 10.0, 1.0, 11.0, 2.0, 12.0, 20.0, 21.0]
    for store in stores:
        await store.close()


def test_a_page_is_named_by_all_of_its_bytes() -> None:
    assert pages_module.named(bytes(PAGE)) != pages_module.named(bytes(PAGE - 1) + b"\1")
    assert pages_module.names(b"a" * 16 + b"b" * 16) == [b"a" * 16, b"b" * 16]


async def test_an_end_writes_the_longest_journals_and_does_not_take_for_ever(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    streams = Streams(guard(), store)
    for client, requests in (("long", 80), ("longer", 90), ("short", 3)):
        for i in range(requests):
            await ask(streams, client, float(i))
    await streams.cache.close(seconds=-1.0)
    assert store._db.execute("SELECT count(*) FROM snapshots").fetchone() == (0,)
    await streams.cache.close()
    assert store._db.execute("SELECT client FROM snapshots ORDER BY 1").fetchall() == [("long",), ("longer",)]
    again = Streams(guard(), stored(tmp_path / "s.db"))
    assert [len(await remembered(again, c)) for c in ("long", "longer", "short")] == [80, 90, 3]
