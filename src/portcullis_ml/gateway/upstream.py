"""The model server behind the gate, asked over HTTP with connections kept open.

The client is the gate's own, because a client costs more than everything else in a gate.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np

from portcullis_ml.core.errors import PortcullisError, Unreachable
from portcullis_ml.core.types import Answer, Array, Floats, Labels
from portcullis_ml.gateway.credentials import credentials, trusted
from portcullis_ml.gateway.http.client import HttpClient
from portcullis_ml.gateway.http.client_protocol import Found, Lost, Unreadable
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.answers import spread
from portcullis_ml.gateway.protocols.number_lists import MANY
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import NOTHING, Ask, Carried, ModelSpec, Wire
from portcullis_ml.gateway.trouble import Trouble

__all__ = ["Beside", "HttpUpstream", "Upstream", "at_once", "checked", "open_upstream"]

T = TypeVar("T")

NO_ROUTE = (404, 405, 501)
ANSWER_BYTES = 64 << 20
FEW = 100  # numbers that plain Python looks through sooner than numpy
HINTS = {
    401: "It does not know the gate: see upstream.token_file in the policy.",
    403: "It does not let the gate in: see upstream.token_file in the policy.",
    404: "There is no such model or route: see upstream.url, protocol, model and version in the policy.",
    405: "It does not speak this protocol there: see upstream.url and protocol in the policy.",
    407: "A proxy stands before it and does not know the gate.",
}
REFUSED = (
    "It refuses a question that it should take, too: see [model] and upstream.input, scores and datatype in the policy."
)


class Beside(Protocol):
    """Runs some work beside the event loop, when it is its client's turn."""

    def __call__(self, work: Callable[[], T], /) -> Coroutine[Any, Any, T]: ...


async def at_once(work: Callable[[], T], /) -> T:
    """Here and now."""
    return work()


class Upstream(Protocol):
    """Whatever answers rows: a server over HTTP, or a model in this process."""

    def ask(self, x: Floats, headers: Mapping[str, str]) -> Coroutine[Any, Any, Answer]:
        """The undefended answer. Raises BadRequest, or Unreachable: the client gets its `status`, who runs the gate its
        sentence.

        It runs in a task of its own, as aiohttp, httpx and `asyncio.timeout` need it. An upstream that needs none sets
        `without_task = True`, and saves the time that a task takes. One that writes questions itself sets
        `writes = True` and is given the argument `beside`, with which it writes large ones. Where a question carries
        more than its rows, `carried` is given too."""

    async def ready(self) -> bool: ...

    async def close(self) -> None: ...


class HttpUpstream:
    """A model server, in its own dialect.

    client  asks it in place of an HttpClient, and needs a task
    """

    writes: ClassVar[bool] = True

    def __init__(
        self,
        url: str,
        wire: Wire,
        asked: ModelSpec,
        *,
        timeout_s: float = 10.0,
        connections: int = 100,
        own: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        client: Any = None,
    ) -> None:
        self.without_task = client is None
        self._client = client or HttpClient(
            url, timeout_s=timeout_s, connections=connections, limit=ANSWER_BYTES, own=own, tls=tls
        )
        self._wire = wire
        self._asked = asked
        self._where = f"The model server at {urlsplit(url).netloc.rpartition('@')[2]}"
        self._timeout_s = timeout_s
        self._plain: tuple[Floats, Carried] = asked.plain_question  # to try it with; later one that it has answered
        self._took = False  # whether it is one that it has answered
        self._doubtful = True  # whether the policy may not fit the model
        self._trouble = Trouble()  # of trying it

    async def ask(
        self, x: Floats, headers: Mapping[str, str], beside: Beside = at_once, carried: Carried = NOTHING
    ) -> Answer:
        write = partial(self._wire.ask, self._asked, x, carried)
        ask = write() if x.size <= MANY else await beside(write)
        came = await self._posted(ask, headers)
        if came[0] != 200:
            raise await self._why(ask, came)
        self._doubtful = True
        answer = self._understood(len(x), came)
        self._doubtful = False
        if not self._took:
            self._plain, self._took = (x[:1].copy(), _first(carried)), True
        return answer

    async def _why(self, ask: Ask, came: Found) -> Exception:
        """What an answer with another status than 200 means."""
        status = came[0]
        if status in (429, 503):
            return Unreachable(f"{self._where} is busy: it answered {status}.", status=503)
        if 400 <= status < 500 and status not in HINTS and await self._takes_the_plain_row():
            return BadRequest("The model does not take this input.")
        self._doubtful = True
        return self._refused(ask, came, HINTS.get(status, REFUSED if status < 500 else ""))

    async def _takes_the_plain_row(self) -> bool:
        """Whether the model answers a row that is nothing special. If it does, the policy fits it, and a row that it
        refuses it refuses for what is in it."""
        try:
            came = await self._posted(self._wire.ask(self._asked, *self._plain), {})
            return came[0] == 200 and len(self._understood(1, came)) == 1
        except Unreachable:
            return False

    async def _posted(self, ask: Ask, headers: Mapping[str, str]) -> Found:
        try:
            return await self._sent("POST", ask.path, {**headers, **ask.headers}, ask.body)
        except TimeoutError as error:
            raise Unreachable(f"{self._where} did not answer within {self._timeout_s:g} s.", status=504) from error
        except Lost as error:
            cause = error.__cause__
            why = f"cannot be reached: {cause}" if cause else "closed the connection before it had answered"
            raise Unreachable(f"{self._where} {why}.", status=502) from error
        except Unreadable as error:
            raise Unreachable(f"{self._where} answered what is not HTTP/1.1, or too long.", status=502) from error

    async def _sent(self, *question: Any, **limits: Any) -> Found:
        try:
            return await self._client.ask(*question, **limits)
        except Lost as lost:
            if not lost.stale:
                raise
            return await self._client.ask(*question, **limits)

    def _understood(self, n: int, came: Found) -> Answer:
        return checked(self._wire.understand(self._asked, n, came[1], came[2]), n, self._asked)

    def _refused(self, ask: Ask, came: Found, hint: str) -> Unreachable:
        """What the operator needs to know of an answer that is none, the first words of the server's own among it."""
        words = re.sub(r"\s+", " ", came[2][:400].decode("utf-8", "replace"))
        words = "".join(c for c in words if c.isprintable())[:200].strip()
        said = f"{self._where} answered {came[0]} to POST {ask.path}{f' ({words})' if words else ''}."
        return Unreachable(f"{said} {hint}".strip(), status=502)

    async def differences(self) -> list[str]:
        """In sentences, how what the server tells of its model differs from the policy; none where it tells nothing."""
        path = self._wire.about(self._asked)
        try:
            came = await self._client.ask("GET", path, {}) if path else (404, {}, b"")
            return self._wire.differences(self._asked, self._wire.described(came[2])) if came[0] == 200 else []
        except (Lost, Unreadable, TimeoutError, Unreachable):
            return []

    async def try_out(self) -> Answer:
        """The answer to one row that is nothing special; Unreachable says what is wrong."""
        row, carried = self._plain
        return await self.ask(row, {}, carried=carried)

    async def ready(self) -> bool:
        """Whether the server is up and, until it has answered a question, whether the policy fits its model."""
        if not await self._up():
            return False
        misfit = await self._misfit() if self._doubtful else ""
        if misfit:
            self._trouble.say(misfit)
        return not misfit

    async def _misfit(self) -> str:
        """Why the policy cannot fit the model, as its answer to one row shows; empty where it may. A model may have
        reasons of its own to refuse a row that it never answered, or to fail on it."""
        ask = self._wire.ask(self._asked, *self._plain)
        try:
            came = await self._posted(ask, {})
            if came[0] == 200:
                self._understood(1, came)
                self._doubtful = False
            elif came[0] in HINTS or (self._took and came[0] not in (429, 503)):
                return str(self._refused(ask, came, HINTS.get(came[0], "")))
        except Unreachable as error:
            return str(error)
        return ""

    async def _up(self) -> bool:
        """What the server says on the first of its protocol's health routes that it has; if it has none, whether it
        answers."""
        try:
            for path in self._wire.ready_paths(self._asked):
                status = (await self._sent("GET", path, {}, timeout_s=2.0))[0]
                if status not in NO_ROUTE:
                    return 200 <= status < 300
            return (await self._sent("GET", "/", {}, timeout_s=2.0))[0] < 500
        except (Lost, Unreadable, TimeoutError):
            return False

    async def close(self) -> None:
        await self._client.close()


def open_upstream(policy: Policy) -> HttpUpstream:
    """The model server that a policy names. Raises PortcullisError where it names none, or a file cannot be read."""
    if policy.upstream is None:
        raise PortcullisError("The policy must name an [upstream], or be given one with --upstream.")
    up = policy.upstream
    wire = PROTOCOLS.load(up.protocol)()
    own = credentials(up.token_file, up.token_header)
    files = (up.ca_file, up.cert_file, up.key_file)
    tls = trusted(*files) if up.url.startswith(("https://", "grpcs://")) else None
    about: dict[str, Any] = {"timeout_s": up.timeout_s, "connections": up.connections, "own": own}
    if up.protocol == "grpc":
        from portcullis_ml.gateway.grpc.client import GrpcClient, credentials_of

        secret = credentials_of(*files) if tls else None
        about["client"] = GrpcClient(up.url, limit=ANSWER_BYTES, credentials=secret, **about)
    return HttpUpstream(up.url, wire, policy.asked, **about, tls=tls)


def _first(carried: Carried) -> Carried:
    """What was carried beside the first row."""
    return carried if carried.texts is None else replace(carried, texts=carried.texts[:1])


def checked(answer: Answer, n: int, asked: ModelSpec) -> Answer:
    """The upstream's answer if it is finite and complete; Unreachable (502) if not."""
    answer = spread(answer, asked.interface)
    columns = asked.interface.n_classes
    whole = all(a is None or _finite(a) for a in (answer.scores, answer.explanation))
    if len(answer) != n or not whole or (asked.explanation and answer.explanation is None):
        raise Unreachable("The model server's answer is not finite or not complete.", status=502)
    if columns and answer.labels is not None and not _within(answer.labels, columns):
        raise Unreachable(f"The model server's classes must be 0 to {columns - 1}.", status=502)
    return answer


def _finite(scores: Array) -> bool:
    if scores.size <= FEW:
        return all(map(math.isfinite, scores.reshape(-1).tolist()))
    return bool(np.isfinite(scores).all())


def _within(labels: Labels, columns: int) -> bool:
    some = labels.tolist() if len(labels) <= FEW else (labels.min(), labels.max())
    return bool(min(some) >= 0 and max(some) < columns)
