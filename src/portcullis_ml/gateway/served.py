"""One model of a process: its gate, and what belongs to that alone, which is its state, its log and its webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from portcullis_ml.core.guard import Guard
from portcullis_ml.gateway.admin.webhook import Webhook
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.linking import Linker
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.querylog import QueryLogFile
from portcullis_ml.gateway.shared import Shared
from portcullis_ml.gateway.state.stores import open_store
from portcullis_ml.gateway.state.streams import Streams
from portcullis_ml.gateway.telemetry import open_tracing
from portcullis_ml.gateway.upstream import Upstream, open_upstream

__all__ = ["ServedModel"]


class ServedModel:
    """Opened at once, so that what cannot be opened is told at the start.

    upstream  instead of the model server that the policy names
    alone     no other model is served beside it
    """

    def __init__(self, policy: Policy, shared: Shared, *, upstream: Upstream | None = None, alone: bool = True) -> None:
        self._given, self._alone = upstream is not None, alone
        with ExitStack() as undo:  # of what is open already where the rest cannot be
            self.store = open_store(policy.state.url, synchronous=policy.state.synchronous)
            undo.callback(self.store.discard)
            self.webhook = Webhook(policy.alarms, self.store) if policy.alarms and policy.alarms.webhook else None
            self.streams = Streams(
                policy.guard(), self.store, capacity=policy.state.clients_in_memory, when_down=policy.failure.state
            )
            self._log = _query_log(policy)
            if self._log:
                undo.callback(self._log.close)
            self.gate = Gate(
                policy, self.streams, upstream or open_upstream(policy), querylog=self._log, on_alarm=self._alarmed,
                shared=shared,
            )  # fmt: skip
            undo.pop_all()
        self.linker = Linker(policy, self.streams, self.store, clock=self.gate.clock, on_alarm=self._alarmed)
        self.gate.on_answered = self.linker.take
        self.gate.metrics.gauges |= self._gauges()
        self._name_alarms()
        if policy.telemetry:
            self.gate.tracing = open_tracing(self.gate.metrics, policy.telemetry, "" if alone else policy.served.id)
        self._closing: set[asyncio.Task[None]] = set()  # of the upstreams of earlier policies

    @property
    def policy(self) -> Policy:
        """The policy under which the next request is answered."""
        return self.gate.policy

    def discard(self) -> None:
        """Close what nobody has used yet."""
        self.store.discard()
        if self._log:
            self._log.close()

    def another(self, policy: Policy) -> Upstream | None:
        """The model server that this policy asks, where that is another than now."""
        before = self.policy
        if self._given or (policy.upstream, policy.asked) == (before.upstream, before.asked):
            return None
        return open_upstream(policy)

    def exchange(self, policy: Policy, guard: Guard, upstream: Upstream | None) -> None:
        """Run under this policy and its guard, and ask this model server if one is given. The state's place stays what
        it was."""
        if upstream is not None:
            task = asyncio.get_running_loop().create_task(_close_later(self.gate.upstream, policy.limits.drain_s))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self.gate.upstream = upstream
        self.streams.fold.use(guard)
        self.streams.when_down = policy.failure.state
        self.streams.cache.capacity = policy.state.clients_in_memory
        self.gate.use(policy)
        self.linker.use(policy)
        self._name_alarms()

    async def close(self) -> None:
        """Close what is open, once the streams are."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(self.gate.upstream.close(), *self._closing, return_exceptions=True)
        await asyncio.to_thread(self.gate.querylog.close)
        if self.gate.tracing:
            await asyncio.to_thread(self.gate.tracing.close)
        await self.store.close()

    def _name_alarms(self) -> None:
        """Say of which model alarms are, if there are several."""
        if self.webhook and not self._alone:
            self.webhook.about = {"model": self.policy.served.id}

    def _gauges(self) -> dict[str, Callable[[], float]]:
        return {
            "clients_in_memory": lambda: float(len(self.streams.open)),
            "requests_in_flight": lambda: float(self.gate.in_flight),
            "log_lines_dropped": lambda: float(self.gate.querylog.dropped),
            "state_failures": lambda: float(self.streams.failures),
            "model_server_trouble": lambda: float(bool(self.gate.trouble)),
            "linkage_accounts_called": lambda: float(self.linker.called),
            "linkage_rows_dropped": lambda: float(self.linker.dropped),
            "state_bytes": lambda: float(self.store.size()),
            "suspicion_highest": lambda: max(
                (s.curve[-1][1] for s in self.streams.open.values() if s.curve), default=-1.0
            ),
        }

    def _alarmed(self, alarm: Any) -> None:
        if self.webhook:
            self.webhook.wake()


def _query_log(policy: Policy) -> QueryLogFile | None:
    if policy.log is None:
        return None
    q = policy.log
    return QueryLogFile(q.path, queries=q.queries, format=q.format, days=q.days, file_bytes=q.file_bytes)


async def _close_later(upstream: Upstream, seconds: float) -> None:
    """Close it after so many seconds, or when the task is cancelled."""
    try:
        await asyncio.sleep(seconds)
    finally:
        await upstream.close()
