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
from typing import TYPE_CHECKING, Any

import uvicorn

from portcullis_ml.core.errors import InputError, MissingExtra, PortcullisError
from portcullis_ml.core.guard import Guard
from portcullis_ml.gateway.admin.app import admin_app
from portcullis_ml.gateway.admin.connection import AdminConnection
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.http.ports import BACKLOG, address, bound
from portcullis_ml.gateway.http.server_connection import ServerConnections
from portcullis_ml.gateway.json_lines import JsonLines
from portcullis_ml.gateway.models import Models
from portcullis_ml.gateway.policy.certificates import Certificate
from portcullis_ml.gateway.policy.explain import stages
from portcullis_ml.gateway.policy.policy import Policy, read_policy
from portcullis_ml.gateway.policy.settings import Admin, Listen
from portcullis_ml.gateway.renewals import Renewals
from portcullis_ml.gateway.selftest import written_down
from portcullis_ml.gateway.served import ServedModel
from portcullis_ml.gateway.shared import Shared
from portcullis_ml.gateway.state.streams import Down
from portcullis_ml.gateway.upstream import Upstream

if TYPE_CHECKING:
    from portcullis_ml.gateway.grpc.port import GrpcPort

__all__ = ["Server", "run", "settle"]

log = logging.getLogger("portcullis.gate")
RENEW_S = 1.0  # between two looks at the files of certificates and keys
SWITCH_S = 0.0005  # that the event loop waits for Python's lock while another thread computes; five milliseconds else


class Server:
    """The gates of all models and all that belongs to them. Ports are bound at once, so that 0 can be asked for.

    upstream  instead of the model server that the main policy names
    reread    makes the policy anew on SIGHUP
    """

    def __init__(
        self, policy: Policy, *, upstream: Upstream | None = None, reread: Callable[[], Policy] | None = None
    ) -> None:
        self._reread = reread
        self._shared = Shared()
        self.models: list[ServedModel] = []  # the main policy's first
        with ExitStack() as undo:  # of what is open already where the rest cannot be
            self._sockets = []
            for place in (policy.listen, policy.admin):
                self._sockets.append(bound(place.host, place.port))
                undo.callback(self._sockets[-1].close)
            for one in (policy, *policy.models):
                given = upstream if one is policy else None
                self.models.append(ServedModel(one, self._shared, upstream=given, alone=not policy.models))
                undo.callback(self.models[-1].discard)
            self.gate = self.models[0].gate
            self.front: Gate | Models = Models([m.gate for m in self.models]) if policy.models else self.gate
            grpc = policy.listen.grpc_port is not None
            self.grpc = _grpc_port(policy, self.front, lambda: self.policy) if grpc else None
            undo.pop_all()
        self.store, self.streams = self.models[0].store, self.models[0].streams
        self.admin = admin_app(self.front, [(m.gate, m.store) for m in self.models])
        self._tls = [_certificate(policy.listen), _certificate(policy.admin)]
        renewed = [*self._tls, self.grpc and self.grpc.certificate]
        self._renewals = Renewals(self.front, [c for c in renewed if c])
        self.url, self.admin_url = (
            address(s, tls is not None) for s, tls in zip(self._sockets, self._tls, strict=True)
        )
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self.started = asyncio.Event()

    @property
    def policy(self) -> Policy:
        """The main policy, under which the next request is answered."""
        return self.gate.policy

    def stop(self) -> None:
        self._stop.set()

    def reload(self) -> None:
        """Exchange the policies between two requests, once they and their artifacts are read; a mistake in one changes
        nothing in any."""
        if self._reread is not None:
            task = asyncio.get_running_loop().create_task(self._reload(self._reread))
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

    async def _reload(self, reread: Callable[[], Policy]) -> None:
        def read() -> tuple[Policy, list[Guard]]:
            policy = reread()
            return policy, [one.guard() for one in (policy, *policy.models)]

        async with self._reloading:  # so that the latest one is the last
            try:
                policy, guards = await asyncio.to_thread(read)
                self.exchange(policy, *guards)
            except Exception as error:
                unforeseen = None if isinstance(error, PortcullisError) else error
                log.error("the policy was not exchanged: %s", error, exc_info=unforeseen)
                return
        log.info("the policy was exchanged", extra={"policy": policy.digest})
        for one, guard in zip((policy, *policy.models), guards, strict=True):
            await asyncio.to_thread(written_down, one)
            await asyncio.to_thread(warm, guard)  # until then numpy finds the same

    def exchange(self, policy: Policy, *guards: Guard) -> None:
        """Run under this policy and the guards of its models. Addresses, the list of models and the states' places stay
        what they were."""
        if [one.path for one in policy.models] != [one.path for one in self.policy.models]:
            raise InputError("The list of models is read at the start only; start the gate again to change it.")
        policies = (policy, *policy.models)
        upstreams = [model.another(one) for model, one in zip(self.models, policies, strict=True)]
        for model, one, guard, upstream in zip(self.models, policies, guards, upstreams, strict=True):
            model.exchange(one, guard, upstream)

    async def __call__(self) -> None:
        """Serve until `stop`; then drain, write everything down and return."""
        for model in self.models:
            try:
                await model.store.ping()
            except Down as error:
                log.warning("%s", error)
        limits = self.policy.limits
        connections = ServerConnections(self.front, lambda: self.policy.limits)
        tls = self._tls[0]
        front = await asyncio.get_running_loop().create_server(
            connections, sock=self._sockets[0], backlog=BACKLOG, ssl=tls.context if tls else None,
            ssl_handshake_timeout=limits.head_s if tls else None,
        )  # fmt: skip
        if self.grpc:
            await self.grpc.start()
        back = _Uvicorn(_config(self.admin, self._tls[1]))
        tasks = [asyncio.create_task(back.serve(sockets=[self._sockets[1]]))]
        beside = [self._renewals.run(RENEW_S), *(model.linker.run() for model in self.models)]
        watching = [asyncio.create_task(what) for what in beside]
        webhooks = [model.webhook for model in self.models if model.webhook]
        tasks += [asyncio.create_task(webhook.run()) for webhook in webhooks]
        while not back.started and not any(t.done() for t in tasks):
            await asyncio.sleep(0.005)
        self.started.set()
        await self._stop.wait()
        if not await self.front.drained(limits.drain_s):
            log.warning("some requests did not end in time")
        self.admin.state.stop.set()
        front.close()
        connections.close()
        if self.grpc:
            await self.grpc.stop(0.0)  # what is still running has had its time
        back.should_exit = True
        for task in watching:
            task.cancel()
        for webhook in webhooks:
            await webhook.stop()
        await asyncio.gather(*watching, *tasks, return_exceptions=True)
        await asyncio.gather(*(model.streams.close() for model in self.models))
        await asyncio.to_thread(self._shared.reading.close)
        await asyncio.gather(*(model.close() for model in self.models))


def _grpc_port(policy: Policy, gate: Gate | Models, asked: Callable[[], Policy]) -> GrpcPort:
    """The port of gRPC, whose library nobody needs who has none."""
    from portcullis_ml.gateway.grpc.port import open_port

    return open_port(policy.listen, policy.limits, gate, asked)


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
        for one in (policy, *policy.models):
            say("loading", f"the guard{f' of {one.served.id}' if policy.models else ''}: {stages(one)}")
        server = Server(policy, reread=reread)
        loop = asyncio.get_running_loop()
        for word in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(word, server.stop)
        loop.add_signal_handler(signal.SIGHUP, server.reload)
        guards = [model.streams.fold.guard for model in server.models]
        if any(guard.detectors() for guard in guards):
            say("compiling", "the detectors' search: some 15 seconds the first time, one at each later start")
        settle(*guards)  # before a request could wait for it
        for one in (policy, *policy.models):
            await asyncio.to_thread(written_down, one)
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


def settle(*guards: Guard) -> None:
    """Warm up. What is there then lives as long as the process: the garbage collector need not look at all of it again,
    for which it would stop every request."""
    for guard in guards:
        warm(guard)
    gc.collect()
    gc.freeze()


def _loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ModuleNotFoundError as error:
        raise MissingExtra("portcullis serve", "uvloop", "gateway") from error
    return uvloop.new_event_loop
