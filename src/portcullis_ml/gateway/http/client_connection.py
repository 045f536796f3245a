"""One connection to a model server: the shell between its socket, `client_protocol` and who asks."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

from portcullis_ml.gateway.http.client_protocol import ClientProtocol, Found, Lost, Unreadable

__all__ = ["Connection", "Question"]


class Question(Protocol):
    """What a connection is given to send, and told the end of."""

    message: bytes
    connection: Connection | None

    def end(self, found: Found | Exception) -> None: ...


class Connection(asyncio.Protocol):
    """One connection: a question, its answer, and the next."""

    def __init__(self, limit: int) -> None:
        self.since = 0.0  # when its last answer came
        self._http = ClientProtocol(limit)
        self._transport: asyncio.Transport | None = None
        self._question: Question | None = None

    @property
    def reusable(self) -> bool:
        return self._http.reusable and self._transport is not None and not self._transport.is_closing()

    def ask(self, question: Question) -> None:
        self._question, question.connection = question, self
        if self._transport is None:
            question.end(Lost(stale=True))
            return
        self._http.begin()
        self._transport.write(question.message)

    def leave(self, *, keep: bool) -> None:
        """The question has ended."""
        self._question = None
        if not keep:
            self._http.abandon()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        try:
            found = self._http.receive_data(data)
        except Unreadable as error:
            self._end(error)
        else:
            if found is not None:
                self.since = time.monotonic()
                self._end(found)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        try:
            found = self._http.receive_eof(clean=error is None)
        except Lost as lost:
            self._end(lost)
        else:
            if found is not None:
                self._end(found)

    def _end(self, found: Found | Exception) -> None:
        if self._question is not None:
            self._question.end(found)
