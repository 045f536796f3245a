"""The process: two ports, one event loop, a graceful end, and a policy that can be exchanged while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvicorn

from portcullis_ml.core.errors import MissingExtra, PortcullisError
from portcullis_ml.core.guard import Guard
from portcullis_ml.gateway.admin.app import admin_app
from portcullis_ml.gateway.admin.connection import AdminConnection
from portcullis_ml.gateway.admin.webhook import Webhook
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.http.ports import BACKLOG, address, bound
from portcullis_ml.gateway.http.server_connection import ServerConnections
from portcullis_ml.gateway.json_lines import JsonLines
from portcullis_ml.gateway.linking import Linker
from portcullis_ml.gateway.policy.certificates import Certificate
from portcullis_ml.gateway.policy.explain import stages
from portcullis_ml.gateway.policy.policy import Policy, read_policy
from portcullis_ml.gateway.policy.settings import Admin, Listen
from portcullis_ml.gateway.querylog import QueryLogFile
from portcullis_ml.gateway.renewals import Renewals
from portcullis_ml.gateway.state.stores import open_store
from portcullis_ml.gateway.state.streams import Down, Streams
from portcullis_ml.gateway.telemetry import open_tracing
from portcullis_ml.gateway.upstream import Upstream, open_upstream

__all__ = ["Server", "run", "settle"]

log = logging.getLogger("portcullis.gate")
RENEW_S = 1.0  # between two looks at the files of certificates and keys
SWITCH_S = 0.0005  # that the event loop waits for Python's lock while another thread computes; five milliseconds else


class Server:
    """One gate and all that belongs to it. Ports are bound at once, so that 0 can be asked for.

    reread  makes the policy anew on SIGHUP
    """

    def __init__(
        self, policy: Policy, *, upstream: Upstream | None = None, reread: Callable[[], Policy] | None = None
    ) -> None:
        self._reread = reread
        self._upstream = upstream
        with ExitStack() as undo:  # of what is open already where the rest cannot be
            self._sockets = []
            for place in (policy.listen, policy.admin):
                self._sockets.append(bound(place.host, place.port))
                undo.callback(self._sockets[-1].close)
            self.store = open_store(policy.state.url, synchronous=policy.state.synchronous)
            undo.callback(self.store.discard)
            self.webhook = Webhook(policy.alarms, self.store) if policy.alarms else None
            self.streams = Streams(
                policy.guard(), self.store, capacity=policy.state.clients_in_memory, when_down=policy.failure.state
            )
            self._log = _query_log(policy)
            if self._log:
                undo.callback(self._log.close)
            self.gate = Gate(
                policy, self.streams, upstream or open_upstream(policy), querylog=self._log, on_alarm=self._alarmed
            )
            undo.pop_all()
        self.linker = Linker(policy, self.streams, self.store, clock=self.gate.clock, on_alarm=self._alarmed)
        self.gate.on_answered = self.linker.take
        self.gate.metrics.gauges |= self._gauges()
        if policy.telemetry:
            self.gate.tracing = open_tracing(self.gate.metrics, policy.telemetry)
        self.admin = admin_app(self.gate, self.store)
        self._tls = [_certificate(policy.listen), _certificate(policy.admin)]
        self._renewals = Renewals(self.gate, [c for c in self._tls if c])
        self.url, self.admin_url = (
            address(s, tls is not None) for s, tls in zip(self._sockets, self._tls, strict=True)
        )
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()  # of the upstreams of earlier policies
        self._stop = asyncio.Event()
        self.started = asyncio.Event()

    @property
    def policy(self) -> Policy:
        """The policy under which the next request is answered."""
        return self.gate.policy

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

    def stop(self) -> None:
        self._stop.set()

    def reload(self) -> None:
        """Exchange the policy between two requests, once it and its artifacts are read; a policy with a mistake changes
        nothing."""
        if self._reread is not None:
            task = asyncio.get_running_loop().create_task(self._reload(self._reread))
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

    async def _reload(self, reread: Callable[[], Policy]) -> None:
        def read() -> tuple[Policy, Guard]:
            policy = reread()
            return policy, policy.guard()

        async with self._reloading:  # so that the latest one is the last
            try:
                policy, guard = await asyncio.to_thread(read)
                self.exchange(policy, guard)
            except Exception as error:
                unforeseen = None if isinstance(error, PortcullisError) else error
                log.error("the policy was not exchanged: %s", error, exc_info=unforeseen)
                return
        log.info("the policy was exchanged", extra={"policy": policy.digest})
        await asyncio.to_thread(warm, guard)  # until then numpy finds the same

    def exchange(self, policy: Policy, guard: Guard) -> None:
        """Run under this policy and its guard. Addresses and the state's place stay what they were."""
        before = self.policy
        if self._upstream is None and (policy.upstream, policy.asked) != (before.upstream, before.asked):
            new, old = open_upstream(policy), self.gate.upstream
            task = asyncio.get_running_loop().create_task(_close_later(old, policy.limits.drain_s))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self.gate.upstream = new
        self.streams.fold.use(guard)
        self.streams.when_down = policy.failure.state
        self.streams.cache.capacity = policy.state.clients_in_memory
        self.gate.use(policy)
        self.linker.use(policy)

    async def __call__(self) -> None:
        """Serve until `stop`; then drain, write everything down and return."""
        try:
            await self.store.ping()
        except Down as error:
            log.warning("%s", error)
        limits = self.policy.limits
        connections = ServerConnections(self.gate, lambda: self.policy.limits)
        tls = self._tls[0]
        front = await asyncio.get_running_loop().create_server(
            connections, sock=self._sockets[0], backlog=BACKLOG, ssl=tls.context if tls else None,
            ssl_handshake_timeout=limits.head_s if tls else None,
        )  # fmt: skip
        back = _Uvicorn(_config(self.admin, self._tls[1]))
        tasks = [asyncio.create_task(back.serve(sockets=[self._sockets[1]]))]
        beside = [asyncio.create_task(what) for what in (self._renewals.run(RENEW_S), self.linker.run())]
        if self.webhook:
            tasks.append(asyncio.create_task(self.webhook.run()))
        while not back.started and not any(t.done() for t in tasks):
            await asyncio.sleep(0.005)
        self.started.set()
        await self._stop.wait()
        if not await self.gate.drained(limits.drain_s):
            log.warning("some requests did not end in time")
        self.admin.state.stop.set()
        front.close()
        connections.close()
        back.should_exit = True
        for task in beside:
            task.cancel()
        if self.webhook:
            await self.webhook.stop()
        await asyncio.gather(*beside, *tasks, return_exceptions=True)
        await self.streams.close()
        for task in self._closing:
            task.cancel()
        await asyncio.to_thread(self.gate.reading.close)
        await asyncio.gather(self.gate.upstream.close(), *self._closing, return_exceptions=True)
        await asyncio.to_thread(self.gate.querylog.close)
        if self.gate.tracing:
            await asyncio.to_thread(self.gate.tracing.close)
        await self.store.close()

    def _alarmed(self, alarm: Any) -> None:
        if self.webhook:
            self.webhook.wake()


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the process's business


def _certificate(port: Listen | Admin) -> Certificate | None:
    return None if port.cert_file is None else Certificate(port.cert_file, port.key_file)


def _config(app: Any, tls: Certificate | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, date_header=False, lifespan="off", ws="none",
        http=AdminConnection, timeout_keep_alive=30, timeout_graceful_shutdown=5, proxy_headers=False,
    )  # fmt: skip
    config.load()
    config.ssl = tls.context if tls else None  # one that can be given another certificate
    return config


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


def run(
    policy_path: str | Path,
    *,
    say: Callable[[str, str], None] = lambda what, about: None,
    announce: Callable[[Server], None] = lambda server: None,
    **changes: Any,
) -> None:
    """Serve a policy's file until SIGTERM or SIGINT; SIGHUP reads it again.

    say       called with a word and a sentence before each part of the start that may take long
    announce  called once requests are taken
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)

    def reread() -> Policy:
        return read_policy(policy_path, **changes)

    sys.setswitchinterval(SWITCH_S)

    async def main() -> None:
        policy = reread()
        say("loading", f"the guard: {stages(policy)}")
        server = Server(policy, reread=reread)
        loop = asyncio.get_running_loop()
        for word in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(word, server.stop)
        loop.add_signal_handler(signal.SIGHUP, server.reload)
        if server.streams.fold.guard.detectors():
            say("compiling", "the detectors' search: some 15 seconds the first time, one at each later start")
        settle(server.streams.fold.guard)  # before a request could wait for it
        task = asyncio.create_task(server())
        await server.started.wait()
        announce(server)
        await task

    with asyncio.Runner(loop_factory=_loop()) as runner:
        runner.run(main())


def warm(guard: Guard) -> None:
    """Load what the guard's stages would else load during a request."""
    if guard.detectors():
        log.info("loading the detectors' compiled search; compiling it takes some 15 seconds the first time")
    guard.warm()


def settle(guard: Guard) -> None:
    """Warm up. What is there then lives as long as the process: the garbage collector need not look at all of it again,
    for which it would stop every request."""
    warm(guard)
    gc.collect()
    gc.freeze()


def _loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ModuleNotFoundError as error:
        raise MissingExtra("portcullis serve", "uvloop", "gateway") from error
    return uvloop.new_event_loop
