"""One request and its answer: what is known of it by its head, and what it has become so far."""

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
from portcullis_ml.gateway.http.client_connection import header_name
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.wire import Inquiry, Reply, Wire
from portcullis_ml.gateway.querylog import Line

__all__ = ["Exchange", "Exchanges"]

REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
TRACE_PARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Exchange:
    """One request and its answer, as far as they have come."""

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
    def limits(self) -> Limits:
        return self.policy.limits

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


class Exchanges:
    """Makes an exchange of each request's head."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)

    def begin(self, scope: MutableMapping[str, Any]) -> Exchange:
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
        return Exchange(id, headers, twice, peer[0] if peer else None, [time.perf_counter()])
