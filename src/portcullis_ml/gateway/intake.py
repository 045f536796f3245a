"""Taking a request in: what is known of it by its head, and what it is on its way through."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.http_connection import header_name
from portcullis_ml.gateway.policy import Policy
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import Inquiry, Reply, Wire
from portcullis_ml.gateway.querylog import Line
from portcullis_ml.gateway.settings import Limits

__all__ = ["ROOM", "Intake", "Turned", "Visit"]

ROOM = "x-ratelimit-remaining"  # the header that says how many rows a quota still has for the client whom it refuses
REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
TRACE_PARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass
class Turned(Exception):
    """A request that ends early: how, and what is said."""

    decision: str
    status: int
    sentence: str
    retry_after: float | None = None
    room: int | None = None  # rows that the client's quota still has


@dataclass(slots=True)
class Visit:
    """One request on its way through."""

    id: str
    headers: dict[str, str]
    twice: set[str]
    peer: str | None
    marks: list[float]
    line: Line = field(default_factory=Line)
    client: str = ""
    policy: Policy = field(init=False)  # that it is judged by, to the end
    wire: Wire = field(init=False)
    then: Callable[[Reply, str], None] = field(init=False)  # told of the reply and the request's id
    counted: bool = False  # among its client's running requests
    body: bytes = b""
    inquiry: Inquiry = field(init=False)
    task: asyncio.Task[Any] | None = None  # that its step waits for
    seq: int | None = None  # its number; None where the policy lets a refused request through, or an unguarded one
    unguarded: bool = False  # a stage raised an error before the model was asked
    reserved: bool = False  # at the guard, and neither released nor given back
    came: Callable[[], Answer] = field(init=False)  # gives the model's answer, or raises why there is none
    answer: Answer = field(init=False)  # as far as it has come
    altered: bool = False

    @property
    def passed_on(self) -> dict[str, str]:
        """The headers that go upstream: the request's id and its trace context, nothing else of the client's."""
        passed = {"x-request-id": self.id}
        parent = self.headers.get("traceparent")
        if parent and TRACE_PARENT.fullmatch(parent):
            passed["traceparent"] = parent
            state = self.headers.get("tracestate", "")
            if state and len(state) <= 512 and state.isprintable() and state.isascii():
                passed["tracestate"] = state
        return passed


class Intake:
    """Makes visits of heads, and knows how many bytes of bodies are being read."""

    def __init__(self) -> None:
        self.buffered = 0
        self._prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)

    def visit(self, scope: MutableMapping[str, Any]) -> Visit:
        headers: dict[str, str] = {}
        twice: set[str] = set()
        for raw, value in scope["headers"]:
            name = header_name(raw)
            if name in headers:
                twice.add(name)
            headers[name] = value.decode("latin-1")
        given = headers.get("x-request-id", "")
        id = given if REQUEST_ID.fullmatch(given) else f"{self._prefix}-{next(self._ids)}"
        peer = scope.get("client")
        return Visit(id, headers, twice, peer[0] if peer else None, [time.perf_counter()])

    def expect(self, limits: Limits, visit: Visit) -> None:
        """Refuse by its head a body that would not be taken."""
        headers = visit.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise BadRequest("Send the body as it is; encodings such as gzip are not taken.", 415)
        length = headers.get("content-length", "0")
        if "content-length" in visit.twice or not (length.isascii() and length.isdigit()):
            raise BadRequest("Content-Length must be one number.")
        self.bounded(limits, int(length[:16]))

    def bounded(self, limits: Limits, size: int) -> None:
        """Refuse a body of so many bytes, or one more where all that are being read have become too many."""
        if size > limits.body_bytes:
            raise BadRequest(f"A body may be {limits.body_bytes} bytes long.", 413)
        if self.buffered > limits.buffer_bytes:
            raise Turned("busy", 503, "The gate is busy.", 1.0)
