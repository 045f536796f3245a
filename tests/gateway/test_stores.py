"""Journals: what is written is there after a crash, and two replicas decide as one."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.asgi import Here
from tests.gateway.harness import SECRET, Softmax, stored
from tests.gateway.units import At

from portcullis_ml.core.errors import InputError, ParameterError, Refused
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.state import pack
from portcullis_ml.core.types import Answer
from portcullis_ml.defenses.block import Block
from portcullis_ml.defenses.label_only import LabelOnly
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors.prada import Prada
from portcullis_ml.gateway.state import client_cache as cache_module
from portcullis_ml.gateway.state import stores as stores_module
from portcullis_ml.gateway.state import tail as tail_module
from portcullis_ml.gateway.state.events import JournalEvent, narrow, pack_by_words, pack_event, unpack_event
from portcullis_ml.gateway.state.evidence import AlarmRecord
from portcullis_ml.gateway.state.fold import Failed, alarmed
from portcullis_ml.gateway.state.redis_store import RedisStore
from portcullis_ml.gateway.state.stores import SqliteStore, open_store
from portcullis_ml.gateway.state.streams import Down, Streams

MODEL = Softmax()


def guard() -> Guard:
    watch = Watch(Prada(window=5, threshold=1.5), then=LabelOnly())
    return Guard(Quota(rows=400, per=None), watch, Watch(At(row=20)), Rounding(decimals=3), key=SECRET)


def answer(x: np.ndarray) -> Answer:
    scores = MODEL.scores(x)
    return Answer(scores.argmax(axis=1), scores)


async def ask(streams: Streams, client: str, x: np.ndarray, at: float) -> Any:
    """What became of one request: the numbers let out, or the reason of the refusal."""
    try:
        seq = await streams.admit(client, x, at)
        _, released = await streams.release(client, seq, answer(x))
    except Refused as refusal:
        return refusal.reason
    shown = released.answer
    return shown.labels.tolist(), np.nan_to_num(shown.scores, nan=-1).tolist(), [a.row for a in released.alarms]  # type: ignore[union-attr]


def questions(client: str, n: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(len(client))
    varied = [rng.normal(size=(int(rng.integers(1, 3)), 4)) for _ in range(n // 2)]
    return varied + [varied[0] + 1e-3 * rng.normal(size=varied[0].shape) for _ in range(n // 2)]


@pytest.fixture(params=["sqlite", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    url, _ = request.getfixturevalue("redis")
    import redis as client

    with client.Redis.from_url(url) as r:
        r.flushall()
    return str(url)


def arrays(answer: Answer) -> tuple[Any, Any]:
    return answer.labels, answer.scores


def test_an_event_survives_its_bytes() -> None:
    x = np.array([[0.1, np.nan], [1.5, np.inf]])
    for event in (
        JournalEvent("admit", 12.5, x=x),
        JournalEvent("admit", 12.5, x=np.array([[0.5, 0.25]])),  # fits 32 bits
        JournalEvent("release", of=3, answer=Answer(np.array([1, -1]), np.array([[0.1, 0.9], [np.nan, np.nan]]))),
        JournalEvent("release", of=3, answer=Answer(None, np.array([[0.1]]))),
        JournalEvent(
            "whole", 2.5, x=x.reshape(2, 1, 2), answer=Answer(np.array([0, 1]), np.array([[0.5, 0.5], [0.1, 0.9]]))
        ),
        JournalEvent("whole", 2.5, x=np.asfortranarray(np.array([[0.1, 0.2], [0.3, 1e300]]))),
        JournalEvent("release", of=-7, answer=Answer(np.array([4]))),
        JournalEvent("admit", 1.0, x=np.array([[1, 2]])),  # whole numbers
        JournalEvent("undo", of=1 << 40),
        JournalEvent("block", 1.0, by="ops"),
    ):
        for packed in (pack_event(event), pack_by_words(event)):  # the quick form and the one that says it in words
            back = unpack_event(packed)
            assert (back.kind, back.at, back.of, back.by) == (event.kind, event.at, event.of, event.by)
            assert [type(back.x), type(back.answer)] == [type(event.x), type(event.answer)]
            if event.x is not None:
                assert back.x.shape == event.x.shape  # type: ignore[union-attr]
                np.testing.assert_array_equal(back.x, event.x)
            if event.answer is not None:
                assert back.answer is not None
                for now, was in zip(arrays(back.answer), arrays(event.answer), strict=True):
                    assert type(now) is type(was)
                    assert was is None or (now.dtype == was.dtype and np.array_equal(now, was, equal_nan=True))
    assert len(pack_event(JournalEvent("admit", x=np.ones((1, 784))))) < 4 * 784 + 40
    single = np.array([[0.1, -3e38, np.nan]], np.float32)
    for written in (pack_event, pack_by_words):  # rows in 32 bits are the same event as those numbers in 64
        assert written(JournalEvent("admit", 1.0, x=single)) == written(
            JournalEvent("admit", 1.0, x=single.astype(np.float64))
        )
    good = pack_event(JournalEvent("admit", x=np.ones((1, 4))))
    for damaged in (b"\x05\0\0\0nojson", b"", good[:20], good[:-1], b"\x09" + good[1:]):
        with pytest.raises(InputError, match="damaged"):
            unpack_event(damaged)


@given(st.lists(st.floats(width=64), min_size=1, max_size=5), st.booleans())
def test_rows_are_narrowed_only_where_every_value_stays_what_it_was(values: list[float], single: bool) -> None:
    x = np.array([values])
    with np.errstate(over="ignore"):
        x = x.astype(np.float32).astype(np.float64) if single else x
    found = narrow(x)
    assert np.array_equal(found.astype(np.float64), x, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(x))
    assert not single or found.dtype == np.float32


async def test_a_restart_continues_where_a_crash_left_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "EVERY", 30)  # some snapshots on the way
    store = open_store(address)
    through = Streams(guard(), store)
    whole = [await ask(through, "through", x, float(i)) for i, x in enumerate(questions("broken"))]
    found = []
    for i, x in enumerate(questions("broken")):
        if i % 7 == 0:  # the process dies: what is in memory is gone
            broken = Streams(guard(), store)
        found.append(await ask(broken, "broken", x, float(i)))
    assert found == whole
    assert any(isinstance(f, str) for f in found)  # it was blocked on the way, and stayed so
    alarms = {(a.client, a.stage, a.row) for _, a in await store.alarms()}
    assert {a[1:] for a in alarms if a[0] == "broken"} == {a[1:] for a in alarms if a[0] == "through"}
    await store.close()


async def test_clients_beyond_the_capacity_leave_memory_and_come_back_as_they_were(address: str) -> None:
    store = open_store(address)
    few, all_of_them = Streams(guard(), store, capacity=2), Streams(guard(), stored(":memory:"))
    clients = ["a", "bb", "ccc", "dddd"]
    asked = {c: questions(c, 24) for c in clients}
    for i in range(24):
        for c in clients:
            assert await ask(few, c, asked[c][i], float(i)) == await ask(all_of_them, c, asked[c][i], float(i))
    assert len(few.open) <= 3
    assert await store.clients() == clients
    await store.close()


async def test_two_replicas_decide_as_one_process(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "EVERY", 25)
    url, _ = redis
    stores = [RedisStore(url, prefix="two") for _ in range(2)]
    replicas = [Streams(guard(), store) for store in stores]
    alone = Streams(guard(), stored(":memory:"))
    clients = ["a", "bb", "ccc"]
    asked = {c: questions(c, 60) for c in clients}
    rng = np.random.default_rng(1)

    async def life(client: str) -> list[Any]:
        """One client's requests, one after another, each to whichever replica."""
        found = []
        for i, x in enumerate(asked[client]):
            found.append(await ask(replicas[rng.integers(2)], client, x, float(i)))
        return found

    together = dict(zip(clients, await asyncio.gather(*map(life, clients)), strict=True))
    for client in clients:
        assert together[client] == [await ask(alone, client, x, float(i)) for i, x in enumerate(asked[client])]
    for store in stores:
        await store.close()


async def test_replicas_never_spend_one_quota_twice_and_agree_on_the_order(redis: Any) -> None:
    url, _ = redis
    stores = [RedisStore(url, prefix="quota", wait_s=10.0) for _ in range(2)]
    replicas = [Streams(guard(), store) for store in stores]
    x = np.random.default_rng(0).normal(size=(240, 2, 4))
    found = await asyncio.gather(*(ask(replicas[i % 2], "busy", x[i], 0.0) for i in range(240)))
    assert sum(not isinstance(f, str) for f in found) <= 200  # 400 rows
    a, b = [await r.look("busy") for r in replicas]
    for stream, replica in ((a, replicas[0]), (b, replicas[1])):
        async with stream.lock:  # read the journal to its end
            saved = await replica.journal.load("busy")
            stream.position = 0
            stream.states.clear()
            stream.pending.clear()
            await replica.cache.catch_up(stream, saved)
    assert {n: pack(s) for n, s in a.states.items()} == {n: pack(s) for n, s in b.states.items()}
    for store in stores:
        await store.close()


async def test_a_replica_that_dies_between_admit_and_release_keeps_nothing_reserved(redis: Any) -> None:
    url, _ = redis
    store = RedisStore(url, prefix="dead")
    dead, other = Streams(guard(), store), Streams(guard(), store, patience=30.0)
    await dead.admit("c", np.zeros((399, 4)), 0.0)
    assert await ask(other, "c", np.zeros((2, 4)), 10.0) == "its quota of rows is used up"
    assert not isinstance(await ask(other, "c", np.zeros((2, 4)), 40.0), str)
    await store.close()


async def test_of_several_that_wait_only_those_that_are_late_are_undone() -> None:
    store = stored(":memory:")
    streams = Streams(guard(), store, patience=30.0)
    asked = [await streams.admit("c", np.zeros((1, 4)), at) for at in (0.0, 5.0, 20.0, 36.0)]
    assert list((await streams.look("c")).pending) == asked[2:]
    await store.close()


async def test_what_waits_since_a_clock_ran_ahead_is_undone() -> None:
    streams = Streams(guard(), stored(":memory:"), patience=30.0)
    await streams.admit("c", np.zeros((399, 4)), 5_000_000.0)  # and its replica died
    assert not isinstance(await ask(streams, "c", np.zeros((2, 4)), 1_000.0), str)
    assert not (await streams.look("c")).pending


async def test_a_redis_that_dies_and_comes_back_does_what_the_policy_says(redis: Any) -> None:
    url, (start, stop) = redis
    stores = [RedisStore(url, prefix="dies", wait_s=0.3) for _ in range(2)]
    closed, open_ = Streams(guard(), stores[0]), Streams(guard(), stores[1], when_down="open")
    x = questions("open", 30)
    assert not isinstance(await ask(closed, "closed", x[0], 0.0), str)
    assert not isinstance(await ask(open_, "open", x[0], 0.0), str)
    seq = await open_.admit("late", x[0], 0.0)  # admitted before, released after
    stop()
    with pytest.raises(Down, match="Redis cannot be reached"):
        await closed.admit("closed", x[1], 1.0)
    alone = Streams(guard(), stored(":memory:"))
    await ask(alone, "open", x[0], 0.0)
    for i in range(1, 20):  # goes on deciding, alarms included
        assert await ask(open_, "open", x[i], float(i)) == await ask(alone, "open", x[i], float(i))
    await open_.release("late", seq, answer(x[0]))
    assert open_.failures > 0
    start()
    for i in range(20, 30):
        assert await ask(open_, "open", x[i], float(i)) == await ask(alone, "open", x[i], float(i))
    third = Streams(guard(), stores[0])  # a replica that was not there knows all of it
    assert (await third.look("open")).tally == (await open_.look("open")).tally
    for store in stores:
        await store.close()


async def test_a_locked_state_file_refuses_or_serves_as_the_policy_says(tmp_path: Path) -> None:
    x = np.zeros((1, 4))
    for policy, status in (("closed", 503), ("open", 200)):
        folder = tmp_path / policy
        folder.mkdir()
        quota = '[[guard]]\nunit = "quota"\nrows = 5\nper = 60\n'
        here = Here(folder, quota, more=f'[failure]\nstate = "{policy}"\n')
        assert (await here.infer(x))[0] == 200
        other = sqlite3.connect(folder / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        here.store._try_to_move()  # which happens every second; until then the tail takes what comes
        assert [(await here.infer(x))[0] for _ in range(2)] == [status] * 2
        other.execute("ROLLBACK")
        other.close()
        found = [(await here.infer(x))[0] for _ in range(6)]
        left = 4 if policy == "closed" else 2  # a refused request costs nothing, a served one is not forgotten
        assert found == [200] * left + [429] * (6 - left)
        here.open()  # after a crash too
        assert (await here.infer(x))[0] == 429


async def test_a_full_disk_refuses_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "ROOM", 16 << 10)
    here = Here(tmp_path)
    x = np.random.default_rng(0).random((64, 4))
    pages = here.store._db.execute("PRAGMA page_count").fetchone()[0]
    here.store._db.execute(f"PRAGMA max_page_count = {pages + 3}")  # the disk has room for three pages more
    found = [(await here.infer(x + i))[0] for i in range(12)]
    assert found[0] == 200
    assert found[-1] == 503
    here.store._db.execute("PRAGMA max_page_count = 100000")
    assert (await here.infer(x))[0] == 200
    answered = found.count(200) + 1
    here.open()
    assert (await here.streams.look("alice")).tally["requests"] == answered


async def test_an_operators_word_is_an_event_like_any_other(address: str) -> None:
    store = open_store(address)
    streams = Streams(guard(), store)
    x = np.zeros((1, 4))
    await ask(streams, "c", x, 0.0)
    await streams.operate("c", "block", "ops", 1.0)
    assert await ask(Streams(guard(), store), "c", x, 2.0) == "this client was blocked"
    await streams.operate("c", "unblock", "ops", 3.0)
    assert not isinstance(await ask(streams, "c", x, 4.0), str)
    await ask(streams, "c", np.zeros((390, 4)), 5.0)
    assert isinstance(await ask(streams, "c", np.zeros((100, 4)), 6.0), str)
    await streams.operate("c", "clear", "ops", 7.0)
    assert not isinstance(await ask(Streams(guard(), store), "c", np.zeros((10, 4)), 8.0), str)
    await store.close()


async def test_unblock_begins_alarmed_stages_anew_and_decisions_are_counted_by_stage(address: str) -> None:
    store, x = open_store(address), np.zeros((1, 4))
    stages = Quota(rows=9, per=None), Watch(At(row=2), then=Block()), Watch(At(row=3), then=LabelOnly())
    guard = Guard(*stages, key=SECRET)
    streams = Streams(guard, store)
    for at in range(4):
        await ask(streams, "c", x, float(at))
    stream = await streams.look("c")
    assert [name for name, _, _ in alarmed(guard, stream)] == ["1-watch"]
    assert stream.decided == {"1-watch": {"changed": 1, "refused": 2}}
    await streams.operate("c", "unblock", "ops", 4.0)
    found = [await ask(streams, "c", x, float(5 + at)) for at in range(4)]
    assert [isinstance(f, str) for f in found] == [False, False, True, True]
    assert [(a.stage, a.row) for _, a in reversed(await store.alarms())] == [
        ("1-watch", 2),
        ("2-watch", 3),
        ("1-watch", 2),
    ]
    await streams.operate("c", "block", "ops", 10.0)
    await ask(streams, "c", x, 11.0)
    await streams.cache.save(stream)
    for again in (streams, Streams(Guard(*stages, key=SECRET), store)):  # the second reads the snapshot
        stream = await again.look("c")
        assert stream.blocked == "ops"
        assert stream.decided["operator"] == {"changed": 0, "refused": 1}
        assert (stream.decided["1-watch"]["refused"], stream.states["0-quota"].rows) == (4, 4)
        assert stream.curve[-1].suspicions["2-watch"] == 3.0
    await store.close()


async def test_alarms_are_kept_once_and_told_until_taken(address: str) -> None:
    store = open_store(address)
    first = AlarmRecord("0-watch", "c", 7, 1.5, 10.0, {"code": "CALL_RATE", "accounts": [{"account": "ä", "rows": 7}]})
    second = AlarmRecord("0-watch", "d", 9, 2.5, 11.0)
    assert await store.alarm("id1", first)
    assert not await store.alarm("id1", first)
    await store.alarm("id2", second)
    assert await store.alarms(untold=True) == [("id1", first), ("id2", second)]
    await store.told("id1")
    assert [i for i, _ in await store.alarms(untold=True)] == ["id2"]
    assert [i for i, _ in await store.alarms()] == ["id2", "id1"]
    await store.log_operation(1.0, "ops", "block", "c")
    assert await store.operator_log() == [{"at": 1.0, "who": "ops", "what": "block", "client": "c"}]
    await store.close()


async def test_a_changed_stage_begins_anew_and_the_others_remember(address: str) -> None:
    store = open_store(address)
    streams = Streams(Guard(Quota(rows=10, per=None), Watch(At(row=5)), key=SECRET), store)
    for i in range(3):
        await ask(streams, "c", np.zeros((1, 4)), float(i))
    streams.fold.use(Guard(Quota(rows=10, per=None), Watch(At(row=4)), key=SECRET))
    stream = await streams.look("c")
    assert list(stream.states) == ["0-quota"]
    assert stream.states["0-quota"].rows == 3
    await store.close()


async def test_whom_a_block_with_the_former_sentence_stopped_stays_blocked(address: str) -> None:
    store, x = open_store(address), np.zeros((1, 4))
    detector = At(row=2)

    def streams(then: Block) -> Streams:
        return Streams(Guard(Watch(detector, then=then), key=SECRET), store)

    before = streams(Block(reason="its queries look like an extraction attack"))
    for at in range(3):
        await ask(before, "c", x, float(at))
    await before.cache.save(before.open["c"])  # as a snapshot, which holds a stage's state under its settings
    assert await ask(streams(Block()), "c", x, 4.0) == "this client was blocked"
    assert not isinstance(await ask(streams(Block(reason="another")), "c", x, 5.0), str)
    await store.close()


async def test_an_answer_that_comes_twice_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    streams = Streams(guard(), stored(tmp_path / "s.db"))
    x = np.zeros((1, 4))
    seq = await streams.admit("c", x, 0.0)
    await streams.release("c", seq, answer(x))
    with pytest.raises(Failed, match="given up"):
        await streams.release("c", seq, answer(x))
    assert (await streams.look("c")).tally["rows"] == 1


async def test_a_refused_client_does_not_grow_the_journal(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    streams = Streams(guard(), store)
    await streams.operate("c", "block", "ops", 0.0)
    for i in range(50):
        assert await ask(streams, "c", np.zeros((1, 4)), float(i)) == "this client was blocked"
    assert store._waiting == {}
    assert len((await store.load("c")).events) == 1
    assert (await streams.look("c")).position == 1


async def test_what_was_served_while_the_journal_was_down_is_written_in_order_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "s.db")
    streams = Streams(guard(), store, when_down="open")
    x = questions("c", 10)
    found = [await ask(streams, "c", x[0], 0.0)]

    async def down(*args: Any, **settings: Any) -> None:
        raise Down("The state file cannot be written.")

    with monkeypatch.context() as broken:
        broken.setattr(store, "tell", down)
        found += [await ask(streams, "c", x[i], float(i)) for i in range(1, 5)]
    found += [await ask(streams, "c", x[i], float(i)) for i in range(5, 10)]
    alone = Streams(guard(), stored(":memory:"))
    assert found == [await ask(alone, "c", x[i], float(i)) for i in range(10)]
    seen, again = await streams.look("c"), await Streams(guard(), store).look("c")
    assert again.tally == seen.tally
    assert again.tally["requests"] == 10
    assert again.position == seen.position == 2 + 4 + 2 * 5  # one event each while it was down, else admit and release


def test_a_state_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(ParameterError, match="SQLite file"):
        SqliteStore(tmp_path / "x.db")
    with sqlite3.connect(tmp_path / "y.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ParameterError, match="version 4; got 99"):
        SqliteStore(tmp_path / "y.db")
    with pytest.raises(ParameterError, match="normal"):
        SqliteStore(tmp_path / "z.db", synchronous="off")


async def test_the_write_ahead_log_begins_anew_under_steady_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "s.db")  # SQLite's own checkpoints come at 400 MB
    monkeypatch.setattr(stores_module, "LONG", 200 << 10)
    monkeypatch.setattr(stores_module, "CHECKPOINT_S", 0.01)
    await store.ping()  # starts the thread
    x = np.random.default_rng(0).normal(size=(1, 512))
    largest = 0
    for i in range(1_500):
        await store.tell("c", i, JournalEvent("admit", float(i), x=x), durable=True)
        if i % 10 == 0:
            await asyncio.sleep(0.002)
        largest = max(largest, (tmp_path / "s.db-wal").stat().st_size)
    assert largest < 3_000 * 1_024  # of the 9 MB that were written
    saved = await store.load("c")
    assert [event.at for event in saved.events] == [float(i) for i in range(1_500)]
    await store.close()
