"""A client for one model server: HTTP/1.1 over connections that stay open, and nothing else.

The client is what a gate costs most: a general one spends 0.1 ms of processor time on a request with its cookies,
redirects, proxies and headers in two forms. The parser is the one that uvicorn reads requests with.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from typing import cast
from urllib.parse import unquote, urlsplit

import httptools

from portcullis.core.errors import ParameterError

__all__ = ["HttpClient", "Lost", "Unreadable"]

IDLE_S = 30.0  # after which a kept connection is not used again
CONNECT_S = 5.0
HEADER_BYTES = 64 << 10

Found = tuple[int, dict[str, str], bytes]  # status, headers by lower-case name, body


class Lost(Exception):
    """The server could not be reached, or closed the connection before it had answered.

    stale  it was a kept connection and nothing came: the server had closed it, and a fresh one may do
    """

    def __init__(self, *, stale: bool = False) -> None:
        super().__init__("the connection was lost")
        self.stale = stale


class Unreadable(Exception):
    """What came is not an answer, or too long a one."""


class HttpClient:
    """At most `connections` at a time; whoever comes then waits. An answer may have `limit` bytes; `own` headers go
    with every question. `tls` says whom an https address must show itself as, and what is shown to it."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        connections: int,
        limit: int,
        own: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ParameterError("upstream.url", "http://host:port or https://host:port", url)
        self._host = parts.hostname
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/")
        user, _, self._named = parts.netloc.rpartition("@")
        basic = {"authorization": f"Basic {b64encode(unquote(user).encode()).decode()}"} if user else {}
        self._own = {**basic, **(own or {})}
        self._timeout_s, self._limit = timeout_s, limit
        self._idle: deque[_Connection] = deque()
        self._free = asyncio.Semaphore(connections)

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, timeout_s: float | None = None
    ) -> Found:
        """Status, headers and body. Raises Lost, Unreadable or TimeoutError. A request is never sent twice."""
        message = b"".join((self._head(method, path, {**headers, **self._own}, len(body)), body))
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        if self._free.locked():
            async with asyncio.timeout(timeout_s):
                await self._free.acquire()
        else:
            await self._free.acquire()
        try:
            connection = self._kept() or await self._connect()
            try:
                found = await connection.ask(message, timeout_s)
            except BaseException:
                connection.close()  # an answer that comes late must not meet the next question
                raise
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()
            return found
        finally:
            self._free.release()

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # let transports close before the loop does

    def _head(self, method: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
        head = f"{method} {self._base}{path} HTTP/1.1\r\nhost: {self._named}\r\ncontent-length: {length}\r\n"
        for name, value in headers.items():
            head += f"{name}: {value}\r\n"
        if head.count("\n") != 3 + len(headers):
            raise ParameterError("a header", "without line breaks", dict(headers))
        return f"{head}\r\n".encode("latin-1")

    def _kept(self) -> _Connection | None:
        """The connection used last, so that those beyond what is needed grow old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and time.monotonic() - connection.since < IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(min(CONNECT_S, self._timeout_s)):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._limit), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise
        except OSError as error:
            raise Lost from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection: a question, its answer, and the next."""

    def __init__(self, limit: int) -> None:
        self.since = 0.0
        self._limit = limit
        self._asked = 0
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Found] | None = None
        self._keep = True

    @property
    def reusable(self) -> bool:
        return self._keep and self._transport is not None and not self._transport.is_closing()

    async def ask(self, message: bytes, timeout_s: float) -> Found:
        loop = asyncio.get_running_loop()
        if self._transport is None:
            raise Lost(stale=True)
        self._waiter = waiter = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = self._head_size = 0
        self._asked += 1
        timer = loop.call_later(timeout_s, self._too_late)
        try:
            self._transport.write(message)
            found: Found = await waiter
            return found
        finally:
            timer.cancel()
            self._waiter = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:  # nobody asked
            self._keep = False
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Unreadable(str(error)))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self._keep = None, False
        if self._waiter is None:
            return
        until_the_end = self._headers and not {"content-length", "transfer-encoding"} & self._headers.keys()
        if until_the_end and error is None:
            self._finish(self._parser.get_status_code())
        else:
            self._fail(Lost(stale=self._asked > 1 and not self._head_size))

    # httptools

    def on_message_begin(self) -> None:
        if self._waiter is None or self._waiter.done():  # more than was asked for
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > HEADER_BYTES:
            raise Unreadable("the headers are too long")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise Unreadable("the answer is too long")
        self._parts.append(part)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # "100 Continue" and its like are not the answer yet
            self._headers.clear()
            return
        self._keep = self._keep and self._parser.should_keep_alive()
        self._finish(status)

    def _finish(self, status: int) -> None:
        self.since = time.monotonic()
        if self._waiter is not None and not self._waiter.done():
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._waiter.set_result((status, self._headers, body))

    def _fail(self, error: Exception) -> None:
        self._keep = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _too_late(self) -> None:
        self._fail(TimeoutError("the model server did not answer in time"))
