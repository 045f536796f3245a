"""The snapshots in a state file, written on a thread and a connection of their own.

SQLite has one writer at a time, and requests write inline: so pages are written a few at a time, each time for a
millisecond or two, and only then is the snapshot made to consist of them. A crash on the way leaves pages that
belong to nothing; the client's next snapshot deletes them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from portcullis.gateway.journal import Down
from portcullis.gateway.pages import names

__all__ = ["SNAPSHOTS", "Snapshots"]

SNAPSHOTS = """
CREATE TABLE IF NOT EXISTS snapshots (client TEXT PRIMARY KEY, position INTEGER NOT NULL, pages BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pages (client TEXT NOT NULL, name BLOB NOT NULL, data BLOB NOT NULL,
                                  PRIMARY KEY (client, name));
"""
BATCH = 16  # pages of 64 KB in one transaction
CUT = 200  # events deleted in one transaction
LIGHT = 16, 128  # pages and events that are read where they are asked for; more are read on the thread

T = TypeVar("T")
Found = tuple[bytes | None, int, list[bytes], frozenset[bytes]]  # snapshot, its position, later events, pages' names


class Snapshots:
    """`db` is the requests' connection. A database in memory has no other, and is used for everything."""

    def __init__(self, db: sqlite3.Connection, path: str, synchronous: str) -> None:
        self._shared = db
        self._path, self._synchronous = path, synchronous
        self._own: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "snapshots")

    async def load(self, client: str) -> Found:
        """The client's snapshot, and what the journal holds after it."""
        try:
            pages, events = _size(self._shared, client)
            if pages <= LIGHT[0] and events <= LIGHT[1]:
                return _load(self._shared, client)
        except sqlite3.Error as error:
            raise Down(f"The state file cannot be read: {error}.") from error
        return await self._apart(_load, client)

    async def save(
        self, client: str, base: int, position: int, order: Sequence[bytes], fresh: Mapping[bytes, bytes]
    ) -> tuple[int, frozenset[bytes]]:
        return await self._apart(_save, client, base, position, order, fresh)

    def close(self) -> None:
        self._thread.shutdown()
        if self._own:
            self._own.close()

    async def _apart(self, work: Callable[..., T], *words: Any) -> T:
        """Do this on the thread."""
        try:
            if self._path == ":memory:":
                return work(self._shared, *words)
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._opened(), *words))
        except sqlite3.Error as error:
            raise Down(f"The state file cannot be used: {error}.") from error

    def _opened(self) -> sqlite3.Connection:
        if self._own is None:
            self._own = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
            self._own.execute(f"PRAGMA synchronous = {self._synchronous}")
        return self._own


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
    """The events after this position; a row ends at place n and may begin before it."""
    for n, packed in rows:
        bodies = split(packed)
        yield from bodies[max(0, position - (n - len(bodies))) :]


def _save(
    db: sqlite3.Connection, client: str, base: int, position: int, order: Sequence[bytes], fresh: Mapping[bytes, bytes]
) -> tuple[int, frozenset[bytes]]:
    insert = "INSERT OR IGNORE INTO pages VALUES (?, ?, ?)"
    _in_batches(db, insert, [(client, name, page) for name, page in fresh.items()], BATCH)
    db.execute("BEGIN IMMEDIATE")
    try:
        found = db.execute("SELECT position, pages FROM snapshots WHERE client = ?", (client,)).fetchone() or (0, b"")
        if found[0] != base:
            return found[0], frozenset(names(found[1]))
        db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (client, position, b"".join(order)))
    finally:
        db.execute("COMMIT")
    kept = frozenset(order)
    held = db.execute("SELECT name FROM pages WHERE client = ?", (client,)).fetchall()
    gone = [(client, name) for (name,) in held if name not in kept]
    _in_batches(db, "DELETE FROM pages WHERE client = ? AND name = ?", gone, 4 * BATCH)
    some = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE client = ? AND n <= ? ORDER BY n LIMIT ?)"
    while db.execute(some, (client, position, CUT)).rowcount == CUT:
        pass
    return position, kept


def _in_batches(db: sqlite3.Connection, sql: str, rows: Sequence[Any], size: int) -> None:
    for start in range(0, len(rows), size):
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany(sql, rows[start : start + size])
        except sqlite3.Error:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def joined(bodies: Iterable[bytes]) -> bytes:
    """Several events as one row."""
    return b"".join(part for body in bodies for part in (len(body).to_bytes(4, "little"), body))


def split(packed: bytes) -> list[bytes]:
    """The bodies that `joined` put together."""
    found, at = [], 0
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 4], "little")
        found.append(packed[at + 4 : at + 4 + size])
        at += 4 + size
    return found
