"""Where journals live: SQLite for one process, Redis (in `redis_store`) for several replicas.

SQLite runs in WAL mode. Events come to it in bulk, every second or some hundred requests; until then they are in a
file beside it, the tail, and what is in there survives `kill -9` (with synchronous = "full", a power cut too). The
write-ahead log is folded back into the file by a thread of its own. Under steady load there are always new pages in
it, so it would never begin anew: when it has grown long, nothing is moved on for the moment in which the thread folds
back the last few, and requests go on into the tail.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.guard import Alarm
from portcullis_ml.gateway.state.events import JournalEvent, pack_event
from portcullis_ml.gateway.state.evidence import AlarmRecord, read, written
from portcullis_ml.gateway.state.journal import Bodies, Down, Journal, Saved
from portcullis_ml.gateway.state.private import make_private
from portcullis_ml.gateway.state.redis_store import RedisStore
from portcullis_ml.gateway.state.sqlite_snapshots import SNAPSHOTS, Snapshots, joined, split
from portcullis_ml.gateway.state.tail import Tail

__all__ = ["SqliteStore", "StateStore", "open_store"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS events
    (id INTEGER PRIMARY KEY, client TEXT NOT NULL, n INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS events_of ON events (client, n);
CREATE TABLE IF NOT EXISTS alarms (id TEXT PRIMARY KEY, client TEXT, stage TEXT, row INTEGER, suspicion REAL,
                                   at REAL, told INTEGER NOT NULL DEFAULT 0, evidence TEXT);
CREATE TABLE IF NOT EXISTS probe (id INTEGER PRIMARY KEY, at REAL);
CREATE TABLE IF NOT EXISTS principals (account TEXT PRIMARY KEY, principal TEXT NOT NULL, since REAL);
CREATE TABLE IF NOT EXISTS deeds (id INTEGER PRIMARY KEY, at REAL, who TEXT, what TEXT, client TEXT);
"""
VERSION = 4
INSERT = "INSERT INTO events (client, n, body) VALUES (?, ?, ?)"  # n is the place of the last event in the body
CHECKPOINT_S = 1.0  # how often the thread folds SQLite's write-ahead log back
PAGE = 8_192  # bytes of a page in a file that is made now
LONG = 100 << 20  # bytes of the log beyond which it is made to begin anew


class StateStore(Journal, Protocol):
    """A journal, and what stands beside it: alarms to be told, the log of what operators did, the list of clients."""

    async def alarms(self, *, untold: bool = False, limit: int = 500) -> list[tuple[str, AlarmRecord]]: ...

    async def told(self, id: str) -> None:
        """The webhook took this alarm; it is not sent again."""

    async def log_operation(self, at: float, who: str, what: str, client: str) -> None: ...

    async def operator_log(self, limit: int = 200) -> list[dict[str, Any]]: ...

    async def clients(self) -> list[str]: ...

    def size(self) -> int:
        """Bytes on this machine's disk; 0 where the state lies elsewhere."""

    async def close(self) -> None: ...

    def discard(self) -> None:
        """Close a store that nobody has used yet."""


class SqliteStore:
    """Everything in one file. One process writes it."""

    def __init__(self, path: str | Path, *, synchronous: str = "normal", wait_s: float = 0.25) -> None:
        if synchronous not in ("normal", "full"):
            raise ParameterError("state.synchronous", '"normal" or "full"', synchronous)
        self.path = str(path)
        self._calm = asyncio.Event()  # nothing is written into the state file while it is not set
        self._calm.set()
        self._waiting: dict[str, list[tuple[int, bytes]]] = {}  # (place, event) that the next durable one takes along
        self._held: dict[str, list[tuple[int, bytes]]] = {}  # (place of the last, joined events), in the tail alone
        self._stuck = False  # the state file did not take what the tail holds
        self._keeper: asyncio.Task[None] | None = None
        with ExitStack() as undo:
            self._db = _opened(self.path, synchronous, wait_s)
            undo.callback(self._db.close)
            self._snapshots = Snapshots(self._db, self.path, self._calm)
            self._tail = None if self.path == ":memory:" else Tail(self.path + "-tail", full=synchronous == "full")
            if self._tail:
                undo.callback(self._tail.close)
            self._recover()
            undo.pop_all()

    async def load(self, client: str) -> Saved:
        held, waiting = self._held.get(client, ())[:], self._waiting.get(client, ())  # before anybody moves them on
        data, position, bodies, pages = await self._snapshots.load(client)
        last = position + len(bodies)
        for n, packed in held:
            new = split(packed)
            bodies += new[max(0, last - (n - len(new))) :]
            last = max(last, n)
        bodies += [body for place, body in waiting if place > last]
        return Saved(data, position, Bodies(bodies), pages)

    async def tell(self, client: str, position: int, event: JournalEvent, *, durable: bool) -> Saved:
        place, body = position + 1, pack_event(event)
        if durable:
            packed = self._with_waiting(client, body)
            while not self._calm.is_set() and self._must_move(packed):
                await self._calm.wait()
                packed = self._with_waiting(client, body)
            try:
                self._insert(client, place, packed)
            except (sqlite3.Error, OSError) as error:
                raise Down(f"The state file cannot be written: {error}.") from error
            self._waiting.pop(client, None)
        else:
            self._waiting.setdefault(client, []).append((place, body))
        return Saved(None, position, [event])

    def _with_waiting(self, client: str, body: bytes) -> bytes:
        """The client's events that wait for a durable one, and this one, joined."""
        return joined([*(other for _, other in self._waiting.get(client, ())), body])

    def _insert(self, client: str, n: int, packed: bytes) -> None:
        """Keep joined events that end at place n: in the tail, or in the state file with all that the tail holds."""
        if self._tail is None or self._must_move(packed):
            self._move([(client, n, packed)])
        else:
            self._tail.write(client, n, packed)
            held = self._held.get(client)
            if held is None:
                self._held[client] = [(n, packed)]
            else:
                held.append((n, packed))

    def _must_move(self, packed: bytes) -> bool:
        return self._tail is None or self._stuck or not self._tail.fits(len(packed))

    def _move(self, more: Sequence[tuple[str, int, bytes]] = ()) -> None:
        """Move on what the tail holds, and `more` with it: a client's events are one row. All of it or, on an error,
        nothing; the tail is not written again until this has succeeded."""
        if not (more or self._held):
            return
        held = {client: rows[:] for client, rows in self._held.items()}
        for client, n, packed in more:
            held.setdefault(client, []).append((n, packed))
        try:
            self._commit(INSERT, [(c, rows[-1][0], b"".join(packed for _, packed in rows)) for c, rows in held.items()])
        except sqlite3.Error:
            self._stuck = True
            raise
        self._stuck = False
        self._held.clear()
        if self._tail:
            self._tail.begin()

    def _recover(self) -> None:
        """Move on what an earlier process left in the tail, and what the state file has not got yet."""
        lasts: dict[str, int] = {}
        for client, n, packed in self._tail or ():
            if client not in lasts:
                lasts[client] = self._snapshots.last(client)
            first = n - len(split(packed)) + 1
            # A power cut can take what was moved on before and leave what came later, which means nothing then.
            if first <= lasts[client] + 1 <= n:
                self._held.setdefault(client, []).append((n, packed))
                lasts[client] = n
        try:
            self._move()
        except sqlite3.Error as error:
            raise ParameterError("state", "an SQLite file that can be written", self.path, str(error)) from error

    def retract(self, client: str) -> bool:
        waiting = self._waiting[client]
        waiting.pop()
        if not waiting:
            del self._waiting[client]
        return True

    async def snapshot(
        self, client: str, base: int, position: int, order: Sequence[bytes], fresh: Mapping[bytes, bytes]
    ) -> tuple[int, frozenset[bytes]]:
        found = await self._snapshots.save(client, base, position, order, fresh)
        for kept in (self._waiting, self._held):
            left = [(place, body) for place, body in kept.pop(client, ()) if place > found[0]]
            if left:
                kept[client] = left
        return found

    async def join(self, account: str, principal: str, at: float) -> str:
        await self._write("INSERT OR IGNORE INTO principals VALUES (?, ?, ?)", [(account, principal, at)])
        found = self._all("SELECT principal FROM principals WHERE account = ?", account)
        return str(found[0][0])

    async def alarm(self, id: str, alarm: Alarm) -> bool:
        row = (id, alarm.client, alarm.stage, alarm.row, alarm.suspicion, alarm.at, written(alarm))
        columns = "id, client, stage, row, suspicion, at, evidence"
        sql = f"INSERT OR IGNORE INTO alarms ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        return await self._write(sql, [row]) > 0

    async def alarms(self, *, untold: bool = False, limit: int = 500) -> list[tuple[str, AlarmRecord]]:
        which = "WHERE told = 0 ORDER BY at, rowid" if untold else "ORDER BY at DESC, rowid DESC"
        rows = self._all(f"SELECT id, stage, client, row, suspicion, at, evidence FROM alarms {which} LIMIT ?", limit)
        return [(r[0], AlarmRecord(r[1], r[2], r[3], r[4], r[5], read(r[6]))) for r in rows]

    async def told(self, id: str) -> None:
        await self._write("UPDATE alarms SET told = 1 WHERE id = ?", [(id,)])

    async def log_operation(self, at: float, who: str, what: str, client: str) -> None:
        await self._write("INSERT INTO deeds (at, who, what, client) VALUES (?, ?, ?, ?)", [(at, who, what, client)])

    async def operator_log(self, limit: int = 200) -> list[dict[str, Any]]:
        rows = self._all("SELECT at, who, what, client FROM deeds ORDER BY id DESC LIMIT ?", limit)
        return [dict(zip(("at", "who", "what", "client"), row, strict=True)) for row in rows]

    async def clients(self) -> list[str]:
        found = self._all("SELECT client FROM snapshots UNION SELECT client FROM events")
        return sorted({client for (client,) in found}.union(self._held))

    async def ping(self) -> None:
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
        await self._calm.wait()
        try:
            if self._stuck:
                self._move()
            self._commit("INSERT OR REPLACE INTO probe VALUES (1, ?)", [(time.time(),)])
            if self._tail:
                self._tail.probe()
        except (sqlite3.Error, OSError) as error:
            raise Down(f"The state file cannot be written: {error}.") from error

    def size(self) -> int:
        files = (Path(self.path + end) for end in ("", "-wal", "-tail"))
        return sum(f.stat().st_size for f in files if f.exists())

    async def close(self) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self.discard()

    def discard(self) -> None:
        with suppress(sqlite3.Error):  # then it stays in the tail, for the next start
            self._move()
        self._snapshots.close()
        self._db.close()
        if self._tail:
            self._tail.close()

    async def _write(self, sql: str, rows: list[Any]) -> int:
        await self._calm.wait()
        try:
            return self._commit(sql, rows)
        except sqlite3.Error as error:
            raise Down(f"The state file cannot be written: {error}.") from error

    def _commit(self, sql: str, rows: list[Any]) -> int:
        """One transaction; the number of rows that it changed."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            changed = self._db.executemany(sql, rows).rowcount
            self._db.execute("COMMIT")
            return changed
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _page(self) -> int:
        return _page_of(self._db)

    def _all(self, sql: str, *values: Any) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise Down(f"The state file cannot be read: {error}.") from error

    async def _keep(self) -> None:
        """Move the tail on, and fold the write-ahead log back now and then, on another connection and thread."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            self._try_to_move()
            if await asyncio.to_thread(_checkpoint, self.path, "PASSIVE") * self._page() < LONG:
                continue
            await asyncio.to_thread(_checkpoint, self.path, "PASSIVE")  # what came meanwhile: now little is left
            self._try_to_move()  # so that the tail has room for what comes during the last one
            self._calm.clear()
            try:
                await asyncio.to_thread(_checkpoint, self.path, "RESTART")
            finally:
                self._calm.set()

    def _try_to_move(self) -> None:
        with suppress(sqlite3.Error):  # the next request tries again, and is told
            self._move()


def _opened(path: str, synchronous: str, wait_s: float) -> sqlite3.Connection:
    """A connection to the state file at this path, made if there is none. Raises ParameterError."""
    with ExitStack() as undo:
        try:
            if path != ":memory:":
                make_private(path)  # SQLite gives the files beside it the same mode
            db = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
            undo.callback(db.close)
            db.execute(f"PRAGMA page_size = {PAGE}")  # of a file that is made now
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {synchronous}")
            db.execute("PRAGMA secure_delete = FAST")  # some builds write zeros over every page that is let go
            db.execute(f"PRAGMA wal_autocheckpoint = {4 * LONG // _page_of(db)}")  # only if the thread fails
            db.executescript(SCHEMA + SNAPSHOTS)
            if not any(column[1] == "evidence" for column in db.execute("PRAGMA table_info(alarms)")):
                db.execute("ALTER TABLE alarms ADD COLUMN evidence TEXT")  # a file that an earlier version made
            version = db.execute("PRAGMA user_version").fetchone()[0]
            # Version 2 had no tail, and events of one form only, which is read still; version 3 had no explanations.
            if version not in (0, 2, 3, VERSION):
                raise ParameterError("state", f"a state file of version {VERSION}", version, "Give another file.")
            db.execute(f"PRAGMA user_version = {VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise ParameterError("state", "an SQLite file that can be written", path, str(error)) from error
        undo.pop_all()
    return db


def _page_of(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA page_size").fetchone()[0])


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
