"""The model server behind the gate, asked over HTTP with connections kept open.

The client is the gate's own, because a client costs more than everything else in a gate.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from portcullis_ml.core.errors import InputError, Unreachable
from portcullis_ml.core.types import Answer, Array, Floats, Labels
from portcullis_ml.gateway.http.client import HttpClient
from portcullis_ml.gateway.http.client_connection import Found, Lost, Unreadable
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import ModelSpec, Wire

__all__ = ["HttpUpstream", "Upstream", "checked", "credentials", "trusted"]

NO_ROUTE = (404, 405, 501)
ANSWER_BYTES = 64 << 20
FEW = 100  # numbers that plain Python looks through sooner than numpy


class Upstream(Protocol):
    """Whatever answers rows: a server over HTTP, or a model in this process."""

    def ask(self, x: Floats, headers: Mapping[str, str]) -> Coroutine[Any, Any, Answer]:
        """The undefended answer. Raises Unreachable (its `status` is what the client gets) or BadRequest.

        It is not called from within a task: a client that needs one (httpx and aiohttp do) must be given it."""

    async def ready(self) -> bool: ...

    async def close(self) -> None: ...


class HttpUpstream:
    """A model server, in its own dialect."""

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
    ) -> None:
        self._client = HttpClient(
            url, timeout_s=timeout_s, connections=connections, limit=ANSWER_BYTES, own=own, tls=tls
        )
        self._wire = wire
        self._asked = asked

    async def ask(self, x: Floats, headers: Mapping[str, str]) -> Answer:
        ask = self._wire.ask(self._asked, x)
        try:
            came = await self._sent("POST", ask.path, {**headers, **ask.headers}, ask.body)
        except (Lost, Unreadable, TimeoutError) as error:
            raise _unreachable(error) from error
        return self._understood(len(x), came)

    async def _sent(self, *question: Any, **limits: Any) -> Found:
        try:
            return await self._client.ask(*question, **limits)
        except Lost as lost:
            if not lost.stale:
                raise
            return await self._client.ask(*question, **limits)

    def _understood(self, n: int, came: Found) -> Answer:
        status, found, body = came
        if status in (429, 503):
            raise Unreachable("The model server is busy.", status=503)
        if 400 <= status < 500 and status not in (401, 403, 404, 405, 407):
            raise BadRequest("The model does not take this input.")
        if status != 200:
            raise Unreachable("The model server answered with an error.", status=502)
        return checked(self._wire.understand(self._asked, n, found, body), n, self._asked)

    async def ready(self) -> bool:
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


def _unreachable(error: Exception) -> Unreachable:
    if isinstance(error, Lost):
        return Unreachable("The model server cannot be reached.", status=502)
    if isinstance(error, TimeoutError):
        return Unreachable("The model server did not answer in time.", status=504)
    return Unreachable("The model server's answer cannot be read.", status=502)


def credentials(path: str | None, header: str) -> dict[str, str]:
    """The header that shows the gate to the model server, read from a file, so that no policy holds a secret."""
    if path is None:
        return {}
    try:
        token = Path(path).read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise InputError(
            f"The model server's token is expected in {path!r}, as one line of ASCII; it cannot be read. "
            "See upstream.token_file in the policy."
        ) from error
    if not token or not token.isprintable():
        raise InputError(f"The model server's token must be one line of printable text; {path!r} holds something else.")
    return {header.lower(): f"Bearer {token}" if header.lower() == "authorization" else token}


def trusted(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """TLS towards the model server: its certificate must be signed by this authority (by one that the system knows, if
    none is given), and the gate shows its own if it has one."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            context.load_cert_chain(cert_file, key_file)
    except (OSError, ValueError) as error:
        names = ", ".join(repr(f) for f in (ca_file, cert_file, key_file) if f)
        raise InputError(
            f"Certificates and keys towards the model server are expected as PEM files; {names} cannot be read "
            f"({error}). See upstream.ca_file, cert_file and key_file in the policy."
        ) from error
    return context


def checked(answer: Answer, n: int, asked: ModelSpec) -> Answer:
    """The upstream's answer if it is finite and complete; Unreachable (502) if not."""
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
