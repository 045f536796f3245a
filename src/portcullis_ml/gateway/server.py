"""The process: two ports, one event loop, a graceful end, and a policy that can be exchanged while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
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
from portcullis_ml.gateway.policy.explain import stages
from portcullis_ml.gateway.policy.policy import Policy, read_policy
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.querylog import QueryLogFile
from portcullis_ml.gateway.state.stores import open_store
from portcullis_ml.gateway.state.streams import Down, Streams
from portcullis_ml.gateway.upstream import HttpUpstream, Upstream, credentials, trusted

__all__ = ["Server", "run", "settle"]

log = logging.getLogger("portcullis.gate")
SWITCH_S = 0.0005  # that the event loop waits for Python's lock while another thread computes; five milliseconds else


class Server:
    """One gate and all that belongs to it. Ports are bound at once, so that 0 can be asked for.

    reread  makes the policy anew on SIGHUP
    """

    def __init__(
        self, policy: Policy, *, upstream: Upstream | None = None, reread: Callable[[], Policy] | None = None
    ) -> None:
        self.policy = policy
        self._reread = reread
        self.store = open_store(policy.state.url, synchronous=policy.state.synchronous)
        self.streams = Streams(
            policy.guard(), self.store, capacity=policy.state.clients_in_memory, when_down=policy.failure.state
        )
        self._upstream = upstream
        self._log = _query_log(policy)
        self.webhook = Webhook(policy.alarms, self.store) if policy.alarms else None
        self.gate = Gate(
            policy, self.streams, upstream or _upstream(policy), querylog=self._log, on_alarm=self._alarmed
        )
        self.gate.metrics.gauges |= {
            "clients_in_memory": lambda: float(len(self.streams.open)),
            "requests_in_flight": lambda: float(self.gate.in_flight),
            "log_lines_dropped": lambda: float(self.gate.querylog.dropped),
            "state_failures": lambda: float(self.streams.failures),
            "state_bytes": lambda: float(self.store.size()),
            "suspicion_highest": lambda: max(
                (s.curve[-1][1] for s in self.streams.open.values() if s.curve), default=-1.0
            ),
        }
        self.admin = admin_app(self.gate, self.store)
        self._sockets = [bound(policy.listen.host, policy.listen.port), bound(policy.admin.host, policy.admin.port)]
        self.url, self.admin_url = map(address, self._sockets)
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self.started = asyncio.Event()

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
        if self._upstream is None and policy.upstream != self.policy.upstream:
            new, old = _upstream(policy), self.gate.upstream
            asyncio.get_running_loop().create_task(_close_later(old, policy.limits.drain_s))
            self.gate.upstream = new
        self.streams.fold.use(guard)
        self.streams.when_down = policy.failure.state
        self.streams.cache.capacity = policy.state.clients_in_memory
        self.policy = policy
        self.gate.use(policy)

    async def __call__(self) -> None:
        """Serve until `stop`; then drain, write everything down and return."""
        try:
            await self.store.ping()
        except Down as error:
            log.warning("%s", error)
        limits = self.policy.limits
        connections = ServerConnections(self.gate, lambda: self.policy.limits)
        front = await asyncio.get_running_loop().create_server(connections, sock=self._sockets[0], backlog=BACKLOG)
        back = _Uvicorn(_config(self.admin))
        tasks = [asyncio.create_task(back.serve(sockets=[self._sockets[1]]))]
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
        if self.webhook:
            await self.webhook.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.streams.close()
        await asyncio.to_thread(self.gate.reading.close)
        await self.gate.upstream.close()
        await asyncio.to_thread(self.gate.querylog.close)
        await self.store.close()

    def _alarmed(self, alarm: Any) -> None:
        if self.webhook:
            self.webhook.wake()


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the process's business


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, date_header=False, lifespan="off", ws="none",
        http=AdminConnection, timeout_keep_alive=30, timeout_graceful_shutdown=5, proxy_headers=False,
    )  # fmt: skip


def _upstream(policy: Policy) -> HttpUpstream:
    if policy.upstream is None:
        raise PortcullisError("The policy must name an [upstream], or be given one with --upstream.")
    up = policy.upstream
    wire = PROTOCOLS.load(up.protocol)()
    own = credentials(up.token_file, up.token_header)
    tls = trusted(up.ca_file, up.cert_file, up.key_file) if up.url.startswith("https://") else None
    return HttpUpstream(
        up.url, wire, policy.asked, timeout_s=up.timeout_s, connections=up.connections, own=own, tls=tls
    )


def _query_log(policy: Policy) -> QueryLogFile | None:
    if policy.log is None:
        return None
    q = policy.log
    return QueryLogFile(q.path, queries=q.queries, format=q.format, days=q.days, file_bytes=q.file_bytes)


async def _close_later(upstream: Upstream, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await upstream.close()


class JsonLines(logging.Formatter):
    """One JSON object a line, with whatever `extra` a record carries."""

    _plain = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        extra = {k: v for k, v in vars(record).items() if k not in self._plain}
        tree = {"at": record.created, "level": record.levelname.lower(), "message": record.getMessage(), **extra}
        if record.exc_info:
            tree["error"] = self.formatException(record.exc_info)
        return json.dumps(tree, default=str)


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
