"""Where journals live: SQLite for one process, Redis (in `redis_store`) for several replicas.

SQLite runs in WAL mode and is written inline: a transaction costs some 25 microseconds, and a committed one
survives `kill -9` (with synchronous = "full", a power cut too). The write-ahead log is folded back into the file by a
thread of its own. Under steady load there are always new pages in it, so it would never begin anew: when it has grown
long, requests wait for the moment in which the thread folds back the last few.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from portcullis.core.errors import ParameterError
from portcullis.core.guard import Alarm
from portcullis.gateway.events import Event, pack_event
from portcullis.gateway.journal import Bodies, Down, Journal, Saved
from portcullis.gateway.redis_store import RedisStore
from portcullis.gateway.sqlite_snapshots import SNAPSHOTS, Snapshots, joined

__all__ = ["SqliteStore", "Store", "open_store"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS events
    (id INTEGER PRIMARY KEY, client TEXT NOT NULL, n INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS events_of ON events (client, n);
CREATE TABLE IF NOT EXISTS alarms (id TEXT PRIMARY KEY, client TEXT, stage TEXT, row INTEGER, suspicion REAL,
                                   at REAL, told INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS deeds (id INTEGER PRIMARY KEY, at REAL, who TEXT, what TEXT, client TEXT);
"""
VERSION = 2
INSERT = "INSERT INTO events (client, n, body) VALUES (?, ?, ?)"  # n is the place of the last event in the body
CHECKPOINT_S = 1.0  # how often the thread folds SQLite's write-ahead log back
PAGE = 1_024  # bytes; a page is what SQLite writes, however little of it has changed
LONG = 100_000  # pages (100 MB) of the log beyond which it is made to begin anew


class Store(Journal, Protocol):
    """A journal, and what stands beside it: alarms to be told, operators' deeds, the list of clients."""

    async def alarms(self, *, untold: bool = False, limit: int = 500) -> list[tuple[str, Alarm]]: ...

    async def told(self, id: str) -> None:
        """The webhook took this alarm; it is not sent again."""

    async def deed(self, at: float, who: str, what: str, client: str) -> None: ...

    async def deeds(self, limit: int = 200) -> list[dict[str, Any]]: ...

    async def clients(self) -> list[str]: ...

    async def ping(self) -> None:
        """Raise Down unless a write would succeed."""

    def size(self) -> int:
        """Bytes on this machine's disk; 0 where the state lies elsewhere."""

    async def close(self) -> None: ...


class SqliteStore:
    """Everything in one file. One process writes it."""

    def __init__(self, path: str | Path, *, synchronous: str = "normal", wait_s: float = 0.25) -> None:
        if synchronous not in ("normal", "full"):
            raise ParameterError("state.synchronous", '"normal" or "full"', synchronous)
        self.path = str(path)
        try:
            self._db = sqlite3.connect(self.path, timeout=wait_s, isolation_level=None, check_same_thread=False)
            self._db.execute(f"PRAGMA page_size = {PAGE}")  # of a file that is made now
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {synchronous}")
            self._db.execute("PRAGMA secure_delete = FAST")  # some builds write zeros over every page that is let go
            self._db.execute(f"PRAGMA wal_autocheckpoint = {4 * LONG}")  # only if the thread fails
            self._db.executescript(SCHEMA + SNAPSHOTS)
        except sqlite3.Error as error:
            raise ParameterError("state", "an SQLite file that can be written", self.path, str(error)) from error
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise ParameterError("state", f"a state file of version {VERSION}", version, "Give another file.")
        self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._calm = asyncio.Event()  # nothing is written while it is not set
        self._calm.set()
        self._snapshots = Snapshots(self._db, self.path, self._calm)
        self._waiting: dict[str, list[tuple[int, bytes]]] = {}  # (place, event) that the next durable one takes along
        self._keeper: asyncio.Task[None] | None = None

    async def load(self, client: str) -> Saved:
        data, position, bodies, pages = await self._snapshots.load(client)
        waiting = [body for place, body in self._waiting.get(client, ()) if place > position]
        return Saved(data, position, Bodies([*bodies, *waiting]), pages)

    async def tell(self, client: str, position: int, event: Event, *, durable: bool) -> Saved:
        if durable and not self._calm.is_set():
            await self._calm.wait()
        waiting = self._waiting.setdefault(client, [])
        waiting.append((position + 1, pack_event(event)))
        if durable:
            try:
                self._insert(client, waiting)
            except sqlite3.Error as error:
                waiting.pop()
                raise Down(f"The state file cannot be written: {error}.") from error
            del self._waiting[client]
        return Saved(None, position, [event])

    def _insert(self, client: str, waiting: list[tuple[int, bytes]]) -> None:
        """One row for all that waits: one statement is one transaction, and the cheapest there is."""
        self._db.execute(INSERT, (client, waiting[-1][0], joined(body for _, body in waiting)))

    async def retract(self, client: str) -> bool:
        waiting = self._waiting[client]
        waiting.pop()
        if not waiting:
            del self._waiting[client]
        return True

    async def snapshot(
        self, client: str, base: int, position: int, order: Sequence[bytes], fresh: Mapping[bytes, bytes]
    ) -> tuple[int, frozenset[bytes]]:
        found = await self._snapshots.save(client, base, position, order, fresh)
        left = [(place, body) for place, body in self._waiting.pop(client, ()) if place > found[0]]
        if left:
            self._waiting[client] = left
        return found

    async def alarm(self, id: str, alarm: Alarm) -> bool:
        row = (id, alarm.client, alarm.stage, alarm.row, alarm.suspicion, alarm.at)
        sql = "INSERT OR IGNORE INTO alarms (id, client, stage, row, suspicion, at) VALUES (?, ?, ?, ?, ?, ?)"
        return await self._write(sql, [row]) > 0

    async def alarms(self, *, untold: bool = False, limit: int = 500) -> list[tuple[str, Alarm]]:
        which = "WHERE told = 0 ORDER BY at, rowid" if untold else "ORDER BY at DESC, rowid DESC"
        rows = self._all(f"SELECT id, stage, client, row, suspicion, at FROM alarms {which} LIMIT ?", limit)
        return [(row[0], Alarm(*row[1:])) for row in rows]

    async def told(self, id: str) -> None:
        await self._write("UPDATE alarms SET told = 1 WHERE id = ?", [(id,)])

    async def deed(self, at: float, who: str, what: str, client: str) -> None:
        await self._write("INSERT INTO deeds (at, who, what, client) VALUES (?, ?, ?, ?)", [(at, who, what, client)])

    async def deeds(self, limit: int = 200) -> list[dict[str, Any]]:
        rows = self._all("SELECT at, who, what, client FROM deeds ORDER BY id DESC LIMIT ?", limit)
        return [dict(zip(("at", "who", "what", "client"), row, strict=True)) for row in rows]

    async def clients(self) -> list[str]:
        return [r[0] for r in self._all("SELECT client FROM snapshots UNION SELECT client FROM events ORDER BY 1")]

    async def ping(self) -> None:
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
        await self._write("UPDATE deeds SET id = id WHERE 0", [()])

    def size(self) -> int:
        files = (Path(self.path + end) for end in ("", "-wal"))
        return sum(f.stat().st_size for f in files if f.exists())

    async def close(self) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._snapshots.close()
        self._db.close()

    async def _write(self, sql: str, rows: list[Any]) -> int:
        await self._calm.wait()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            changed = self._db.executemany(sql, rows).rowcount
            self._db.execute("COMMIT")
            return changed
        except sqlite3.Error as error:
            self._roll_back()
            raise Down(f"The state file cannot be written: {error}.") from error

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _all(self, sql: str, *values: Any) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise Down(f"The state file cannot be read: {error}.") from error

    async def _keep(self) -> None:
        """Fold the write-ahead log back now and then, on another connection and thread."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            if await asyncio.to_thread(_checkpoint, self.path, "PASSIVE") < LONG:
                continue
            await asyncio.to_thread(_checkpoint, self.path, "PASSIVE")  # what came meanwhile: now little is left
            self._calm.clear()
            try:
                await asyncio.to_thread(_checkpoint, self.path, "RESTART")
            finally:
                self._calm.set()


def _checkpoint(path: str, how: str) -> int:
    """Fold the log back; the pages in it."""
    try:
        db = sqlite3.connect(path, timeout=0.1)
        try:
            return int(db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()[1])
        finally:
            db.close()
    except sqlite3.Error:
        return 0  # a later round will do; a file that cannot be written shows itself at the next request


def open_store(url: str, *, synchronous: str = "normal") -> SqliteStore | RedisStore:
    """The store at "redis://...", or the SQLite file at "sqlite:///path" or at a plain path."""
    if url.startswith(("redis://", "rediss://", "unix://")):
        return RedisStore(url)
    return SqliteStore(url.removeprefix("sqlite:///") or ":memory:", synchronous=synchronous)
