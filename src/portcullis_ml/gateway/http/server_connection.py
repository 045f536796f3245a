"""One connection of a client: the shell between its socket, `server_protocol` and the gate.

A general server makes of every request a task, two coroutines and four messages between them, which costs as much as
reading a row's numbers does. The gate needs none of it: a request is taken in when its head is there, goes on when its
body is, and is answered by one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import orjson

from portcullis_ml.gateway.http.bodies import Body
from portcullis_ml.gateway.http.handler import Exchange, Handler
from portcullis_ml.gateway.http.messages import Rejected, Request
from portcullis_ml.gateway.http.server_protocol import Data, EndOfMessage, ServerProtocol
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import Reply

__all__ = ["ServerConnection", "ServerConnections"]

log = logging.getLogger("portcullis.gate")
REST_S = 0.05  # between two looks at what nobody waits for: some five megabytes a second of a connection


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


class ServerConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self, connections: ServerConnections) -> None:
        self._connections = connections
        self._gate = connections.gate
        self._exchange: Exchange | None = None  # that waits for its body
        self._body: Body | None = None  # as far as it has come
        self._full_since: float | None = None  # the client has not taken what it was sent
        self._reading = True
        self._resting = False  # what comes is for nothing, and is not read for a moment
        self._called = False  # to go on in the next turn of the event loop
        self._clock: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._loop = asyncio.get_running_loop()
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if peer else None
        self._http = ServerProtocol(self._connections.limits, self._loop.time())
        self._connections.open.add(self)
        if len(self._connections.open) > self._connections.limits().connections:
            self._refuse(503, "The gate is busy.", ("retry-after", "1"))
        self._look()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.open.discard(self)
        self._http.close()
        if self._clock:
            self._clock.cancel()
        self._give_up(BadRequest("The body ended early."))

    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data, self._loop.time())
        except Exception as error:
            self._failed(error)
        self._go_on()
        if self._http.rest and not self._resting:
            self._resting = True
            self._loop.call_later(REST_S, self._rested)
            self._flow()

    def _rested(self) -> None:
        self._resting = False
        self._flow()

    def pause_writing(self) -> None:
        self._full_since = self._loop.time()

    def resume_writing(self) -> None:
        self._full_since = None
        self._go_on()

    # Requests and replies.

    def _go_on(self) -> None:
        """Deal with what has come. It is left where it is while the client does not take what it was sent."""
        try:
            while self._full_since is None and not self._called and (event := self._http.next_event()) is not None:
                if isinstance(event, Request):
                    self._enter(event)
                elif isinstance(event, Data):
                    self._add(event.data)
                elif isinstance(event, EndOfMessage):
                    self._end()
                    break
                elif self._exchange is not None:
                    self._give_up(BadRequest(event.sentence, event.status))
                else:
                    self._refuse(event.status, event.sentence)
        except Exception as error:
            self._failed(error)
        self._flow()

    def _enter(self, request: Request) -> None:
        """The head is there."""
        exchange = self._gate.enter(request, self._peer, self._answer)
        if exchange is not None:
            self._exchange, self._body = exchange, Body(self._gate.bodies, exchange.limits)
            if request.expects_continue:
                self._transport.write(self._http.go_ahead())

    def _add(self, data: bytes) -> None:
        assert self._body is not None
        try:
            self._body.add(data)
        except (BadRequest, Rejected) as error:
            self._give_up(error)

    def _end(self) -> None:
        """The body is there; of a request that was answered by its head, nobody waits for it."""
        if self._exchange is not None and self._body is not None:
            exchange, body = self._exchange, self._body.take()
            self._exchange, self._body = None, None
            self._gate.go_on(exchange, body)
        self._turn()

    def _give_up(self, error: Exception) -> None:
        """The body that is waited for, if one is, will not be taken."""
        if self._exchange is not None and self._body is not None:
            self._body.drop()
            exchange, self._exchange, self._body = self._exchange, None, None
            self._gate.give_up(exchange, error)

    def _answer(self, reply: Reply, id: str) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._http.respond(reply, self._loop.time(), id))
        self._turn()
        self._flow()

    def _turn(self) -> None:
        """Let other connections have their turns before the next request: thousands may have come in one piece."""
        if self._http.ahead and not self._called:
            self._called = True
            self._loop.call_soon(self._go_on_later)

    def _go_on_later(self) -> None:
        self._called = False
        self._go_on()

    def _refuse(self, status: int, sentence: str, *headers: tuple[str, str]) -> None:
        """Say so, and close."""
        if not self._transport.is_closing():
            reply = Reply(orjson.dumps({"error": sentence}), status, (("content-type", "application/json"), *headers))
            self._transport.write(self._http.respond(reply, self._loop.time()))
            self._http.close()
            self._transport.close()

    def _failed(self, error: Exception) -> None:
        log.error("a request failed", exc_info=error)
        self._refuse(500, "The gate failed on this request.")

    def leave(self) -> None:
        """Close, after the answer that is being given."""
        self._http.leave()
        self._flow()

    # Flow and time.

    def _flow(self) -> None:
        """Close if no more is to be said. Read on, unless the client asks ahead of its answers, or goes on to send a
        body that was refused by its head: four megabytes of that cost as much as ten other requests."""
        if self._transport.is_closing():
            return
        if self._http.closed:
            self._transport.close()
        elif (self._http.wants_data and not self._resting) != self._reading:
            self._reading = not self._reading
            if self._reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _look(self) -> None:
        """Now and then: is what is waited for late? A clock for each request would cost as much as reading its head."""
        now, limits = self._loop.time(), self._connections.limits()
        stuck = self._full_since is not None and now - self._full_since > limits.write_s
        if stuck or (self._clock is not None and self._transport.is_closing()):  # since the last look
            self._transport.abort()
            return
        if self._full_since is None:
            self._http.expire(now)
            self._go_on()
        self._clock = self._loop.call_later(min(limits.head_s, limits.body_s, limits.write_s), self._look)
