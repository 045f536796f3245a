"""The tail of the journal: what is in it is there after a crash, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import stored

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.gateway.state import tail as tail_module
from portcullis_ml.gateway.state.events import JournalEvent, pack_by_words
from portcullis_ml.gateway.state.journal import Down
from portcullis_ml.gateway.state.sqlite_snapshots import joined
from portcullis_ml.gateway.state.stores import SqliteStore
from portcullis_ml.gateway.state.tail import ROOM, Tail

RECORDS = [("alice", 2, b"one"), ("bob", 2, b""), ("älice", 1 << 40, b"three" * 100)]


async def tell(store: SqliteStore, client: str, n: int, size: int = 1) -> None:
    """One event at place n, whose time is its place."""
    await store.tell(client, n - 1, JournalEvent("admit", float(n), x=np.zeros((1, size)) + 0.1), durable=True)


async def places(store: SqliteStore, client: str) -> list[float]:
    saved = await store.load(client)
    return [event.at for event in saved.events]


def rows(store: SqliteStore) -> int:
    return int(store._db.execute("SELECT count(*) FROM events").fetchone()[0])


def filled(path: Path) -> Tail:
    tail = Tail(str(path), full=True)
    for record in RECORDS:
        tail.write(*record)
    return tail


def test_a_tail_holds_what_was_written_since_it_began_and_nothing_older(tmp_path: Path) -> None:
    tail = filled(tmp_path / "t")
    assert list(tail) == list(Tail(str(tmp_path / "t"), full=False)) == RECORDS
    tail.begin()
    assert list(tail) == RECORDS  # until the next record takes the first one's place
    tail.write("carol", 1, b"four")
    assert list(tail) == [("carol", 1, b"four")]


def test_a_record_that_is_not_whole_ends_the_tail(tmp_path: Path) -> None:
    path = tmp_path / "t"
    filled(path).close()
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            tail = Tail(str(path), full=False)
            found = list(tail)
            tail.close()
            assert found == RECORDS[: len(found)]
            assert len(found) < len(RECORDS)


def test_a_row_that_looks_like_a_record_is_not_read_as_one(tmp_path: Path) -> None:
    tail = filled(tmp_path / "t")
    forged = (tmp_path / "t").read_bytes()  # whole records, as good as they can be known beforehand
    tail.begin()
    tail.write("mallory", 1, b"x" * 100 + forged)
    tail.begin()
    tail.write("alice", 1, b"x" * (100 + len("mallory") - len("alice")))  # ends where the forged ones begin
    held = (tmp_path / "t").read_bytes()
    assert held[tail._at :].startswith(forged)
    assert [client for client, _, _ in tail] == ["alice"]


async def test_a_crash_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step the files are copied, as a crash would leave them, and opened elsewhere."""
    monkeypatch.setattr(tail_module, "ROOM", 3_000)
    store = stored(tmp_path / "s.db")
    moved = 0
    for n in range(1, 41):
        held = len(store._held)
        for client in ("a", "b"):
            await tell(store, client, n, size=60 if n % 9 else 500)  # some are larger than the tail
        moved += held > 0 and len(store._held.get("a", ())) <= 1
        folder = tmp_path / f"crash{n}"
        folder.mkdir()
        for file in tmp_path.glob("s.db*"):
            shutil.copy(file, folder)
        again = stored(folder / "s.db")
        for client in ("a", "b"):
            assert await places(again, client) == await places(store, client) == list(range(1, n + 1))
        await tell(again, "a", n + 1)  # and it goes on
        assert await places(again, "a") == list(range(1, n + 2))
        assert await again.clients() == ["a", "b"]
        await again.close()
    assert moved > 5
    assert rows(store) < 60  # of 80 events
    await store.close()


async def test_events_after_a_gap_mean_nothing(tmp_path: Path) -> None:
    """A power cut took what the state file had not brought to the disk, and left the tail of later."""
    store = stored(tmp_path / "s.db")
    for n in (1, 2):
        await tell(store, "a", n)
        await tell(store, "b", n)
    store._move()
    for n in (3, 4):
        await tell(store, "a", n)
        await tell(store, "b", n)
    store._db.execute("DELETE FROM events WHERE client = 'b'")
    again = stored(tmp_path / "s.db")
    assert await places(again, "a") == [1, 2, 3, 4]
    assert await places(again, "b") == []
    await tell(again, "b", 1)
    assert await places(stored(tmp_path / "s.db"), "b") == [1]


async def test_what_a_snapshot_holds_is_not_taken_from_the_tail_again(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    for n in (1, 2, 3):
        await tell(store, "a", n)
    await store.snapshot("a", 0, 2, [b"n" * 16], {b"n" * 16: b"page"})
    for found in (store, stored(tmp_path / "s.db")):
        saved = await found.load("a")
        assert (saved.snapshot, saved.position) == (b"page", 2)
        assert [event.at for event in saved.events] == [3]


async def test_what_is_moved_on_while_a_thread_reads_is_seen_once(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    for n in range(1, 301):  # so many are read on a thread
        await tell(store, "a", n)
        if n in (200, 250):
            store._move()
    reading = asyncio.create_task(store.load("a"))
    await asyncio.sleep(0)
    store._move()
    assert [event.at for event in (await reading).events] == list(range(1, 301))


async def test_the_tail_takes_events_while_the_state_file_may_not_be_written(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    store._calm.clear()  # a checkpoint
    await asyncio.wait_for(tell(store, "a", 1), 1.0)
    large = asyncio.create_task(tell(store, "a", 2, size=ROOM // 8))
    await asyncio.sleep(0.05)
    assert not large.done()
    store._calm.set()
    await large
    assert await places(store, "a") == [1, 2]


async def test_a_state_file_that_takes_nothing_is_tried_again_and_the_tail_loses_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", wait_s=0.01)
    await tell(store, "a", 1)
    lock = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    await tell(store, "a", 2)
    store._try_to_move()
    with pytest.raises(Down, match="locked"):
        await tell(store, "a", 3)
    assert await places(store, "a") == [1, 2]
    lock.execute("ROLLBACK")
    await tell(store, "a", 3)
    assert (await places(store, "a"), rows(store), store._held) == ([1, 2, 3], 1, {})
    lock.execute("BEGIN IMMEDIATE")
    await tell(store, "a", 4)
    await store.close()
    lock.close()
    assert await places(stored(tmp_path / "s.db"), "a") == [1, 2, 3, 4]


async def test_a_tail_that_cannot_be_written_is_down_and_the_next_event_takes_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "s.db")
    await tell(store, "a", 1)
    with monkeypatch.context() as m:
        m.setattr(os, "pwritev", lambda file, parts, at: 7)
        with pytest.raises(Down, match="full"):
            await tell(store, "a", 2)
    await tell(store, "a", 2)
    assert await places(stored(tmp_path / "s.db"), "a") == [1, 2]


def test_a_second_process_on_one_state_file_is_refused(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.db")
    code = f"from portcullis_ml.gateway.state.stores import SqliteStore; SqliteStore({str(store.path)!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode != 0
    assert "a file that no other process uses" in found.stderr
    (tmp_path / "d.db-tail").mkdir()
    with pytest.raises(ParameterError, match="can be written"):
        SqliteStore(tmp_path / "d.db")


async def test_a_state_file_of_version_2_is_read_and_goes_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("PRAGMA page_size = 1024")
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript("""
            CREATE TABLE events
                (id INTEGER PRIMARY KEY, client TEXT NOT NULL, n INTEGER NOT NULL, body BLOB NOT NULL);
            CREATE UNIQUE INDEX events_of ON events (client, n);
            PRAGMA user_version = 2;
        """)
        for n in (1, 3):
            old = [JournalEvent("admit", float(k), x=np.zeros((1, 4))) for k in range(max(1, n - 1), n + 1)]
            row = ("a", n, joined(map(pack_by_words, old)))
            db.execute("INSERT INTO events (client, n, body) VALUES (?, ?, ?)", row)
    db.close()
    store = stored(tmp_path / "s.db")
    assert await places(store, "a") == [1, 2, 3]
    await tell(store, "a", 4)
    assert await places(stored(tmp_path / "s.db"), "a") == [1, 2, 3, 4]
    assert store._db.execute("PRAGMA user_version").fetchone() == (4,)


WRITER = """
import asyncio, sys
import numpy as np
from portcullis_ml.gateway.state import tail
from portcullis_ml.gateway.state.events import JournalEvent
from portcullis_ml.gateway.state.stores import SqliteStore
tail.ROOM = 20_000  # so that it is moved on every few events
async def main():
    store, n = SqliteStore(sys.argv[1]), 0
    while True:
        n += 1
        for client in "ab":
            await store.tell(client, n - 1, JournalEvent("admit", float(n), x=np.full((1, 300), 0.1)), durable=True)
            sys.stdout.write(f"{client} {n}\\n")
            sys.stdout.flush()
asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 37, 400])
async def test_a_kill_loses_no_event_that_was_acknowledged(lines: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "s.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        told += writer.stdout.readlines()
    last = {client: int(n) for client, n in (line.split() for line in told if line.endswith("\n"))}
    store = stored(tmp_path / "s.db")
    for client in last:
        found = await places(store, client)
        assert found == list(range(1, len(found) + 1))
        assert len(found) - last[client] in (0, 1)  # one may have been written and not been told of
    await store.close()
