"""The gate: identify, read, admit, ask the model, release, write.

A request is an exchange that is led through these steps together with others (`batching`). It comes in by the gate's
own port (`http.server_connection`) or by an application that the gate is part of (`http.asgi`). A route that is not on
a protocol's list is refused, never passed through unguarded.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Alarm
from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.admin.metrics import Metrics
from portcullis_ml.gateway.batching import Batching
from portcullis_ml.gateway.exchange import Exchange, Exchanges
from portcullis_ml.gateway.http.asgi import Receive, Scope, Send, answer
from portcullis_ml.gateway.http.handler import Bodies, Rejected
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.wire import Reply, Wire
from portcullis_ml.gateway.querylog import LogFull, NoLog
from portcullis_ml.gateway.replies import error_reply, status_reply
from portcullis_ml.gateway.state.fold import Failed
from portcullis_ml.gateway.state.streams import Down, Streams
from portcullis_ml.gateway.upstream import HttpUpstream, Upstream

__all__ = ["Gate"]

T = TypeVar("T")
READ, ADMIT, ASK, HEAR, RELEASE, WRITE = range(6)  # the steps of `Gate.batching`
log = logging.getLogger("portcullis.gate")


class Gate:
    """One model behind one guard.

    clock    seconds since 1970, for quotas, keys and the log
    on_alarm called with every new alarm, once it is safe
    """

    def __init__(
        self,
        policy: Policy,
        streams: Streams,
        upstream: Upstream,
        *,
        querylog: Any = None,
        clock: Callable[[], float] = time.time,
        on_alarm: Callable[[Alarm], None] = lambda alarm: None,
    ) -> None:
        self.streams = streams
        self.upstream = upstream
        self.querylog = NoLog() if querylog is None else querylog
        self.clock = clock
        self.on_alarm = on_alarm
        self.metrics = Metrics()
        self.draining = False
        self.in_flight = 0
        self._of_client: dict[str, int] = {}
        self.bodies = Bodies()
        self._exchanges = Exchanges()
        steps = (self._read, self._admit, self._ask, self._hear, self._release, self._write)
        self.batching = Batching(steps, self.give_up)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._order = itertools.count(1)
        self._run = f"{time.time_ns():x}"
        self.use(policy)

    def use(self, policy: Policy) -> None:
        """Take this policy from the next request on; running requests end under the old one."""
        self.policy = policy
        self._wires = policy.wires()
        self._known: dict[tuple[str, str], tuple[Wire, str]] = {}  # (method, path) of "infer" -> its protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application; the gate's own port does without."""
        await answer(self, scope, receive, send)

    async def drained(self, seconds: float) -> bool:
        """Refuse what is new and wait for what is running; true if all of it ended in time."""
        self.draining = True
        end = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return self.in_flight == 0

    # A request on its way: `enter` and `go_on` or `give_up`, and then in turns from `_read` to `_write`.

    def enter(self, scope: Scope, then: Callable[[Reply, str], None]) -> Exchange | None:
        """Take in a request's head; None if that is answered already. `then` is called once, with the reply and the
        request's id."""
        policy, exchange = self.policy, self._exchanges.begin(scope)
        exchange.policy, exchange.then = policy, then
        exchange.wire, what = self._route(scope, policy)
        self.in_flight += 1
        try:
            if what == "infer":
                self._identify(exchange, policy)
                return exchange
            self._end(exchange, status_reply(exchange.wire, what, policy), "")
        except Exception as error:
            self.give_up(exchange, error)
        return None

    def go_on(self, exchange: Exchange, body: bytes) -> None:
        """The body is there."""
        exchange.body = body
        self.batching.join(READ, exchange)

    def give_up(self, exchange: Exchange, error: BaseException) -> None:
        """End it with what went wrong; what was reserved for it is given back first."""
        if not exchange.reserved:
            self._end(exchange, *error_reply(exchange, error))
            return
        exchange.reserved = False
        if not exchange.line.released:
            exchange.line.undone = next(self._order)
        undoing = self._apart(self._undo(exchange))
        undoing.add_done_callback(lambda _: self._end(exchange, *error_reply(exchange, error)))

    def _identify(self, exchange: Exchange, policy: Policy) -> None:
        limits = policy.limits
        if self.draining or self.in_flight > limits.in_flight:
            raise Rejected("busy", 503, "The gate is busy.", 1.0)
        if self.querylog.failed and policy.failure.log == "closed":
            raise Rejected("failed", 503, "The gate cannot keep its records just now.", 2.0)
        exchange.client = client = policy.clients.identify(
            exchange.headers, exchange.twice, exchange.peer, self.clock()
        )
        running = self._of_client.get(client, 0)
        if running >= limits.per_client:
            raise Rejected("busy", 429, "This client has too many requests running.", 1.0)
        self._of_client[client] = running + 1
        exchange.counted = True
        exchange.marks.append(time.perf_counter())
        self.bodies.expect(limits, exchange.headers, exchange.twice)

    def _read(self, exchange: Exchange) -> bool:
        exchange.inquiry = exchange.wire.read(exchange.policy.served, exchange.headers, exchange.body)
        exchange.line.x, exchange.line.rows, exchange.body = exchange.inquiry.x, len(exchange.inquiry.x), b""
        exchange.marks.append(time.perf_counter())
        return True

    def _admit(self, exchange: Exchange) -> bool:
        line = exchange.line
        if exchange.task is None:
            line.at, line.admitted = self.clock(), next(self._order)
        try:
            seq = self._found(exchange, ADMIT, self.streams.admit_now, exchange.client, line.x, line.at)
        except Refused as refusal:
            line.reason, line.seq = refusal.reason, refusal.place
            if exchange.policy.enforced:
                status = 429 if refusal.retry_after is not None else 403
                raise Rejected("refused", status, str(refusal), refusal.retry_after, refusal.room) from None
            self.metrics.would_refuse += 1
            return True
        except Failed as failure:
            line.seq, exchange.unguarded = failure.place, True
            if exchange.policy.failure.guard == "closed":
                raise _guard_failed() from None
            return True
        if seq is None:
            return False
        exchange.seq, line.seq, exchange.reserved = seq, seq, True
        if seq < 0:
            self.metrics.not_enforced["state"] += 1
        return True

    def _ask(self, exchange: Exchange) -> bool:
        upstream, then = self.upstream, partial(self._answered, exchange)
        if isinstance(upstream, HttpUpstream):
            upstream.send(exchange.inquiry.x, exchange.passed_on, then)
        else:
            self._apart(upstream.ask(exchange.inquiry.x, exchange.passed_on)).add_done_callback(
                lambda t: then(t.result)
            )
        exchange.marks.append(time.perf_counter())
        return False

    def _answered(self, exchange: Exchange, came: Callable[[], Answer]) -> None:
        exchange.marks.append(time.perf_counter())
        exchange.came = came
        self.batching.join(HEAR, exchange)

    def _hear(self, exchange: Exchange) -> bool:
        exchange.line.clean = exchange.answer = exchange.came()
        return True

    def _release(self, exchange: Exchange) -> bool:
        """Through the guard; where that only observes, the answer stays what it was."""
        line, policy = exchange.line, exchange.policy
        if exchange.task is None:
            line.released, exchange.reserved = next(self._order), False
        if exchange.seq is None:
            exchange.answer = self._despite(policy, exchange.answer) if exchange.unguarded else exchange.answer
            return True
        try:
            found = self._found(exchange, RELEASE, self.streams.release_now, exchange.client, exchange.seq, line.clean)
        except Down:
            exchange.reserved = True
            raise
        except Failed:
            exchange.answer = self._despite(policy, exchange.answer)
            return True
        if found is None:
            return False
        line.ended, released = found
        for alarm in released.alarms:
            self.metrics.alarms += 1
            about = {"id": exchange.id, "client": alarm.client, "stage": alarm.stage, "row": alarm.row}
            log.warning("alarm", extra=about)
            self.on_alarm(alarm)
        line.altered, line.alarms = released.altered.tolist().count(True), len(released.alarms)
        if policy.enforced:
            exchange.answer, exchange.altered = released.answer, line.altered > 0
        return True

    def _write(self, exchange: Exchange) -> bool:
        marks, policy = exchange.marks, exchange.policy
        marks.append(time.perf_counter())
        shown = exchange.answer.only(policy.shown)
        if not shown.answered.any():
            exchange.line.reason = "this client was blocked"
            raise Rejected("withheld", 403, "The guard refused this client: this client was blocked.")
        self.metrics.rows += len(exchange.inquiry.x)
        reply = exchange.wire.write(policy.served, exchange.inquiry, shown)
        marks.append(time.perf_counter())
        self.metrics.took(marks)
        self._end(exchange, reply, "altered" if exchange.altered else "answered")
        return False

    def _end(self, exchange: Exchange, reply: Reply, decision: str) -> None:
        self.in_flight -= 1
        if exchange.counted:
            if self._of_client[exchange.client] == 1:
                del self._of_client[exchange.client]
            else:
                self._of_client[exchange.client] -= 1
        if decision:
            self.metrics.requests[decision] += 1
            self._write_line(exchange.policy, exchange, decision, reply.status)
        exchange.then(reply, exchange.id)

    def _found(self, exchange: Exchange, here: int, begin: Callable[..., Any], *given: Any) -> Any:
        """What `begin` gives at once; None if it has to be waited for: the exchange then comes back to this step."""
        if exchange.task is not None:
            task, exchange.task = exchange.task, None
            return task.result()
        found = begin(*given)
        if not isinstance(found, CoroutineType):  # to ask an abstract type takes far longer
            return found
        exchange.task = self._apart(found)
        exchange.task.add_done_callback(lambda _: self.batching.join(here, exchange))
        return None

    def _apart(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _despite(self, policy: Policy, clean: Answer) -> Answer:
        """A stage of the guard raised an error: what the policy says is served then."""
        if policy.failure.guard == "closed":
            raise _guard_failed()
        self.metrics.not_enforced["guard"] += 1
        if policy.failure.guard == "labels" and clean.labels is not None and clean.scores is not None:
            return Answer(clean.labels, np.full_like(clean.scores, np.nan))  # nor an explanation
        return clean

    async def _undo(self, exchange: Exchange) -> None:
        try:
            if exchange.seq is not None:
                exchange.line.ended = await self.streams.undo(exchange.client, exchange.seq)
        except Down:
            log.warning("a reservation could not be given back", extra={"client": exchange.client})

    def _route(self, scope: Scope, policy: Policy) -> tuple[Wire, str]:
        if not scope.get("query_string") and _plain(scope):
            asked = scope["method"], scope["path"]
            if asked in self._known:
                return self._known[asked]
            for wire in self._wires:
                what = wire.route(*asked, policy.served)
                if what == "infer":
                    self._known[asked] = wire, what  # a policy has a handful of these, and no client can add to them
                if what is not None:
                    return wire, what
        return self._wires[0], ""

    def _write_line(self, policy: Policy, exchange: Exchange, decision: str, status: int) -> None:
        line = exchange.line
        line.id, line.client, line.decision, line.status = exchange.id, exchange.client, decision, status
        line.policy, line.run, line.at = policy.digest, self._run, line.at or self.clock()
        line.seconds = time.perf_counter() - exchange.marks[0]
        try:
            self.querylog.write(line)
        except LogFull:
            self.metrics.not_enforced["log"] += 1


def _guard_failed() -> Rejected:
    return Rejected("failed", 503, "The guard failed on this request.", 2.0)


def _plain(scope: Scope) -> bool:
    """Whether the path is spelled in the one way in which it is read: a proxy's rules may not know %2F from /."""
    raw = scope.get("raw_path") or b""
    return b"%" not in raw or bool(raw == quote(scope["path"], safe="/:").encode())
