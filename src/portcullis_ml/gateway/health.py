"""Whether a request would be served just now: what the operators' /readyz and the protocols' own health routes say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Protocol

from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.state.journal import Down
from portcullis_ml.gateway.state.streams import Streams
from portcullis_ml.gateway.upstream import Upstream

__all__ = ["Health"]

KEEP_S = 1.0  # for which an answer is given again: anybody may ask
WAIT_S = 3.0  # after which whoever does not answer is down


class Gate(Protocol):
    """The part of a gate that a request needs."""

    streams: Streams
    upstream: Upstream
    querylog: Any
    policy: Policy
    draining: bool


class Health:
    """Tries what a request needs: a durable write, the model server, the query log. Requests themselves do not ask."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._found = (False, False)  # whether state and model server were up ...
        self._at = float("-inf")  # ... at this time
        self._asking: asyncio.Task[None] | None = None

    async def look(self) -> dict[str, Any]:
        """JSON: whether it is ready, and what keeps it from being so."""
        if time.monotonic() - self._at >= KEEP_S:
            if self._asking is None:
                self._asking = asyncio.get_running_loop().create_task(self._ask())
            await asyncio.shield(self._asking)  # several wait for it, and one of them may go away
        gate, (state, model_server) = self._gate, self._found
        failure, log = gate.policy.failure, not gate.querylog.failed
        needed = (state or failure.state == "open") and (log or failure.log == "open")
        return {
            "ready": model_server and needed and not gate.draining,
            "draining": gate.draining,
            "model_server": model_server,
            "state": "ok" if state else "down",
            "log": "ok" if log else "down",
        }

    async def _ask(self) -> None:
        try:
            state, server = self._gate.streams.journal.ping(), self._gate.upstream.ready()
            found = await asyncio.gather(_in_time(state), _in_time(server))
            self._found = found[0], found[1]
            self._at = time.monotonic()
        finally:
            self._asking = None


async def _in_time(asked: Awaitable[bool | None]) -> bool:
    """False where the answer is False or Down, or does not come."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await asked is not False
    except (Down, TimeoutError):
        return False
