"""One connection to a model server: a question, its answer, and the next; HTTP/1.1, read by httptools."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

import httptools

from portcullis_ml.gateway.http.messages import header_name

__all__ = ["Connection", "Found", "Lost", "Question", "Unreadable"]

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


class Question(Protocol):
    """What a connection is given to send, and told the end of."""

    message: bytes
    connection: Connection | None

    def end(self, found: Found | Exception) -> None: ...


class Connection(asyncio.Protocol):
    """One connection: a question, its answer, and the next."""

    def __init__(self, limit: int) -> None:
        self.since = 0.0
        self._limit = limit
        self._asked = 0
        self._transport: asyncio.Transport | None = None
        self._question: Question | None = None
        self._keep = True

    @property
    def reusable(self) -> bool:
        return self._keep and self._transport is not None and not self._transport.is_closing()

    def ask(self, question: Question) -> None:
        self._question, question.connection = question, self
        if self._transport is None:
            question.end(Lost(stale=True))
            return
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = self._head_size = 0
        self._asked += 1
        self._transport.write(question.message)

    def leave(self, *, keep: bool) -> None:
        """The question has ended."""
        self._question = None
        self._keep = self._keep and keep

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._question is None:  # nobody asked
            self._keep = False
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(Unreadable(str(error)))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self._keep = None, False
        if self._question is None:
            return
        until_the_end = self._headers and not {"content-length", "transfer-encoding"} & self._headers.keys()
        if until_the_end and error is None:
            self._finish(self._parser.get_status_code())
        else:
            self._end(Lost(stale=self._asked > 1 and not self._head_size))

    # httptools

    def on_message_begin(self) -> None:
        if self._question is None:  # more than was asked for
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > HEADER_BYTES:
            raise Unreadable("the headers are too long")
        self._headers[header_name(name)] = value.decode("latin-1")

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
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._end((status, self._headers, body))

    def _end(self, found: Found | Exception) -> None:
        if self._question is not None:
            self._question.end(found)
