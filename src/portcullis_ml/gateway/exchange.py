"""One request and its answer: what is known of it by its head, and what is noted of it on its way."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Callable, Generator, Set
from dataclasses import dataclass, field
from typing import Any

from portcullis_ml.gateway.http.messages import Request
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.wire import Reply, Wire
from portcullis_ml.gateway.querylog import Line

__all__ = ["Exchange", "Exchanges", "Notes"]

REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
TRACE_PARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Notes:
    """What is written down of a request: its line in the query log, and when each part of its way was done."""

    line: Line = field(default_factory=Line)
    marks: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def mark(self) -> None:
        self.marks.append(time.perf_counter())


@dataclass(slots=True)
class Exchange:
    """One request and its answer."""

    id: str
    headers: dict[str, str]  # by lower-case name
    twice: Set[str]  # the names that came more than once
    peer: str | None
    policy: Policy  # that it is judged by, to the end
    reply: Callable[[Reply, str], None]  # called once, with the reply and the request's id
    notes: Notes = field(default_factory=Notes)
    gate: Any = field(init=False)  # that takes it
    wire: Wire = field(init=False)
    flow: Generator[Any, Any, tuple[Reply, str]] = field(init=False)  # of `flow.exchange`
    span: Any = None  # of OpenTelemetry, where the policy sends some
    client: str | None = None  # the principal, once the request counts among its running ones
    joins: bool = False  # this process has not seen the account before, which stays with the principal it first came to

    @property
    def limits(self) -> Limits:
        return self.policy.limits

    @property
    def passed_on(self) -> dict[str, str]:
        """The headers that go upstream: the request's id and its trace context, nothing else of the client's."""
        passed = {"x-request-id": self.id}
        parent = self.headers.get("traceparent") if self.span is None else trace_parent(self.span)
        if parent and TRACE_PARENT.fullmatch(parent):
            passed["traceparent"] = parent
            state = self.headers.get("tracestate", "")
            if state and len(state) <= 512 and state.isprintable() and state.isascii():
                passed["tracestate"] = state
        return passed


def trace_parent(span: Any) -> str:
    """The header that makes a span the parent of what the model server does."""
    about = span.get_span_context()
    return f"00-{about.trace_id:032x}-{about.span_id:016x}-{about.trace_flags:02x}"


class Exchanges:
    """Makes an exchange of each request's head."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)

    def begin(
        self, request: Request, peer: str | None, policy: Policy, reply: Callable[[Reply, str], None]
    ) -> Exchange:
        given = request.headers.get("x-request-id", "")
        id = given if REQUEST_ID.fullmatch(given) else f"{self._prefix}-{next(self._ids)}"
        found = Exchange(id, request.headers, request.twice, peer, policy, reply)
        found.notes.line.id = id
        return found
