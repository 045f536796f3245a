"""The snapshots in a state file: written by pieces between requests, read on a thread if they are large.

SQLite has one writer at a time, and a second one would keep requests asleep until it is through: so pages are written
by the requests' own connection, a few in a transaction, and others run in between. Only then is the snapshot made to
consist of them. A crash on the way leaves pages that belong to nothing; the client's next snapshot deletes them.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from portcullis_ml.gateway.state.journal import Down
from portcullis_ml.gateway.state.paging import names

__all__ = ["SNAPSHOTS", "Snapshots"]

SNAPSHOTS = """
CREATE TABLE IF NOT EXISTS snapshots (client TEXT PRIMARY KEY, position INTEGER NOT NULL, pages BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pages (client TEXT NOT NULL, name BLOB NOT NULL, data BLOB NOT NULL,
                                  PRIMARY KEY (client, name));
"""
BATCH = 2  # pages of 64 KB in one transaction: about a millisecond
CUT = 16  # rows of events deleted in one transaction: up to some megabytes, a millisecond
PACE = 10.0  # for every moment that it writes, it leaves so many to requests, who may need nine tenths of them
LIGHT = 16, 128  # pages and events that are read where they are asked for; more are read on the thread

Found = tuple[bytes | None, int, list[bytes], frozenset[bytes]]  # snapshot, its position, later events, pages' names


class Snapshots:
    """`db` is the requests' connection; a thread that reads has its own. Nothing is written while not `calm`."""

    def __init__(self, db: sqlite3.Connection, path: str, calm: asyncio.Event) -> None:
        self._shared = db
        self._calm = calm
        self._path = path
        self._own: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "snapshots")

    async def load(self, client: str) -> Found:
        """The client's snapshot, and what the journal holds after it."""
        try:
            pages, events = _size(self._shared, client)
            if self._path == ":memory:" or (pages <= LIGHT[0] and events <= LIGHT[1]):
                return _load(self._shared, client)
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._load, client)
        except sqlite3.Error as error:
            raise Down(f"The state file cannot be read: {error}.") from error

    async def save(
        self, client: str, base: int, position: int, order: Sequence[bytes], fresh: Mapping[bytes, bytes]
    ) -> tuple[int, frozenset[bytes]]:
        try:
            insert = "INSERT OR IGNORE INTO pages VALUES (?, ?, ?)"
            await self._by_pieces(insert, [(client, name, page) for name, page in fresh.items()], BATCH)
            await self._calm.wait()
            found = _switch(self._shared, client, base, position, order)
            if found[0] == position:
                await self._forget(client, position, found[1])
            return found
        except sqlite3.Error as error:
            raise Down(f"The state file cannot be written: {error}.") from error

    def last(self, client: str) -> int:
        """The place up to which the file knows this client."""
        sql = (
            "SELECT max((SELECT coalesce(max(position), 0) FROM snapshots WHERE client = ?1),"
            " (SELECT coalesce(max(n), 0) FROM events WHERE client = ?1))"
        )
        return int(self._shared.execute(sql, (client,)).fetchone()[0])

    def close(self) -> None:
        self._thread.shutdown()
        if self._own:
            self._own.close()

    async def _forget(self, client: str, position: int, kept: frozenset[bytes]) -> None:
        """Delete pages that belong to nothing any more, and events that the snapshot holds."""
        held = self._shared.execute("SELECT name FROM pages WHERE client = ?", (client,)).fetchall()
        gone = [(client, name) for (name,) in held if name not in kept]
        await self._by_pieces("DELETE FROM pages WHERE client = ? AND name = ?", gone, BATCH)
        some = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE client = ? AND n <= ? ORDER BY n LIMIT ?)"
        while True:
            await self._calm.wait()
            begin = time.perf_counter()
            if self._shared.execute(some, (client, position, CUT)).rowcount < CUT:
                return
            await asyncio.sleep(PACE * (time.perf_counter() - begin))

    async def _by_pieces(self, sql: str, rows: Sequence[Any], size: int) -> None:
        db = self._shared
        for start in range(0, len(rows), size):
            await self._calm.wait()
            begin = time.perf_counter()
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany(sql, rows[start : start + size])
                db.execute("COMMIT")
            except sqlite3.Error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            await asyncio.sleep(PACE * (time.perf_counter() - begin))

    def _load(self, client: str) -> Found:
        if self._own is None:
            self._own = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        return _load(self._own, client)


def _size(db: sqlite3.Connection, client: str) -> tuple[int, int]:
    """(pages, events at most) that loading this client would read."""
    found = db.execute("SELECT position, length(pages) / 16 FROM snapshots WHERE client = ?", (client,)).fetchone()
    position, pages = found or (0, 0)
    last = db.execute("SELECT max(n) FROM events WHERE client = ?", (client,)).fetchone()[0]
    return pages, max(0, (last or 0) - position)


def _load(db: sqlite3.Connection, client: str) -> Found:
    db.execute("BEGIN")  # all reads see the file as of one moment
    try:
        found = db.execute("SELECT position, pages FROM snapshots WHERE client = ?", (client,)).fetchone()
        position, order = (found[0], names(found[1])) if found else (0, [])
        one = "SELECT data FROM pages WHERE client = ? AND name = ?"
        data = b"".join(db.execute(one, (client, name)).fetchone()[0] for name in order) if found else None
        later = "SELECT n, body FROM events WHERE client = ? AND n > ? ORDER BY n"
        rows = db.execute(later, (client, position)).fetchall()
    finally:
        db.execute("COMMIT")
    return data, position, list(_after(position, rows)), frozenset(order)


def _after(position: int, rows: Iterable[tuple[int, bytes]]) -> Iterable[bytes]:
    """The events after this position; a row ends at place n and may begin before it, or before the last one's end."""
    for n, packed in rows:
        bodies = split(packed)
        yield from bodies[max(0, position - (n - len(bodies))) :]
        position = n


def _switch(
    db: sqlite3.Connection, client: str, base: int, position: int, order: Sequence[bytes]
) -> tuple[int, frozenset[bytes]]:
    """Make the snapshot consist of these pages, if it is still the one as of `base`; what it is now."""
    found = db.execute("SELECT position, pages FROM snapshots WHERE client = ?", (client,)).fetchone() or (0, b"")
    if found[0] != base:
        return found[0], frozenset(names(found[1]))
    db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (client, position, b"".join(order)))
    return position, frozenset(order)


def joined(bodies: Iterable[bytes]) -> bytes:
    """Several events as one row."""
    parts: list[bytes] = []
    for body in bodies:
        parts += (len(body).to_bytes(4, "little"), body)
    return b"".join(parts)


def split(packed: bytes) -> list[bytes]:
    """The bodies that `joined` put together."""
    found, at = [], 0
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 4], "little")
        found.append(packed[at + 4 : at + 4 + size])
        at += 4 + size
    return found
