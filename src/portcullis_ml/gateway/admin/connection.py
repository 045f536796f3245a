"""A connection of an operator: uvicorn's, bounded before there is a request as the gate's own is.

The parser has no limit of its own: without one, a head of a gigabyte is read into memory before anybody is asked who
they are, and a few thousand connections that say nothing keep everybody else out for as long as they like.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from portcullis_ml.gateway.policy.settings import Limits

__all__ = ["AdminConnection"]


class AdminConnection(HttpToolsProtocol):
    """One connection of a client."""

    limits = Limits(connections=64)

    def __init__(self, *values: Any, **settings: Any) -> None:
        super().__init__(*values, **settings)
        self._since = 0.0  # when bytes began to come that no request takes; 0 while one does
        self._head = 0  # bytes since the last head or piece of a body was complete
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self.limits
        if len(self.connections) > limits.connections:
            self._refuse(503, "Too many connections.", "retry-after: 1\r\n")
            return
        self._since = self.loop.time()
        self._watch = self.loop.call_later(limits.head_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._since and (self.cycle is None or self.cycle.response_complete):
            self._since = self.loop.time()
        self._head += len(data)
        super().data_received(data)
        if self._head > self.limits.head_bytes and not self.transport.is_closing():
            self._refuse(431, f"The head of a request may be {self.limits.head_bytes} bytes long.")

    def on_headers_complete(self) -> None:
        self._since, self._head = 0.0, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def _look(self) -> None:
        """Now and then: has a head, or what is left of a refused body, taken too long?"""
        limit = self.limits.head_s
        if self._since and self.loop.time() - self._since >= limit * 0.99 and not self.timeout_keep_alive_task:
            self._refuse(408, f"The head of a request took longer than {limit:g} seconds.")
        elif not self.transport.is_closing():
            self._watch = self.loop.call_later(limit, self._look)

    def _refuse(self, status: int, sentence: str, more: str = "") -> None:
        if self.cycle is None:
            body = f'{{"error":"{sentence}"}}'
            kind = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
            self.transport.write(STATUS_LINE[status] + f"{kind}{more}\r\n{body}".encode())
        self.transport.close()
