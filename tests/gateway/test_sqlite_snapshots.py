"""Snapshots in the state file: which events still count after one, which are deleted, and who reads them where."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from portcullis_ml.gateway.state.sqlite_snapshots import CUT, SNAPSHOTS, Snapshots, _after, _size, joined, split

EVENTS = "CREATE TABLE events (id INTEGER PRIMARY KEY, client TEXT, n INTEGER, body BLOB)"
PAGES = [bytes([i]) * 16 for i in range(3)]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    found = sqlite3.connect(tmp_path / "state.db", isolation_level=None, check_same_thread=False)
    found.executescript(EVENTS + ";" + SNAPSHOTS)
    yield found
    found.close()


@pytest.fixture
def snapshots(db: sqlite3.Connection, tmp_path: Path) -> Iterator[Snapshots]:
    calm = asyncio.Event()
    calm.set()
    found = Snapshots(db, str(tmp_path / "state.db"), calm)
    yield found
    found.close()


def written(db: sqlite3.Connection, *rows: tuple[int, list[bytes]], client: str = "c") -> None:
    """Rows of events, each ending at place n of the client's journal."""
    db.executemany("INSERT INTO events VALUES (NULL, ?, ?, ?)", [(client, n, joined(bodies)) for n, bodies in rows])


def left(db: sqlite3.Connection, client: str = "c") -> list[int]:
    return [n for (n,) in db.execute("SELECT n FROM events WHERE client = ? ORDER BY n", (client,))]


def numbers(*wanted: int) -> list[bytes]:
    return [b"%d" % i for i in wanted]


@pytest.mark.parametrize(
    ("position", "found"),
    [(0, numbers(1, 2, 3, 4, 5)), (2, numbers(3, 4, 5)), (3, numbers(4, 5)), (4, numbers(5)), (5, [])],
)
def test_the_events_after_a_snapshot_are_those_it_does_not_hold_yet(position: int, found: list[bytes]) -> None:
    rows = [(3, joined(numbers(1, 2, 3))), (5, joined(numbers(4, 5)))]
    assert list(_after(position, [row for row in rows if row[0] > position])) == found


def test_rows_that_overlap_are_read_once() -> None:
    rows = [(3, joined(numbers(1, 2, 3))), (5, joined(numbers(2, 3, 4, 5)))]
    assert list(_after(0, rows)) == numbers(1, 2, 3, 4, 5)


def test_bodies_come_apart_as_they_were() -> None:
    bodies = [b"", b"a", b"x" * 70_000]
    assert split(joined(bodies)) == bodies
    assert split(b"") == []


async def test_a_snapshot_deletes_the_events_that_it_holds_and_no_other(
    db: sqlite3.Connection, snapshots: Snapshots
) -> None:
    written(db, *((n, numbers(n)) for n in range(1, CUT + 12)))
    written(db, (1, numbers(1)), client="d")
    pages = {name: name * 2 for name in PAGES[:2]}
    assert await snapshots.save("c", 0, CUT + 5, PAGES[:2], pages) == (CUT + 5, frozenset(PAGES[:2]))
    assert left(db) == list(range(CUT + 6, CUT + 12))
    assert left(db, "d") == [1]
    data, position, events, names = await snapshots.load("c")
    assert (data, position, names) == (PAGES[0] * 2 + PAGES[1] * 2, CUT + 5, frozenset(PAGES[:2]))
    assert events == numbers(*range(CUT + 6, CUT + 12))
    assert snapshots.last("c") == CUT + 11
    assert snapshots.last("nobody") == 0


async def test_pages_that_the_next_snapshot_does_not_name_go(db: sqlite3.Connection, snapshots: Snapshots) -> None:
    await snapshots.save("c", 0, 1, PAGES[:2], {name: b"old" for name in PAGES[:2]})
    await snapshots.save("c", 1, 2, PAGES[1:], {PAGES[2]: b"new"})
    assert {name for (name,) in db.execute("SELECT name FROM pages")} == set(PAGES[1:])
    assert (await snapshots.load("c"))[0] == b"oldnew"


async def test_a_snapshot_that_was_overtaken_changes_nothing(db: sqlite3.Connection, snapshots: Snapshots) -> None:
    await snapshots.save("c", 0, 5, PAGES[:1], {PAGES[0]: b"first"})
    written(db, (6, numbers(6)))
    assert await snapshots.save("c", 0, 6, PAGES[1:2], {PAGES[1]: b"second"}) == (5, frozenset(PAGES[:1]))
    assert (await snapshots.load("c"))[:3] == (b"first", 5, numbers(6))
    assert snapshots.last("c") == 6


async def test_what_a_client_would_read_is_counted_in_pages_and_events_after_the_snapshot(
    db: sqlite3.Connection, snapshots: Snapshots
) -> None:
    assert _size(db, "c") == (0, 0)
    written(db, *((n, numbers(n)) for n in range(1, 6)))
    assert _size(db, "c") == (0, 5)
    await snapshots.save("c", 0, 3, PAGES, {name: b"x" for name in PAGES})
    assert _size(db, "c") == (3, 2)


@pytest.mark.parametrize(("events", "thread"), [(128, False), (129, True)])
async def test_a_long_journal_is_read_on_the_thread(
    db: sqlite3.Connection, snapshots: Snapshots, events: int, thread: bool
) -> None:
    written(db, *((n, numbers(n)) for n in range(1, events + 1)))
    found = await snapshots.load("c")
    assert found[2] == numbers(*range(1, events + 1))
    assert (snapshots._own is not None) == thread
