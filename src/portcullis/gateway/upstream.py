"""The model server behind the gate, asked over HTTP with connections kept open.

aiohttp, because the client costs more than everything else in a gate: about 0.2 ms of processor time a
request where httpx was measured at 1.7 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import aiohttp
import numpy as np

from portcullis.core.errors import Unreachable
from portcullis.core.types import Answer, Array
from portcullis.gateway.protocols.strict import BadRequest
from portcullis.gateway.protocols.wire import Served, Wire

__all__ = ["HttpUpstream", "Upstream", "checked"]

ANSWER_BYTES = 64 << 20


class Upstream(Protocol):
    """Whatever answers rows: a server over HTTP, or a model in this process."""

    async def ask(self, x: Array, headers: Mapping[str, str]) -> Answer:
        """The undefended answer. Raises Unreachable (its `status` is what the client gets) or BadRequest."""

    async def ready(self) -> bool: ...

    async def close(self) -> None: ...


class HttpUpstream:
    """A model server, in its own dialect."""

    def __init__(self, url: str, wire: Wire, asked: Served, *, timeout_s: float = 10.0, connections: int = 100) -> None:
        self._url = url.rstrip("/")
        self._wire = wire
        self._asked = asked
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, x: Array, headers: Mapping[str, str]) -> Answer:
        ask = self._wire.ask(self._asked, x)
        given = {**headers, **ask.headers}
        for attempt in (1, 2):
            try:
                status, found, body = await self._post(ask.path, ask.body, given)
                break
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if attempt == 2 or isinstance(error, aiohttp.ClientConnectorError):
                    raise Unreachable("The model server cannot be reached.", status=502) from error
                # a kept connection that the server had closed: ask once more on a fresh one
            except TimeoutError as error:
                raise Unreachable("The model server did not answer in time.", status=504) from error
            except aiohttp.ClientError as error:
                raise Unreachable("The model server's answer cannot be read.", status=502) from error
        if status in (429, 503):
            raise Unreachable("The model server is busy.", status=503)
        if 400 <= status < 500 and status not in (401, 403, 404, 405, 407):
            raise BadRequest("The model does not take this input.")
        if status != 200:
            raise Unreachable("The model server answered with an error.", status=502)
        return checked(self._wire.understand(self._asked, len(x), found, body), len(x), self._asked)

    async def ready(self) -> bool:
        try:
            async with self._open().get(self._url + self._wire.ready_path, timeout=aiohttp.ClientTimeout(2)) as answer:
                return answer.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def close(self) -> None:
        if self._session:
            await self._session.close()
            await asyncio.sleep(0)  # let transports close before the loop does

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        async with self._open().post(self._url + path, data=body, headers=headers, allow_redirects=False) as answer:
            if (answer.content_length or 0) > ANSWER_BYTES:
                raise Unreachable("The model server's answer is too long.", status=502)
            found = {k.lower(): v for k, v in answer.headers.items()}
            return answer.status, found, await answer.read()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=30)
            skip = ("User-Agent", "Accept", "Accept-Encoding")
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, skip_auto_headers=skip, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


def checked(answer: Answer, n: int, asked: Served) -> Answer:
    """The upstream's answer if it is finite and complete; Unreachable (502) if not."""
    columns = asked.interface.n_classes
    if len(answer) != n or (answer.scores is not None and not np.isfinite(answer.scores).all()):
        raise Unreachable("The model server's answer is not finite or not complete.", status=502)
    if columns and answer.labels is not None and not ((answer.labels >= 0) & (answer.labels < columns)).all():
        raise Unreachable(f"The model server's classes must be 0 to {columns - 1}.", status=502)
    return answer
