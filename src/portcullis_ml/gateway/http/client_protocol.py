"""The client's side of one HTTP/1.1 connection, without a socket: a question is begun, bytes come in, a response comes
out. The parser is httptools'."""

from __future__ import annotations

import httptools

from portcullis_ml.gateway.http.messages import header_name

__all__ = ["ClientProtocol", "Found", "Lost", "Unreadable"]

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


class ClientProtocol:
    """One connection: a question, its response, and the next. A response's body may have `limit` bytes.

    reusable  another question can be asked on this connection
    """

    def __init__(self, limit: int) -> None:
        self.reusable = True
        self._limit = limit
        self._asked = 0  # questions
        self._waiting = self._heard = False  # for a response; some of it has come

    def begin(self) -> None:
        """A question is sent: what comes next is the response to it."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = self._head_size = 0
        self._found: Found | None = None
        self._asked += 1
        self._waiting, self._heard = True, False

    def receive_data(self, data: bytes) -> Found | None:
        """The response, once it is complete. Raises Unreadable. More than was asked for ends the connection's use."""
        if not self._waiting:
            self.reusable = False
            return None
        self._heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._found is None:
                self.abandon()
                raise Unreadable(str(error)) from error
            self.reusable = False
        if self._found is not None:
            self._waiting = False
        return self._found

    def receive_eof(self, *, clean: bool = True) -> Found | None:
        """The server has closed the connection: the response, if that is how it ends. Raises Lost if one was waited for
        and is not complete."""
        waited = self._waiting
        self.abandon()
        if not waited:
            return None
        until_the_end = self._headers and not {"content-length", "transfer-encoding"} & self._headers.keys()
        if until_the_end and clean:
            self._finish(self._parser.get_status_code())
            return self._found
        raise Lost(stale=self._asked > 1 and not self._heard)

    def abandon(self) -> None:
        """Nothing more is asked on this connection."""
        self.reusable = self._waiting = False

    def _finish(self, status: int) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._found = status, self._headers, body

    # Called by httptools.

    def on_message_begin(self) -> None:
        if self._found is not None:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > HEADER_BYTES:
            raise Unreadable("the headers are too long")
        if self._found is None:
            self._headers[header_name(name)] = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise Unreadable("the answer is too long")
        self._parts.append(part)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._found is not None:
            return
        if status < 200:  # "100 Continue" and its like are not the answer yet
            self._headers.clear()
            return
        self.reusable = self.reusable and self._parser.should_keep_alive()
        self._finish(status)
