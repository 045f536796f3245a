"""The gate: takes requests in, has their flows driven, and writes down what became of them.

What happens to a request is in `flow`; here is who takes its steps. A request comes in by the gate's own port
(`http.server_connection`) or by an application that the gate is part of (`http.asgi`). A route that is not on a
protocol's list is refused, never passed through unguarded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Alarm
from portcullis_ml.core.types import Answer, Floats
from portcullis_ml.gateway import flow
from portcullis_ml.gateway.admin.metrics import Metrics
from portcullis_ml.gateway.batching import Batching
from portcullis_ml.gateway.exchange import Exchange, Exchanges
from portcullis_ml.gateway.flow import Admit, Ask, Body, Books, Join, Look, Read, Release, Step, Undo, Unpack
from portcullis_ml.gateway.health import Health
from portcullis_ml.gateway.http.asgi import Receive, Scope, Send, answer
from portcullis_ml.gateway.http.bodies import decoded
from portcullis_ml.gateway.http.cors import shared
from portcullis_ml.gateway.http.messages import Rejected, Request
from portcullis_ml.gateway.identity import Callers
from portcullis_ml.gateway.policy.keys import KeptKey
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import NOTHING, Carried, Reply
from portcullis_ml.gateway.querylog import Line, LogFull, NoLog
from portcullis_ml.gateway.replies import method_reply, status_reply
from portcullis_ml.gateway.routes import Routes
from portcullis_ml.gateway.shared import Shared
from portcullis_ml.gateway.state.streams import Down, Streams
from portcullis_ml.gateway.telemetry import Tracing
from portcullis_ml.gateway.upstream import Upstream
from portcullis_ml.gateway.work import HEADER, Works

__all__ = ["Gate"]

log = logging.getLogger("portcullis.gate")


class Gate:
    """One model behind one guard.

    clock    seconds since 1970, for quotas, keys and the log
    on_alarm called with every new alarm, once it is safe
    shared   with the gates of other models in this process; its own unless given
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
        shared: Shared | None = None,
    ) -> None:
        self.streams = streams
        self.upstream = upstream
        self.querylog = NoLog() if querylog is None else querylog
        self.clock = clock
        self.on_alarm = on_alarm
        self.on_answered: Callable[[Line], None] = lambda line: None  # called once an answer is sent
        self._works = Works(policy.key, clock)
        self.metrics = Metrics()
        self.books = Books(self.metrics, on_alarm=self._alarmed)
        self.tracing: Tracing | None = None
        self.shared = shared or Shared()
        self.bodies, self.reading = self.shared.bodies, self.shared.reading
        self.callers = Callers(clock, self.shared.rates)
        steps = (Body, Join, Unpack, Read, Admit, Ask, Release, Undo, Look)
        self.batching: Batching[Exchange] = Batching(steps, self._take, self._end)
        self.health = Health(self)
        self.shared.healths.append(self.health)
        self.draining = False
        self.in_flight = 0
        self._exchanges = Exchanges()
        self._run = f"{time.time_ns():x}"
        self.use(policy)

    @property
    def trouble(self) -> str:
        """Why the model cannot be asked; empty while it answers."""
        return self.books.trouble.now

    def use(self, policy: Policy) -> None:
        """Take this policy from the next request on; running requests end under the old one."""
        self.policy = policy
        self.routes = Routes(policy)

    def use_keys(self, kept: Iterable[KeptKey]) -> None:
        """Take these keys of the policy's file from the next request on. Raises ParameterError, see `groups`."""
        self.use(replace(self.policy, clients=self.policy.clients.keeping(key.key() for key in kept)))

    def take(self, method: str, path: str) -> bool:
        """Whether there is something at this path for this method."""
        return self.routes.take(method, path)

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

    def enter(self, request: Request, peer: str | None, reply: Callable[[Reply, str], None]) -> Exchange | None:
        """Take in a request's head, from this address; None if that is answered already. `reply` is called once, with
        the reply and the request's id."""
        policy = self.policy
        exchange = self._exchanges.begin(request, peer, policy, reply)
        exchange.gate, (exchange.wire, what) = self, self.routes.find(request)
        self.in_flight += 1
        if what == "infer":
            if self.tracing:
                self.tracing.begin(exchange)
            exchange.flow = flow.exchange(exchange, self)
        elif what in exchange.wire.health:
            exchange.flow = flow.health(exchange, what)
        else:
            methods = () if what else self.routes.methods(request)
            wire = exchange.wire
            told = method_reply(wire, request.method, methods) if methods else status_reply(wire, what, policy)
            self._end(exchange, (told, ""))
            return None
        try:
            next(exchange.flow)  # it waits for the body
        except StopIteration as end:
            self._end(exchange, end.value)
            return None
        return exchange

    def go_on(self, exchange: Exchange, body: bytes) -> None:
        """The body is there."""
        self.callers.sent(exchange, len(body))
        self.batching.join(exchange, Body, body)

    def give_up(self, exchange: Exchange, error: BaseException) -> None:
        """The body will not come, for this reason. One that is too long has cost as much as one that is not."""
        if isinstance(error, BadRequest) and error.status == 413:
            self.callers.sent(exchange, exchange.limits.body_bytes)
        self.batching.fail(exchange, error)

    def identify(self, request: Exchange) -> str:
        """The principal, whose running requests are one more from now on. Raises Rejected or BadRequest where the
        head alone says that there will be no answer."""
        limits = request.limits
        if self.draining or self.in_flight > limits.in_flight:
            raise Rejected("busy", 503, "The gate is busy.", 1.0)
        if self.querylog.failed and request.policy.failure.log == "closed":
            raise Rejected("failed", 503, "The gate cannot keep its records just now.", 2.0)
        client = self.callers.begin(request)
        self.bodies.expect(limits, request.headers, request.twice)
        return client

    def worked(self, request: Exchange, client: str, x: Floats) -> int:
        """How many bits of a proof of work came with this question. Raises BadRequest where they do not count."""
        header = request.headers.get(HEADER)
        return self._works.shown(header, client, x, request.policy.quantum) if header else 0

    def work_for(self, request: Exchange, refusal: Refused) -> str:
        """The header that sets the work which would have let the question in; empty where none would."""
        line = request.notes.line
        if line.x is None or not refusal.work:
            return ""
        return self._works.set(line.principal, line.x, request.policy.quantum, refusal.work)

    def _take(self, step: Step) -> Coroutine[Any, Any, Any]:
        """Who does what a step of a flow says."""
        if isinstance(step, Join):
            return self._join(*step)
        if isinstance(step, Unpack):
            return self._unpack(*step)
        if isinstance(step, Read):
            return self.reading.read(*step)
        if isinstance(step, Admit):
            return self.streams.admit(*step)
        if isinstance(step, Ask):
            return self._ask(*step)
        if isinstance(step, Release):
            return self.streams.release(*step)
        if isinstance(step, Look):
            return self._look(*step)
        assert isinstance(step, Undo)
        return self._undo(*step)

    async def _ask(self, client: str, x: Floats, headers: Mapping[str, str], carried: Carried) -> Answer:
        own: dict[str, Any] = {} if carried is NOTHING else {"carried": carried}
        if getattr(self.upstream, "writes", False):
            own["beside"] = partial(self.reading.read, client, x.nbytes)
        asked = self.upstream.ask(x, headers, **own)
        if getattr(self.upstream, "without_task", False):
            return await asked
        return await asyncio.get_running_loop().create_task(asked)

    async def _unpack(self, client: str, body: bytes, most: int) -> bytes:
        """What is decoded counts as if it had been sent; what would be too long, as if it were as long as may be."""
        size, limits = most, self.policy.limits
        try:
            found = await self.reading.read(client, len(body), partial(decoded, body, most))
            size = len(found)
        finally:
            self.callers.unpacked(client, size - len(body), limits)
        return found

    async def _join(self, account: str, principal: str, at: float) -> str:
        found = await self.streams.join(account, principal, at)
        self.callers.joined(account, found)
        return found

    async def _look(self, everywhere: bool) -> bool:
        return await self.shared.ready() if everywhere else bool((await self.health.look())["ready"])

    async def _undo(self, client: str, seq: int) -> int:
        try:
            return await self.streams.undo(client, seq)
        except Down:
            log.warning("a reservation could not be given back", extra={"client": client})
            return 0

    def _end(self, exchange: Exchange, found: tuple[Reply, str]) -> None:
        """The flow has returned: count it, write its line, and send the reply."""
        reply, decision = found
        self.in_flight -= 1
        self.callers.end(exchange)
        if decision:
            self.metrics.requests[decision] += 1
            self.on_answered(exchange.notes.line)
            self._write_line(exchange, decision, reply.status)
            if self.tracing:
                self.tracing.end(exchange, decision, reply.status)
        cors = exchange.policy.listen.cors
        exchange.reply(reply if cors is None else shared(reply, cors, exchange.headers), exchange.id)

    def _alarmed(self, alarm: Alarm, line: Line) -> None:
        self.metrics.alarms += 1
        about = {"id": line.id, "client": alarm.client, "stage": alarm.stage, "row": alarm.row,
                 **getattr(alarm, "evidence", {})}  # fmt: skip
        log.warning("alarm", extra=about)
        self.on_alarm(alarm)

    def _write_line(self, exchange: Exchange, decision: str, status: int) -> None:
        line = exchange.notes.line
        line.decision, line.status, line.policy, line.run = decision, status, exchange.policy.digest, self._run
        line.at = line.at or self.clock()
        line.seconds = time.perf_counter() - exchange.notes.marks[0]
        try:
            self.querylog.write(line)
        except LogFull:
            self.metrics.not_enforced["log"] += 1
