"""An oracle over HTTP: the audit's attacks against any endpoint that its user may test.

Own victims only: an address outside this machine is asked only when `authorized_by` says who allowed
it, and the statement travels with the results. An answer that came is never paid for twice: when a
batch is cut into several requests and one of them fails, the rows answered before are kept and the
next attempt begins behind them.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import orjson

from portcullis_ml.core.errors import InputError, ParameterError, Refused, Unreachable
from portcullis_ml.core.oracle import Ledger, MeteredOracle
from portcullis_ml.core.types import Answer, Array, Feature, Interface
from portcullis_ml.gateway.policy.clients import loopback
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.mapping_table import suits, table_of
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.texts import TextInput
from portcullis_ml.gateway.protocols.wire import NOTHING, REMAINING, Carried, ModelSpec, Wire
from portcullis_ml.gateway.spoken import spoken
from portcullis_ml.gateway.work import HEADER as WORK
from portcullis_ml.gateway.work import solved, work_in
from portcullis_ml.models.texts import TextInterface

__all__ = ["HttpOracle"]

SURROGATE = re.compile("[\ud800-\udfff]")
REFUSAL = "The guard refused this client: "


class HttpOracle(MeteredOracle):
    """A prediction API at a URL.

    protocol       how it is spoken to: v2, v1, invocations, or a FILE.toml that describes a home-made API (`spoken`)
    authorized_by  who allowed this test, in writing; needed for any address but this machine's own
    model          its name there, and the names of its tensors, as `served` settings
    interface      of an API of texts a `TextInterface`, whose texts are sent in the place of rows
    per_second     rows asked a second at most; None asks as fast as answers come
    work_bits      the most that a proof of work may ask for; the gate has refused where it asks for more
    attempts       how often one request is tried; the waits between double from `backoff_s`
    """

    schemes: ClassVar[tuple[str, ...]] = ("http", "https")

    def __init__(
        self,
        url: str,
        *,
        interface: Interface,
        budget: int,
        protocol: str = "v2",
        authorized_by: str | None = None,
        model: str = "model",
        served: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        ledger: Ledger | None = None,
        rows_per_request: int = 256,
        per_second: float | None = None,
        work_bits: int = 26,
        attempts: int = 5,
        backoff_s: float = 0.1,
        timeout_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(interface, budget=budget, ledger=ledger)
        parts = urlsplit(url)
        if parts.scheme not in self.schemes or not parts.hostname or parts.query or parts.username:
            raise ParameterError("HttpOracle.url", f"{self.schemes[0]}://host:port without a query", url)
        if not loopback(parts.hostname) and not (authorized_by or "").strip():
            raise ParameterError(
                "HttpOracle.authorized_by",
                "the name of whoever allowed this test, for an address outside this machine",
                authorized_by,
                "Test only what is yours or what you were asked to test.",
            )
        self.authorized_by = authorized_by
        self.url = url
        self._parts = parts
        protocol, options, features = spoken(protocol)
        if (protocol == "grpc") != ("grpc" in self.schemes):
            raise ParameterError(
                "HttpOracle.protocol", "grpc with an address grpc://host:port, and only there", protocol
            )
        self._wire: Wire = CATALOG.load(protocol)()
        if interface.explains and not self._wire.explains:
            raise ParameterError("HttpOracle.protocol", "one that has a place for explanations (v2, mapping)", protocol)
        text = isinstance(interface, TextInterface)
        if text and "texts" not in self._wire.carries:
            raise ParameterError("HttpOracle.protocol", "one that carries texts", protocol)
        names = {
            "text": TextInput() if text else None,
            "explanation": "explanation" if interface.explains else None,
            "options": options,
            **(served or {}),
        }
        self._served = _asked(
            self._wire, ModelSpec(name=model, interface=interface, max_rows=rows_per_request, **names), features
        )
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._per_second = per_second
        self._attempts, self._backoff_s, self._timeout_s, self._sleep = attempts, backoff_s, timeout_s, sleep
        self._work_bits = work_bits
        self.hashes = 0.0  # that proofs of work took
        self._connection: http.client.HTTPConnection | None = None
        self._kept: list[tuple[Array, Answer]] = []  # answers of a batch that failed half-way

    @property
    def statement(self) -> dict[str, Any]:
        """What goes into the results: the address, the protocol, and who allowed it."""
        own = loopback(self._parts.hostname or "")
        return {"url": self.url, "protocol": self._wire.name, "authorized_by": self.authorized_by, "loopback": own}

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _ask(self, x: Array) -> Answer:
        kept, self._kept = self._kept, []
        answers, done, ended = [], 0, None
        for rows, answer in kept:
            if not np.array_equal(rows, x[done : done + len(rows)], equal_nan=True):
                break
            answers.append(answer)
            done += len(rows)
        while done < len(x):
            part = x[done : done + self._served.max_rows]
            try:
                answer = self._one(part)
            except Refused as refusal:
                if 0 < (refusal.room or 0) < len(part):  # ask for less: a quota takes a request whole or not at all
                    x, ended = x[: done + (refusal.room or 0)], refusal
                    continue
                raise self._with_head(answers, refusal) from None
            except Unreachable as error:
                if error.status == 413 and len(part) > 1:
                    self._served = replace(self._served, max_rows=len(part) // 2)
                    continue
                self._kept = _pairs(x, answers)
                raise
            answered = answer.answered
            if not answered.all():
                first = int(answered.argmin())
                head = answer.take(slice(first)) if first else None
                raise self._with_head(answers, Refused("this client was blocked", answered=head))
            answers.append(answer)
            done += len(part)
        if ended:
            raise self._with_head(answers, ended)
        return Answer.concat(answers) if len(answers) != 1 else answers[0]

    def _with_head(self, answers: list[Answer], refusal: Refused) -> Refused:
        """The refusal, with every row of the batch that was answered before it."""
        heads = [*answers, *([refusal.answered] if refusal.answered is not None else [])]
        answered = Answer.concat(heads) if heads else None
        return Refused(refusal.reason, retry_after=refusal.retry_after, answered=answered, room=refusal.room)

    def _one(self, x: Array) -> Answer:
        """One request, tried until an answer comes; only what got no answer is sent again."""
        try:
            ask = self._wire.ask(self._served, x, self._carried(x))
        except BadRequest as error:
            raise InputError(f"{self.url} cannot be asked such a row. {error.sentence}") from error
        wait, work = self._backoff_s, dict[str, str]()
        for attempt in range(1, self._attempts + 1):
            if self._per_second:
                self._sleep(len(x) / self._per_second)
            try:
                status, headers, body = self._post(ask.path, ask.body, {**self._headers, **ask.headers, **work})
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if attempt == self._attempts:
                    raise Unreachable(f"{self.url} did not answer {attempt} times ({error}).") from error
            else:
                if status == 200:
                    return self._understood(len(x), headers, body)
                if status == 428:
                    work = self._worked(headers)
                    continue
                if status == 403 or (status == 429 and _is_refusal(body)):
                    raise Refused(_reason(body), retry_after=_seconds(headers), room=_room(headers))
                if status not in (429, 502, 503, 504) or attempt == self._attempts:
                    raise Unreachable(f"{self.url} answered {status}: {_sentence(body)[:200]}", status=status)
                wait = max(wait, _seconds(headers) or 0.0)
            self._sleep(wait)
            wait *= 2
        raise Unreachable(f"{self.url} did not answer.")  # attempts < 1

    def _worked(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The header that shows the work which a refusal sets; none where it says to ask anew."""
        if WORK not in headers:
            return {}
        if work_in(headers[WORK]) > self._work_bits:
            raise Refused("it must show work first")
        shown, hashes = solved(headers[WORK])
        self.hashes += hashes
        return {WORK: shown}

    def _carried(self, x: Array) -> Carried:
        """The texts that the rows stand for, where the API takes texts."""
        if not isinstance(self.interface, TextInterface):
            return NOTHING
        texts = tuple(self.interface.texts.of(x))
        if any(SURROGATE.search(text) for text in texts):
            raise InputError(
                "A text holds half of a surrogate pair, which has no UTF-8 and cannot be sent. Leave it out."
            )
        return Carried(texts=texts)

    def _understood(self, n: int, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer in a response of status 200. Unreachable, with that status, where it is not of this interface."""
        try:
            return self._wire.understand(self._served, n, headers, body)
        except Unreachable as error:
            raise Unreachable(str(error), status=200) from error

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        if self._connection is None:
            secure = self._parts.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            self._connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.request("POST", self._parts.path.rstrip("/") + path, body, dict(headers))
        response = self._connection.getresponse()
        found = {k.lower(): v for k, v in response.getheaders()}
        return response.status, found, response.read()


def _asked(wire: Wire, served: ModelSpec, features: tuple[Feature, ...]) -> ModelSpec:
    """The model as it is asked: by the names of its columns, where its description has them, and no more rows at once
    than a question holds. Raises InputError or ParameterError where its description does not suit it."""
    if features and served.interface.features is None:
        served = replace(served, interface=replace(served.interface, features=features))
    if wire.name == "mapping":
        suits(table_of(served), served.interface)
    return replace(served, max_rows=wire.most_rows(served))


def _pairs(x: Array, answers: list[Answer]) -> list[tuple[Array, Answer]]:
    pairs, at = [], 0
    for answer in answers:
        pairs.append((x[at : at + len(answer)].copy(), answer))
        at += len(answer)
    return pairs


def _sentence(body: bytes) -> str:
    try:
        tree = orjson.loads(body)
        return str(tree.get("error") or tree.get("message") or "")
    except (orjson.JSONDecodeError, AttributeError):
        return body[:200].decode("utf-8", "replace")


def _is_refusal(body: bytes) -> bool:
    return _sentence(body).startswith(REFUSAL)


def _reason(body: bytes) -> str:
    sentence = _sentence(body)
    return sentence.removeprefix(REFUSAL).rstrip(".") if sentence.startswith(REFUSAL) else sentence or "refused"


def _room(headers: Mapping[str, str]) -> int | None:
    left = headers.get(REMAINING, "")
    return int(left) if left.isascii() and left.isdigit() and len(left) <= 12 else None


def _seconds(headers: Mapping[str, str]) -> float | None:
    try:
        return float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
