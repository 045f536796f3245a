"""The gate as an ASGI application: identify, read, admit, ask the model, release, write.

Written against ASGI itself, without a framework's request objects, because a gate is paid for on every
request. A route that is not on a protocol's list is refused, never passed through unguarded.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import numpy as np

from portcullis.core.errors import Refused, Unreachable
from portcullis.core.guard import Alarm
from portcullis.core.types import Answer, Array
from portcullis.gateway.fold import Failed
from portcullis.gateway.intake import ROOM, Intake, Turned, Visit
from portcullis.gateway.metrics import Metrics
from portcullis.gateway.policy import Policy
from portcullis.gateway.protocols.strict import BadRequest
from portcullis.gateway.protocols.wire import Inquiry, Reply, Wire
from portcullis.gateway.querylog import LogFull, NoLog
from portcullis.gateway.streams import Down, Streams
from portcullis.gateway.upstream import Upstream

__all__ = ["Gate"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

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
        self.intake = Intake()
        self._order = itertools.count(1)
        self._run = f"{time.time_ns():x}"
        self.use(policy)

    def use(self, policy: Policy) -> None:
        """Take this policy from the next request on; running requests end under the old one."""
        self.policy = policy
        self._wires = policy.wires()
        self._known: dict[tuple[str, str], tuple[Wire, str]] = {}  # (method, path) of "infer" -> its protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def drained(self, seconds: float) -> bool:
        """Refuse what is new and wait for what is running; true if all of it ended in time."""
        self.draining = True
        end = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return self.in_flight == 0

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy, visit = self.policy, self.intake.visit(scope)
        wire, what = self._route(scope, policy)
        self.in_flight += 1
        try:
            if what != "infer":
                reply, decision = _told(wire, what, policy), ""
            else:
                reply, decision = await self._infer(policy, wire, visit, receive)
        except Turned as turned:
            reply, decision = self._turned(wire, turned, visit), turned.decision
        except BadRequest as error:
            decision = "unidentified" if error.status in (401, 403) else "malformed"
            reply = wire.refuse(error.status, error.sentence)
        except Exception:
            log.exception("a request failed", extra={"id": visit.id})
            reply, decision = wire.refuse(500, "The gate failed on this request."), "failed"
        finally:
            self.in_flight -= 1
        if decision:
            self.metrics.requests[decision] += 1
            self._write_line(policy, visit, decision, reply.status)
        await _send(send, reply, visit.id)

    async def _infer(self, policy: Policy, wire: Wire, visit: Visit, receive: Receive) -> tuple[Reply, str]:
        limits, marks = policy.limits, visit.marks
        if self.draining or self.in_flight > limits.in_flight:
            raise Turned("busy", 503, "The gate is busy.", 1.0)
        if self.querylog.failed and policy.failure.log == "closed":
            raise Turned("failed", 503, "The gate cannot keep its records just now.", 2.0)
        visit.client = client = policy.clients.identify(visit.headers, visit.twice, visit.peer, self.clock())
        running = self._of_client.get(client, 0)
        if running >= limits.per_client:
            raise Turned("busy", 429, "This client has too many requests running.", 1.0)
        self._of_client[client] = running + 1
        try:
            marks.append(time.perf_counter())
            body = await self.intake.body(limits, visit, receive)
            inquiry = wire.read(policy.served, visit.headers, body)
            marks.append(time.perf_counter())
            return await self._guarded(policy, wire, visit, inquiry)
        finally:
            if self._of_client[client] == 1:
                del self._of_client[client]
            else:
                self._of_client[client] -= 1

    async def _guarded(self, policy: Policy, wire: Wire, visit: Visit, inquiry: Inquiry) -> tuple[Reply, str]:
        """Admit, ask, release, write."""
        line, marks = visit.line, visit.marks
        line.at, line.x, line.admitted = self.clock(), inquiry.x, next(self._order)
        seq = await self._admit(policy, visit, inquiry.x)
        marks.append(time.perf_counter())
        try:
            clean = await self.upstream.ask(inquiry.x, visit.passed_on)
        except Unreachable as error:
            line.undone = next(self._order)
            await self._undo(visit, seq)
            raise Turned("failed", error.status or 502, str(error), 1.0 if error.status == 503 else None) from None
        except BaseException:
            line.undone = next(self._order)
            await self._undo(visit, seq)
            raise
        marks.append(time.perf_counter())
        line.clean, line.released = clean, next(self._order)
        answer, altered = await self._release(policy, visit, seq, clean)
        marks.append(time.perf_counter())
        shown = answer.only(policy.shown)
        if not np.count_nonzero(shown.answered):
            line.reason = "this client was blocked"
            raise Turned("withheld", 403, "The guard refused this client: this client was blocked.")
        self.metrics.rows += len(inquiry.x)
        reply = wire.write(policy.served, inquiry, shown)
        marks.append(time.perf_counter())
        self.metrics.took(marks)
        return reply, "altered" if altered else "answered"

    async def _admit(self, policy: Policy, visit: Visit, x: Array) -> int | None:
        """The request's sequence number; None where observing lets a refused request through."""
        line = visit.line
        try:
            seq = await self.streams.admit(visit.client, x, line.at)
            line.seq = seq
            if seq < 0:
                self.metrics.not_enforced["state"] += 1
            return seq
        except Refused as refusal:
            line.reason, line.seq = refusal.reason, refusal.place
            if not policy.enforced:
                self.metrics.would_refuse += 1
                return None
            status = 429 if refusal.retry_after is not None else 403
            raise Turned("refused", status, str(refusal), refusal.retry_after, refusal.room) from None
        except Down:
            raise Turned("failed", 503, "The gate cannot keep its records just now.", 2.0) from None

    async def _release(self, policy: Policy, visit: Visit, seq: int | None, clean: Answer) -> tuple[Answer, bool]:
        """(the answer to show, whether the guard altered it)."""
        if seq is None:
            return clean, False
        try:
            visit.line.ended, released = await self.streams.release(visit.client, seq, clean)
        except Down:
            await self._undo(visit, seq)
            raise Turned("failed", 503, "The gate cannot keep its records just now.", 2.0) from None
        except Failed:
            return self._despite(policy, clean), False
        for alarm in released.alarms:
            self.metrics.alarms += 1
            told = {"id": visit.id, "client": alarm.client, "stage": alarm.stage, "row": alarm.row}
            log.warning("alarm", extra=told)
            self.on_alarm(alarm)
        altered = int(np.count_nonzero(released.altered))
        visit.line.altered, visit.line.alarms = altered, len(released.alarms)
        if not policy.enforced:
            return clean, False
        return released.answer, altered > 0

    def _despite(self, policy: Policy, clean: Answer) -> Answer:
        """A stage of the guard raised an error: what the policy says is served then."""
        if policy.failure.guard == "closed":
            raise Turned("failed", 503, "The guard failed on this request.", 2.0)
        self.metrics.not_enforced["guard"] += 1
        if policy.failure.guard == "labels" and clean.labels is not None and clean.scores is not None:
            return Answer(clean.labels, np.full_like(clean.scores, np.nan))
        return clean

    async def _undo(self, visit: Visit, seq: int | None) -> None:
        if seq is None:
            return
        try:
            visit.line.ended = await self.streams.undo(visit.client, seq)
        except Down:
            log.warning("a reservation could not be given back", extra={"client": visit.client})

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

    def _turned(self, wire: Wire, turned: Turned, visit: Visit) -> Reply:
        reply = wire.refuse(turned.status, turned.sentence)
        more = []
        if turned.retry_after is not None:
            more.append(("retry-after", str(max(1, int(np.ceil(turned.retry_after))))))
        if turned.room is not None:
            more.append((ROOM, str(turned.room)))
        return Reply(reply.body, reply.status, (*reply.headers, *more))

    def _write_line(self, policy: Policy, visit: Visit, decision: str, status: int) -> None:
        line = visit.line
        line.id, line.client, line.decision, line.status = visit.id, visit.client, decision, status
        line.policy, line.run, line.at = policy.digest, self._run, line.at or self.clock()
        line.seconds = time.perf_counter() - visit.marks[0]
        try:
            self.querylog.write(line)
        except LogFull:
            self.metrics.not_enforced["log"] += 1


def _plain(scope: Scope) -> bool:
    """Whether the path is spelled in the one way in which it is read: a proxy's rules may not know %2F from /."""
    raw = scope.get("raw_path") or b""
    return b"%" not in raw or bool(raw == quote(scope["path"], safe="/:").encode())


def _told(wire: Wire, what: str, policy: Policy) -> Reply:
    if not what:
        return wire.refuse(404, "There is nothing here; see the list of routes in the documentation.")
    return wire.tell(policy.served, what)


@lru_cache(maxsize=64)
def _encoded(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers]


async def _send(send: Send, reply: Reply, id: str) -> None:
    headers = [*_encoded(reply.headers), (b"content-length", b"%d" % len(reply.body))]
    headers.append((b"x-request-id", id.encode("latin-1")))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
