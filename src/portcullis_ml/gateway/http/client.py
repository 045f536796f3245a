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
from urllib.parse import unquote, urlsplit

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.gateway.http.client_connection import Connection
from portcullis_ml.gateway.http.client_protocol import Found, Lost

__all__ = ["HttpClient"]

IDLE_S = 30.0  # after which a kept connection is not used again
CONNECT_S = 5.0


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
        self._idle: deque[Connection] = deque()
        self._connections, self._used = connections, 0
        self._waiting: deque[_Question] = deque()  # for a connection
        self._running: dict[_Question, None] = {}  # every question that has not ended
        self._connecting: set[asyncio.Task[None]] = set()
        self._clock: asyncio.TimerHandle | None = None
        self._clock_due = 0.0

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, timeout_s: float | None = None
    ) -> Found:
        """Status, headers and body. Raises Lost, Unreadable or TimeoutError. A request is never sent twice."""
        waiter: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        message = b"".join((self._head(method, path, {**headers, **self._own}, len(body)), body))
        due = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        question = _Question(self, message, due, waiter)
        self._running[question] = None
        self._look_at(due)
        self._waiting.append(question)
        self._next()
        try:
            return await waiter
        except asyncio.CancelledError:
            question.end(Lost())  # an answer that comes late must not meet the next question
            raise

    def _next(self) -> None:
        """Give connections to those who wait for one."""
        while self._waiting and self._used < self._connections:
            question = self._waiting.popleft()
            if question not in self._running:
                continue
            self._used += 1
            connection = self._kept()
            if connection is None:
                task = asyncio.get_running_loop().create_task(self._connect(question))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
            else:
                connection.ask(question)

    def _freed(self, connection: Connection | None) -> None:
        """A connection's question has ended; None if it never got one."""
        self._used -= 1
        if connection is not None:
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()
        self._next()

    # One clock for all: a timer for each question, set and cancelled, is dear (decision 8).

    def _look_at(self, due: float) -> None:
        if self._clock is not None and self._clock_due <= due:
            return
        if self._clock is not None:
            self._clock.cancel()
        self._clock_due = due
        wait = max(0.0, due - time.monotonic())
        self._clock = asyncio.get_running_loop().call_later(wait, self._look)

    def _look(self) -> None:
        """End what is late; look again when the next one will be."""
        self._clock, now = None, time.monotonic()
        for question in [q for q in self._running if q.due <= now]:
            question.end(TimeoutError("the model server did not answer in time"))
        if self._running:
            self._look_at(min(q.due for q in self._running))

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        self._waiting.clear()  # before connections are free again
        for task in self._connecting:
            task.cancel()
        for question in list(self._running):
            question.end(Lost())
        if self._clock is not None:
            self._clock.cancel()
        await asyncio.sleep(0)  # let transports close before the loop does

    def _head(self, method: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
        head = f"{method} {self._base}{path} HTTP/1.1\r\nhost: {self._named}\r\ncontent-length: {length}\r\n"
        for name, value in headers.items():
            head += f"{name}: {value}\r\n"
        if head.count("\n") != 3 + len(headers):
            raise ParameterError("a header", "without line breaks", dict(headers))
        return f"{head}\r\n".encode("latin-1")

    def _kept(self) -> Connection | None:
        """The connection used last, so that those beyond what is needed grow old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and time.monotonic() - connection.since < IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self, question: _Question) -> None:
        """Connect and ask. That takes a task, for a time limit of its own."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(min(CONNECT_S, question.due - time.monotonic())):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._limit), self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            question.end(error)
        except OSError as error:
            lost = Lost()
            lost.__cause__ = error
            question.end(lost)
        finally:
            if connection is None or question not in self._running:
                self._freed(connection)
        if connection is not None and question in self._running:
            connection.ask(question)


class _Question:
    """One request on its way: `end` with what came of it, or with why nothing did."""

    __slots__ = ("_client", "_waiter", "connection", "due", "message")

    def __init__(self, client: HttpClient, message: bytes, due: float, waiter: asyncio.Future[Found]) -> None:
        self._client, self.message, self.due, self._waiter = client, message, due, waiter
        self.connection: Connection | None = None

    def end(self, found: Found | Exception) -> None:
        """The first end counts. Anything but an answer ends the connection too."""
        if self._client._running.pop(self, self) is self:
            return
        if self.connection is not None:
            self.connection.leave(keep=not isinstance(found, Exception))
            self._client._freed(self.connection)
        if self._waiter.done():  # who asked has been cancelled
            return
        if isinstance(found, Exception):
            self._waiter.set_exception(found)
        else:
            self._waiter.set_result(found)
