"""A journal that several replicas share, in Redis.

One list for each client; a script appends an event and returns all that the caller has not seen, in one round
trip, so that no replica ever waits for a lock that another one holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.core.guard import Alarm
from portcullis_ml.gateway.state.events import JournalEvent, pack_event
from portcullis_ml.gateway.state.evidence import AlarmRecord, read, written
from portcullis_ml.gateway.state.journal import Bodies, Down, Saved
from portcullis_ml.gateway.state.paging import names

__all__ = ["RedisStore"]

SNAPSHOT_OF = """
local function snapshot()
  local order = redis.call('HGET', KEYS[2], 'pages')
  if not order then return false end
  local found = {order}
  for i = 1, #order, 16 do found[#found + 1] = redis.call('HGET', KEYS[4], order:sub(i, i + 15)) end
  return found
end
local base = tonumber(redis.call('HGET', KEYS[2], 'position') or '0')
"""
APPEND = (
    SNAPSHOT_OF
    + """
redis.call('SADD', KEYS[3], ARGV[3])
redis.call('RPUSH', KEYS[1], ARGV[2])
local seen = tonumber(ARGV[1])
if seen < base then
  return {base, snapshot(), redis.call('LRANGE', KEYS[1], 0, -1)}
end
return {seen, false, redis.call('LRANGE', KEYS[1], seen - base, -1)}
"""
)
LOAD = SNAPSHOT_OF + "return {base, snapshot(), redis.call('LRANGE', KEYS[1], 0, -1)}"
SNAPSHOT = """
local base = tonumber(redis.call('HGET', KEYS[2], 'position') or '0')
local position = tonumber(ARGV[2])
if base ~= tonumber(ARGV[1]) then return {base, redis.call('HGET', KEYS[2], 'pages')} end
local kept = {}
for i = 1, #ARGV[3], 16 do kept[ARGV[3]:sub(i, i + 15)] = true end
for _, name in ipairs(redis.call('HKEYS', KEYS[4])) do
  if not kept[name] then redis.call('HDEL', KEYS[4], name) end
end
redis.call('HSET', KEYS[2], 'position', position, 'pages', ARGV[3])
redis.call('LTRIM', KEYS[1], position - base, -1)
return {position, ARGV[3]}
"""
BATCH = 16  # pages of 64 KB written in one round trip


class RedisStore:
    """Everything in one Redis, under one prefix. Any number of replicas write it."""

    def __init__(self, url: str, *, prefix: str = "portcullis", wait_s: float = 1.0) -> None:
        try:
            from redis import asyncio as aioredis
        except ModuleNotFoundError as error:
            raise MissingExtra("RedisStore", "redis", "gateway") from error
        self._prefix = prefix
        # Requests wait for a free connection: a burst is no reason to call Redis down.
        self._redis = aioredis.Redis(
            connection_pool=aioredis.BlockingConnectionPool.from_url(
                url, max_connections=16, timeout=10 * wait_s, socket_timeout=wait_s, socket_connect_timeout=2 * wait_s
            )
        )
        self._append = self._redis.register_script(APPEND)
        self._load = self._redis.register_script(LOAD)
        self._snapshot = self._redis.register_script(SNAPSHOT)

    async def load(self, client: str) -> Saved:
        return _saved(await self._do(self._load(self._keys(client))))

    async def tell(self, client: str, position: int, event: JournalEvent, *, durable: bool) -> Saved:
        return _saved(await self._do(self._append(self._keys(client), [position, pack_event(event), client])))

    def retract(self, client: str) -> bool:
        return False  # another replica may have read it

    async def snapshot(
        self, client: str, base: int, position: int, order: Sequence[bytes], fresh: Mapping[bytes, bytes]
    ) -> tuple[int, frozenset[bytes]]:
        keys, pages = self._keys(client), list(fresh.items())
        for start in range(0, len(pages), BATCH):  # pages belong to nothing yet; Redis is never kept for long
            await self._do(self._redis.hset(keys[3], mapping=dict(pages[start : start + BATCH])))
        found, kept = await self._do(self._snapshot(keys, [base, position, b"".join(order)]))
        return int(found), frozenset(names(kept or b""))

    async def join(self, account: str, principal: str, at: float) -> str:
        key = f"{self._prefix}:principals"
        await self._do(self._redis.hsetnx(key, account, principal))
        found: bytes = await self._do(self._redis.hget(key, account))
        return found.decode()

    async def alarm(self, id: str, alarm: Alarm) -> bool:
        body = orjson.dumps([alarm.stage, alarm.client, alarm.row, alarm.suspicion, alarm.at, written(alarm)])
        new = await self._do(self._redis.hsetnx(f"{self._prefix}:alarms", id, body))
        if new:
            await self._do(self._redis.sadd(f"{self._prefix}:untold", id))
        return bool(new)

    async def alarms(self, *, untold: bool = False, limit: int = 500) -> list[tuple[str, AlarmRecord]]:
        found = await self._do(self._redis.hgetall(f"{self._prefix}:alarms"))
        known = {i.decode(): _alarm(*orjson.loads(body)) for i, body in found.items()}
        if untold:
            waiting = {i.decode() for i in await self._do(self._redis.smembers(f"{self._prefix}:untold"))}
            known = {i: a for i, a in known.items() if i in waiting}
        return sorted(known.items(), key=lambda item: item[1].at, reverse=not untold)[:limit]

    async def told(self, id: str) -> None:
        await self._do(self._redis.srem(f"{self._prefix}:untold", id))

    async def log_operation(self, at: float, who: str, what: str, client: str) -> None:
        body = orjson.dumps({"at": at, "who": who, "what": what, "client": client})
        await self._do(self._redis.lpush(f"{self._prefix}:deeds", body))

    async def operator_log(self, limit: int = 200) -> list[dict[str, Any]]:
        return [orjson.loads(b) for b in await self._do(self._redis.lrange(f"{self._prefix}:deeds", 0, limit - 1))]

    async def clients(self) -> list[str]:
        return sorted(c.decode() for c in await self._do(self._redis.smembers(f"{self._prefix}:clients")))

    async def ping(self) -> None:
        await self._do(self._redis.set(f"{self._prefix}:ping", time.time_ns()))

    def size(self) -> int:
        return 0  # Redis tells its own

    async def close(self) -> None:
        await self._redis.aclose(close_connection_pool=True)

    def discard(self) -> None:
        pass  # it connects when it is used

    def _keys(self, client: str) -> list[str]:
        of_client = [f"{self._prefix}:{what}:{client}" for what in ("log", "snap", "pages")]
        return [*of_client[:2], f"{self._prefix}:clients", of_client[2]]

    async def _do(self, call: Any) -> Any:
        from redis.exceptions import RedisError

        try:
            return await asyncio.ensure_future(call)  # its time limits need a task, which a step of a flow has not
        except (RedisError, OSError) as error:
            raise Down(f"Redis cannot be reached: {type(error).__name__}.") from error


def _alarm(stage: str, client: str, row: int, suspicion: float, at: float, evidence: str = "") -> AlarmRecord:
    """An alarm as it was kept; earlier versions kept no evidence."""
    return AlarmRecord(stage, client, row, suspicion, at, read(evidence))


def _saved(found: list[Any]) -> Saved:
    position, snapshot, bodies = found
    if not snapshot:
        return Saved(None, int(position), Bodies(bodies))
    order, *pages = snapshot
    return Saved(b"".join(pages), int(position), Bodies(bodies), frozenset(names(order)))
