"""The port of gRPC: each call becomes a request to the gate, in whose flow it is judged like one over HTTP.

Of its service's methods six are here; whatever else a client calls is UNIMPLEMENTED and goes nowhere. What the library
holds before the gate sees a call is bounded by its options (`_options`), and by the bodies that are read at one time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from portcullis_ml.core.errors import PortcullisError
from portcullis_ml.gateway.grpc.certificate import GrpcCertificate
from portcullis_ml.gateway.grpc.status import code_of
from portcullis_ml.gateway.http.handler import Handler
from portcullis_ml.gateway.http.messages import Rejected, Request
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.policy.settings import Limits, Listen
from portcullis_ml.gateway.protocols.grpc_fields import model_in
from portcullis_ml.gateway.protocols.grpc_messages import CLASSES, HEALTH, METHODS, SERVICE
from portcullis_ml.gateway.protocols.grpc_v2 import CALL, KIND, NO_MODEL, path_of
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import REMAINING, Reply

__all__ = ["GrpcPort", "open_port"]

log = logging.getLogger("portcullis.gate")

SHOWN = ("x-request-id", "retry-after", REMAINING)  # headers of a reply that a call's end carries
NOT_READY = {
    "ServerReady": b"",
    "ModelReady": b"",
    "Check": CLASSES["HealthCheckResponse"](status=2).SerializeToString(),
}
OURS = ("content-length", "content-encoding", "transfer-encoding")  # of HTTP; what a client says of them means nothing


def open_port(listen: Listen, limits: Limits, gate: Handler[Any], policy: Callable[[], Policy]) -> GrpcPort:
    """The port of a policy. Raises PortcullisError where the address cannot be used."""
    certificate = None if listen.cert_file is None else GrpcCertificate(listen.cert_file, listen.key_file)
    return GrpcPort(listen.host, listen.grpc_port or 0, limits, gate, policy, certificate)


class GrpcPort(grpc.GenericRpcHandler):  # type: ignore[misc]  # the library has no types
    """Has its address at once, and serves from `start` on. `policy` is asked anew each time; where there are several
    models, it is the main one, whose clients are everybody's."""

    def __init__(
        self, host: str, port: int, limits: Limits, gate: Handler[Any], policy: Callable[[], Policy],
        certificate: GrpcCertificate | None = None,
    ) -> None:  # fmt: skip
        self._gate, self._policy, self.certificate = gate, policy, certificate
        self._places = Places(limits)
        self._server = grpc.aio.server(
            handlers=(self,), options=_options(limits), maximum_concurrent_rpcs=limits.connections
        )
        host = f"[{host}]" if ":" in host else host
        try:
            place = f"{host}:{port}"
            bound = (self._server.add_insecure_port(place) if certificate is None
                     else self._server.add_secure_port(place, certificate.credentials))  # fmt: skip
        except RuntimeError as error:
            raise PortcullisError(f"{place} cannot be used for gRPC. Choose another grpc_port.") from error
        self.address = f"{host}:{bound}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and cut off those that run longer than so many seconds."""
        await self._server.stop(seconds)

    def service(self, details: Any) -> Any:
        """Who answers a call; None if nobody does."""
        service, _, method = details.method[1:].partition("/")
        if (service, method) != (HEALTH, "Check") and (service != SERVICE or method not in METHODS):
            return None

        async def call(stream: Any, context: Any) -> bytes:
            return await self._call(method, context)

        # As a stream of one message, of which nothing is read before it is known who sends it.
        return grpc.stream_unary_rpc_method_handler(call)

    async def _call(self, method: str, context: Any) -> bytes:
        """The answer's message, or the end of the call with a code and a sentence."""
        try:
            reply, id = await self._asked(method, _head(method, context), context)
        except Exception as error:
            log.error("a call failed", exc_info=error)
            reply, id = Reply(b"The gate failed on this call.", 500, (KIND,)), ""
        if reply.status == 503 and method in NOT_READY:
            return bytes(NOT_READY[method])
        more = tuple((k, v) for k, v in (("x-request-id", id), *reply.headers) if k in SHOWN and v)
        if reply.status != 200:
            # What leads to no model is told of by the first protocol of the policy, in that one's way.
            sentence = reply.body.decode() if KIND in reply.headers else NO_MODEL
            await context.abort(code_of(reply.status), sentence, more)
        context.set_trailing_metadata(more)
        return reply.body

    async def _asked(self, method: str, request: Request, context: Any) -> tuple[Reply, str]:
        """The gate's reply, and the request's id."""
        body, failure = b"", None
        try:
            body = await self._body(request, context)
            request.path = path_of(method, *(_named(method, body) if method.startswith("Model") else ()))
            request.headers["content-length"] = str(len(body))
        except (BadRequest, Rejected) as error:
            failure = error
        return await self._answered(request, _peer(context), body, failure)

    async def _answered(
        self, request: Request, peer: str | None, body: bytes, failure: Exception | None
    ) -> tuple[Reply, str]:
        """What the gate replies. It goes on where the client does not wait for it, as it does over HTTP: what the model
        was asked is counted."""
        done: asyncio.Future[tuple[Reply, str]] = asyncio.get_running_loop().create_future()
        exchange = self._gate.enter(request, peer, lambda *reply: None if done.done() else done.set_result(reply))
        if exchange is not None and failure is not None:
            self._gate.give_up(exchange, failure)
        elif exchange is not None:
            self._gate.go_on(exchange, body)
        return await done

    # Bodies.

    async def _body(self, request: Request, context: Any) -> bytes:
        """The call's message. Raises BadRequest, or Rejected where too many are being read."""
        policy, peer = self._policy(), _peer(context)
        limits, who = policy.limits, f"(address {peer})"
        if request.path == path_of("ModelInfer"):  # the gate asks again, and counts
            head = (request.headers, request.twice, peer)
            who = policy.clients.owner(policy.clients.identify(*head, time.time()), *head).principal
        placed = False
        try:
            async with asyncio.timeout(limits.body_s), self._places.held(who):
                placed = True
                body = await context.read()
        except TimeoutError:
            if not placed:
                raise Rejected("busy", 503, "The gate is busy.", 1.0) from None
            raise BadRequest(f"The message of a call took longer than {limits.body_s:g} seconds.", 408) from None
        if body is grpc.aio.EOF:
            raise BadRequest("A call must have one message.")
        if len(body) > limits.body_bytes:
            raise BadRequest(f"A message may be {limits.body_bytes} bytes long.", 413)
        return bytes(body)


class Places:
    """For bodies that are being read: as many as may be held in memory, half of them for one client. Who finds none
    waits."""

    def __init__(self, limits: Limits) -> None:
        most = max(2, limits.buffer_bytes // limits.body_bytes)
        self._each = max(1, min(limits.per_client, most // 2))
        self._all = asyncio.Semaphore(most)
        self._own: dict[str, asyncio.Semaphore] = {}
        self.users: Counter[str] = Counter()  # those who hold a place or wait for one

    @asynccontextmanager
    async def held(self, who: str) -> AsyncIterator[None]:
        own = self._own.setdefault(who, asyncio.Semaphore(self._each))
        self.users[who] += 1
        try:
            async with own, self._all:
                yield
        finally:
            self.users[who] -= 1
            if not self.users[who]:
                del self.users[who], self._own[who]


def _options(limits: Limits) -> Sequence[tuple[str, int]]:
    """What the library is told to bound."""
    return (
        ("grpc.so_reuseport", 0),  # a second gate on the same port is an error, and not half of the answers
        ("grpc.max_receive_message_length", limits.body_bytes),  # before and after it is decompressed
        ("grpc.max_metadata_size", limits.head_bytes),
        ("grpc.absolute_max_metadata_size", limits.head_bytes),
        ("grpc.max_concurrent_streams", limits.in_flight),  # calls on one connection
        ("grpc.server_handshake_timeout_ms", round(1_000 * limits.head_s)),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.keepalive_time_ms", 60_000),  # then it is asked whether the client is still there ...
        ("grpc.keepalive_timeout_ms", round(1_000 * limits.write_s)),  # ... and so long waited for what it says
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # clients that ask so more often, and
        ("grpc.http2.max_ping_strikes", 2),  # more often than this, lose their connection
    )


def _head(method: str, context: Any) -> Request:
    """A call's metadata as the head of a request. Binary values are for nobody."""
    headers: dict[str, str] = {}
    twice: set[str] = set()
    for name, value in context.invocation_metadata():
        if isinstance(value, str) and name not in OURS:
            if name in headers:
                twice.add(name)
            headers[name] = value.encode("utf-8", "surrogateescape").decode("latin-1")  # byte by byte, as over HTTP
    return Request(CALL, path_of(method), headers, twice)


def _named(method: str, body: bytes) -> tuple[str, str]:
    """The model's name and version. A question in which they cannot be found is refused where it is read."""
    try:
        return model_in(body)
    except BadRequest:
        if method == "ModelInfer":
            return "", ""
        raise


def _peer(context: Any) -> str | None:
    """The address of "ipv4:127.0.0.1:5000" or "ipv6:%5B::1%5D:5000"."""
    kind, _, rest = unquote(context.peer()).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None
