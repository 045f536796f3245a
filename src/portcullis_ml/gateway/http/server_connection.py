"""One connection of a client: from bytes to an exchange of the gate, and back.

A general server makes of every request a task, two coroutines and four messages between them, which costs as much as
reading a row's numbers does. The gate needs none of it: a request is taken in when its head is there, goes on when its
body is, and is answered by one write. The parser is httptools'.

What strangers can reach is bounded before there is a request: how many connections there are, how long a head may be
and take, and a body; a request that is asked before the last is answered waits, and its connection is not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools

from portcullis_ml.gateway.http.handler import Exchange, Handler, Rejected
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import Reply

__all__ = ["ServerConnection", "ServerConnections"]

log = logging.getLogger("portcullis.gate")
IDLE_S = 30.0  # that a connection on which nothing is asked stays open


class ServerConnections:
    """All connections of one gate; `limits` is asked anew each time, as a policy may be exchanged."""

    def __init__(self, gate: Handler[Any], limits: Callable[[], Limits]) -> None:
        self.gate, self.limits = gate, limits
        self.open: set[ServerConnection] = set()

    def __call__(self) -> ServerConnection:
        return ServerConnection(self)

    def close(self) -> None:
        """Let go of all of them, of those that are being answered once they have been."""
        for connection in list(self.open):
            connection.leave()


class _Asked:
    """One request as far as it has come."""

    __slots__ = (
        "answered",
        "error",
        "exchange",
        "headed",
        "headers",
        "keep",
        "method",
        "parts",
        "size",
        "target",
        "whole",
    )

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.size = 0
        self.method = ""
        self.keep = True  # the connection, afterwards
        self.headed = self.whole = self.answered = False
        self.exchange: Exchange | None = None
        self.error: Exception | None = None  # known before its turn: why its body is not taken


class ServerConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self, connections: ServerConnections) -> None:
        self._connections = connections
        self._gate = connections.gate
        self._asked: deque[_Asked] = deque()  # the first is with the gate; more only if they came in one piece with it
        self._head_size = 0  # bytes since a head or a piece of a body was complete
        self._due = 0.0  # when what is waited for is late; 0 while the gate has its turn
        self._awaited = ""  # what that is: "head", "body", or nothing that is worth a word
        self._leaving = self._full = False
        self._reading = True
        self._clock: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._loop = asyncio.get_running_loop()
        self._peer = transport.get_extra_info("peername")
        self._parser = httptools.HttpRequestParser(self)
        self._connections.open.add(self)
        limits = self._connections.limits()
        if len(self._connections.open) > limits.connections:
            self._refuse(503, "The gate is busy.", b"retry-after: 1\r\n")
            return
        self._await("head", limits.head_s)
        self._look()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.open.discard(self)
        if self._clock:
            self._clock.cancel()
        for asked in self._asked:
            self._give_up(asked, BadRequest("The body ended early."))

    def data_received(self, data: bytes) -> None:
        if self._leaving:
            return
        self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "The gate speaks HTTP/1.1 and nothing else.")
        except httptools.HttpParserCallbackError as error:
            log.error("a request failed", exc_info=error)
            self._refuse(500, "The gate failed on this request.")
        except httptools.HttpParserError:
            self._refuse(400, "This is not a request in HTTP.")
        if self._head_size > self._connections.limits().head_bytes:
            self._refuse(431, f"The head of a request may be {self._connections.limits().head_bytes} bytes long.")
        self._flow()

    def pause_writing(self) -> None:
        self._full = True
        self._flow()

    def resume_writing(self) -> None:
        self._full = False
        self._flow()

    # httptools

    def on_message_begin(self) -> None:
        if not self._asked:
            self._await("head", self._connections.limits().head_s)
        self._asked.append(_Asked())

    def on_url(self, part: bytes) -> None:
        self._asked[-1].target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._asked[-1].headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_size = 0
        asked, parser = self._asked[-1], self._parser
        asked.method, asked.headed = parser.get_method().decode("ascii"), True
        asked.keep = parser.should_keep_alive() and parser.get_http_version() == "1.1"
        if parser.should_upgrade():
            self._refuse(400, "The gate speaks HTTP/1.1 and nothing else.")
        elif asked is self._asked[0]:
            self._enter(asked)

    def on_body(self, part: bytes) -> None:
        self._head_size = 0
        asked, limits, bodies = self._asked[-1], self._connections.limits(), self._gate.bodies
        if asked.answered or asked.error or self._leaving:
            return
        asked.parts.append(part)
        asked.size += len(part)
        bodies.buffered += len(part)
        try:
            bodies.bounded(limits, asked.size)
        except (BadRequest, Rejected) as error:
            self._give_up(asked, error)

    def on_message_complete(self) -> None:
        asked = self._asked[-1]
        asked.whole = True
        if asked is self._asked[0] and not self._transport.is_closing():
            self._go_on(asked)

    # What is asked, in order.

    def _enter(self, asked: _Asked) -> None:
        """The head is there, and all before it is answered."""
        self._await("body", self._connections.limits().body_s)
        path, raw, query = _target(asked.target)
        scope = {"type": "http", "method": asked.method, "path": path, "raw_path": raw, "query_string": query,
                 "headers": asked.headers, "client": self._peer}  # fmt: skip
        asked.exchange = self._gate.enter(scope, partial(self._answer, asked))
        if asked.exchange is not None and asked.error is not None:
            self._gate.give_up(asked.exchange, asked.error)
        elif asked.exchange is not None and not asked.parts and asked.exchange.headers.get("expect") == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _go_on(self, asked: _Asked) -> None:
        """The body is there."""
        if asked.answered:  # by its head alone; what has come since was read past
            self._next()
            return
        self._due = 0.0
        body = asked.parts[0] if len(asked.parts) == 1 else b"".join(asked.parts)
        self._drop(asked)
        if asked.exchange is not None:
            self._gate.go_on(asked.exchange, body)

    def _give_up(self, asked: _Asked, error: Exception) -> None:
        """Its body will not be taken."""
        self._drop(asked)
        if asked.exchange is None:
            asked.error = asked.error or error
        elif not asked.whole and not asked.answered:
            self._gate.give_up(asked.exchange, error)

    def _drop(self, asked: _Asked) -> None:
        """Hold its body no longer."""
        self._gate.bodies.buffered -= asked.size
        asked.size = 0
        asked.parts.clear()

    def _answer(self, asked: _Asked, reply: Reply, id: str) -> None:
        asked.answered, asked.exchange = True, None  # which holds this method: a circle would keep both for a while
        if self._transport.is_closing():
            return
        self._leaving = self._leaving or not asked.keep
        last = b"connection: close\r\n" if self._leaving else b""
        body = b"" if asked.method == "HEAD" else reply.body
        self._transport.write(
            b"%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (_head(reply.status, reply.headers), len(reply.body), id.encode("latin-1"), last, body)
        )
        if asked.whole:
            self._next()
        else:  # what is left of its body must come all the same, in the time of a head
            self._drop(asked)
            self._await("", self._connections.limits().head_s)

    def _next(self) -> None:
        """Turn to the next request: the first is answered, and nothing of it is left."""
        self._asked.popleft()
        if self._leaving:
            self._transport.close()
        elif self._asked:
            self._loop.call_soon(self._turn_to, self._asked[0])  # by calls, a thousand in one piece would be too deep
        else:
            self._await("", IDLE_S)
        self._flow()

    def _turn_to(self, asked: _Asked) -> None:
        if self._transport.is_closing():
            return
        if not asked.headed:
            self._await("head", self._connections.limits().head_s)
            return
        if asked.exchange is None and not asked.answered:
            self._enter(asked)
            if asked.whole and not asked.answered:
                self._go_on(asked)

    # Limits.

    def _flow(self) -> None:
        """Read on, unless the client asks ahead of its answers or does not take them."""
        read = not self._full and len(self._asked) < 2
        if read != self._reading and not self._transport.is_closing():
            self._reading = read
            if read:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _await(self, what: str, seconds: float) -> None:
        self._due, self._awaited = self._loop.time() + seconds, what

    def _look(self) -> None:
        """Now and then: is what is waited for late? A clock for each request would cost as much as reading its head."""
        limits = self._connections.limits()
        if self._transport.is_closing():  # since the last look, and the client has not taken what it was sent
            self._transport.abort()
            return
        if self._due and self._loop.time() >= self._due:
            seconds = {"head": limits.head_s, "body": limits.body_s}.get(self._awaited)
            late = f"The {self._awaited} of a request took longer than {seconds:g} seconds." if seconds else ""
            self._refuse(408, late)
        self._clock = self._loop.call_later(min(limits.head_s, limits.body_s), self._look)

    def _refuse(self, status: int, sentence: str, more: bytes = b"") -> None:
        """Say so, if there is a sentence, and close. What the gate has already is answered, and then it is closed."""
        if self._transport.is_closing():
            return
        self._leaving = True
        first = self._asked[0] if self._asked else None
        if first is not None and first.exchange is not None and not first.answered:
            if first.whole:
                return
            self._give_up(first, BadRequest(sentence, status))
        elif sentence and (first is None or not first.answered):
            body = f'{{"error":"{sentence}"}}'.encode()
            head = _head(status, (("content-type", "application/json"), ("connection", "close")))
            self._transport.write(b"%bcontent-length: %d\r\n%b\r\n%b" % (head, len(body), more, body))
        self._transport.close()

    def leave(self) -> None:
        """Close, after the answer that is being given."""
        self._leaving = True
        if not self._asked:
            self._transport.close()


@lru_cache(maxsize=64)
def _target(target: bytes) -> tuple[str, bytes, bytes]:
    """(path, the path as it was spelled, query) of a request's target; what is no address is a path that leads nowhere.
    Nearly all requests have one of a few targets."""
    try:
        found: Any = httptools.parse_url(target)
        raw, query = found.path or b"", found.query or b""
    except httptools.HttpParserInvalidURLError:
        raw, query = target, b""
    return unquote(raw.decode("ascii", "replace")), raw, query


@lru_cache(maxsize=256)
def _head(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    """Status line and headers, each with its end."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in headers)]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
