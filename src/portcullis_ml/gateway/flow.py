"""The way of a request from top to bottom, without sockets and without waiting.

A flow is a generator. It yields a step that somebody else takes for it, and is sent what came of that, or has the error
thrown into it. `exchange` is a request over HTTP, from its head to its reply; the part of it that begins when there are
rows is `answered`, which `Guarded` uses too. Who takes the steps decides how they are waited for: `batching` for many
requests at once, `driven` for one, at once.
"""

from __future__ import annotations

import itertools
from asyncio import CancelledError
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from portcullis_ml.core.errors import Refused, Unreachable
from portcullis_ml.core.guard import Alarm, Released
from portcullis_ml.core.types import Answer, Floats
from portcullis_ml.gateway.admin.metrics import Metrics
from portcullis_ml.gateway.exchange import Exchange, Notes
from portcullis_ml.gateway.http.bodies import encoded
from portcullis_ml.gateway.http.messages import Rejected
from portcullis_ml.gateway.protocols.wire import NOTHING, Carried, Inquiry, Reply
from portcullis_ml.gateway.querylog import Line
from portcullis_ml.gateway.replies import error_reply
from portcullis_ml.gateway.state.evidence import codes_of
from portcullis_ml.gateway.state.fold import Failed
from portcullis_ml.gateway.state.latest import singled_out
from portcullis_ml.gateway.trouble import Trouble

__all__ = ["Admit", "Ask", "Body", "Books", "Flow", "Host", "Join", "Look", "Read", "Release", "Rules", "Step", "Undo",
           "Unpack", "answered", "driven", "exchange", "health"]  # fmt: skip

T = TypeVar("T")


class Body(NamedTuple):
    """The body of the request is needed. Sent: its bytes."""


class Join(NamedTuple):
    """The account may be new: it stays with the principal that it came to first. Sent: that principal; Down."""

    account: str
    principal: str
    at: float


class Unpack(NamedTuple):
    """The body is encoded. Sent: its bytes without that; BadRequest."""

    client: str
    body: bytes
    most: int


class Read(NamedTuple):
    """A large body is read, which takes long. Sent: the question in it; BadRequest."""

    client: str
    size: int
    read: Callable[[], Inquiry]


class Admit(NamedTuple):
    """The guard is asked whether this client may ask. Sent: the request's sequence number; Refused, Failed or Down."""

    client: str  # the principal
    x: Floats
    at: float
    account: str = ""  # the one of its accounts that asks, where there are others
    work: int = 0  # bits of a proof of work that came with it


class Ask(NamedTuple):
    """The model is asked. Sent: its undefended answer; Unreachable or BadRequest."""

    client: str
    x: Floats
    headers: Mapping[str, str]
    carried: Carried = NOTHING


class Release(NamedTuple):
    """The guard decides what of the answer is let out. Sent: its place in the journal, and that; Failed or Down."""

    client: str
    seq: int
    clean: Answer


class Undo(NamedTuple):
    """Nothing was answered: what was reserved is given back. Sent: the place of that in the journal."""

    client: str
    seq: int


class Look(NamedTuple):
    """Health is asked for, of one model or of all of them. Sent: whether a request would be served just now."""

    everywhere: bool = False


Step = Body | Join | Unpack | Read | Admit | Ask | Release | Undo | Look
Flow = Generator[Step, Any, T]


class Rules(NamedTuple):
    """What a policy says of a flow."""

    enforced: bool = True  # if not, decisions are made and counted, but every answer goes out as it is
    on_failure: str = "closed"  # what a stage that raises an error leads to: "closed", "labels" or "open"


@dataclass
class Books:
    """What all flows of one gate count together."""

    metrics: Metrics = field(default_factory=Metrics)
    trouble: Trouble = field(default_factory=Trouble)
    on_alarm: Callable[[Alarm, Line], None] = lambda alarm, line: None
    order: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class Host(Protocol):
    """The gate, as an exchange sees it."""

    books: Books
    clock: Callable[[], float]

    def identify(self, request: Exchange) -> str:
        """The principal that the client belongs to. Raises Rejected or BadRequest where the head alone says that there
        will be no answer."""

    def worked(self, request: Exchange, client: str, x: Floats) -> int:
        """How many bits of a proof of work came with this question. Raises BadRequest where they do not count."""

    def work_for(self, request: Exchange, refusal: Refused) -> str:
        """The header that sets the work which would have let the question in; empty where none would."""


def exchange(request: Exchange, host: Host) -> Flow[tuple[Reply, str]]:
    """A request from its head to its reply, and the decision that it is counted as. Never raises an error."""
    policy, wire, notes, metrics = request.policy, request.wire, request.notes, host.books.metrics
    try:
        client = host.identify(request)
        notes.mark()

        body = yield Body()
        if request.joins:
            client = notes.line.principal = yield Join(notes.line.client, client, host.clock())
        if encoded(request.headers):
            body = yield Unpack(client, body, request.limits.body_bytes)
        read = partial(wire.read, policy.served, request.headers, body)
        inquiry = read() if len(body) <= wire.at_once else (yield Read(client, len(body), read))
        notes.mark()

        rules = Rules(policy.enforced, policy.failure.guard)
        x, at = inquiry.x, host.clock()
        notes.line.work = host.worked(request, client, x)
        answer = yield from answered(client, x, at, rules, notes, host.books, request.passed_on, inquiry.carried)
        shown = answer.only(policy.shown)
        if not shown.answered.any():
            notes.line.reason = "this client was blocked"
            raise Rejected("withheld", 403, "The guard refused this client: this client was blocked.")
        metrics.rows += len(x)

        reply = wire.write(policy.served, inquiry, shown)
        notes.mark()
        metrics.took(notes.marks)
        return reply, "altered" if policy.enforced and notes.line.altered else "answered"
    except Refused as refusal:
        return error_reply(request, refusal, host.work_for(request, refusal))
    except (Exception, CancelledError) as error:
        return error_reply(request, error)


def health(request: Exchange, what: str) -> Flow[tuple[Reply, str]]:
    """A request for the word `what` of the protocol's health routes. Nobody need say who they are. Never raises."""
    try:
        yield Body()
        if not (yield Look(what in request.wire.common)):
            raise Rejected("", 503, "Not ready.", 1.0)
        return request.wire.tell(request.policy.served, what), ""
    except (Exception, CancelledError) as error:
        return error_reply(request, error)[0], ""


def answered(
    client: str, x: Floats, at: float, rules: Rules, notes: Notes, books: Books, headers: Mapping[str, str],
    carried: Carried = NOTHING,
) -> Flow[Answer]:  # fmt: skip
    """(n, *input_shape) -> what the guard lets out of the model's answer: admit, ask, release. Raises Refused, Failed,
    Down, and what the model raises; by then all that was reserved is given back."""
    line, seq, released, failed = notes.line, None, None, False
    account = line.client if line.client != client else ""
    line.x, line.rows, line.at, line.admitted = x, len(x), at, next(books.order)
    try:
        seq = line.seq = yield Admit(client, x, at, account, line.work)
        books.metrics.not_enforced["state"] += seq < 0  # the journal is down, and the policy is to serve
    except Refused as refusal:
        line.seq, line.reason = refusal.place, refusal.reason
        if rules.enforced:
            raise
        books.metrics.would_refuse += 1
    except Failed as failure:
        line.seq, failed = failure.place, True
        if rules.on_failure == "closed":
            raise
    notes.mark()

    try:
        clean = line.clean = yield Ask(client, x, headers, carried)
        books.trouble.over()
        notes.mark()
        line.released = next(books.order)
        if seq is not None:
            line.ended, released = yield Release(client, seq, clean)
    except Failed:
        failed = True
        if rules.on_failure == "closed":
            raise
    except (Exception, CancelledError) as error:
        if isinstance(error, Unreachable):
            books.trouble.say(str(error))
        if seq is not None:
            line.undone = 0 if line.released else next(books.order)
            line.ended = yield Undo(client, seq)
        raise
    notes.mark()
    return _let_out(clean, released, failed, rules, line, books)


def _let_out(clean: Answer, released: Released | None, failed: bool, rules: Rules, line: Line, books: Books) -> Answer:
    """The model's answer as the guard released it, or as the rules say where it did not."""
    if released is not None:
        line.altered, line.alarms = singled_out(released), len(released.alarms)
        line.codes = codes_of(released.alarms)
        for alarm in released.alarms:
            books.on_alarm(alarm, line)
        return released.answer if rules.enforced else clean
    books.metrics.not_enforced["guard"] += failed
    if failed and rules.on_failure == "labels" and clean.labels is not None and clean.scores is not None:
        return Answer(clean.labels, np.full_like(clean.scores, np.nan))  # nor an explanation
    return clean


def driven(flow: Flow[T], take: Callable[[Step], Any]) -> T:
    """What the flow returns or raises, each of its steps taken at once."""
    outcome: Any = None
    send: Callable[[Any], Step] = flow.send
    try:
        while True:
            step = send(outcome)
            try:
                send, outcome = flow.send, take(step)
            except Exception as error:
                send, outcome = flow.throw, error
    except StopIteration as end:
        found: T = end.value
        return found
