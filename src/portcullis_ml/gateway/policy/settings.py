"""The policy's tables as frozen data, one class for each; `policy` reads them from TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from portcullis_ml.core.settings import check
from portcullis_ml.gateway.policy.names import (
    HEADER,
    MODEL_NAME,
    SEGMENT,
    is_header,
    is_model_name,
    is_segment,
    is_tensor,
)
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.unspoken import spoken
from portcullis_ml.gateway.protocols.wire import DTYPES

__all__ = ["Admin", "Alarms", "Cors", "Failure", "Limits", "Listen", "QueryLog", "State", "Telemetry", "UpstreamTable"]


def _positive(v: float) -> bool:
    return not isinstance(v, bool) and v > 0


HTTP, GRPC = ("http", "https"), ("grpc://", "grpcs://")


def _plain_address(v: str) -> bool:
    """Whether it is an address of gRPC, which has neither a path nor a name and password."""
    return v.startswith(GRPC) and _url(v, ("grpc", "grpcs")) and "/" not in v.partition("://")[2] and "@" not in v


def _url(v: str, schemes: tuple[str, ...] = HTTP) -> bool:
    try:
        parts = urlsplit(v)
        port = parts.port
    except ValueError:  # no port from 0 to 65535, or half an IPv6 address
        return False
    plain = v.isascii() and v.isprintable() and " " not in v and "?" not in v and "#" not in v
    return plain and parts.scheme in schemes and bool(parts.hostname) and port != 0


def _store(v: str) -> bool:
    if re.match(r"[a-z]+:", v):
        return re.match(r"sqlite:///|(redis|rediss|unix)://[^/]|unix:///.", v) is not None
    return v.strip() != ""  # a plain path


def _header(v: str) -> bool:
    return v.isascii() and v.replace("-", "").replace("_", "").isalnum()


def _line(v: str) -> bool:
    return v == "" or v.isprintable()


def _origin(v: str) -> bool:
    parts = urlsplit(v)
    return v == "*" or (
        parts.scheme in ("http", "https") and bool(parts.hostname) and v == f"{parts.scheme}://{parts.netloc}"
    )


@dataclass(frozen=True, kw_only=True)
class UpstreamTable:
    """The model server. Names of tensors default to the model's own."""

    url: str
    protocol: str = "v2"  # the dialect it understands
    model: str | None = None
    version: str = ""
    input: str | None = None
    inputs: str | None = None  # "tensor" or "columns": one tensor for a row, or one for each of its inputs
    scores: str | None = None
    label: str | None = None  # an output tensor with classes, where it has one
    explanation: str | None = None  # the one that explains its answers, where the model's own name for it differs
    answers: str = "scores"  # or "labels": what it gives
    datatype: str | None = None
    binary: bool = False  # it reads the binary tensor extension: Triton and KServe do, MLServer does not
    image: Mapping[str, Any] | None = None  # how it is sent pictures, where that differs from [model.image]
    timeout_s: float = 10.0
    connections: int = 100
    token_file: str | None = None  # what the server wants to see before it answers
    token_header: str = "authorization"  # where it looks; the token is sent as "Bearer ..." in this one, bare in others

    ca_file: str | None = None  # who must have signed the server's certificate; None leaves it to the system
    cert_file: str | None = None  # the gate's own certificate, for a server that wants to see one
    key_file: str | None = None  # its key, where it is not in the same file
    mapping: Mapping[str, Any] | None = None  # where that differs from [model.mapping], for the protocol mapping

    def __post_init__(self) -> None:
        secure = self.url.startswith(("https://", "grpcs://"))
        for name in ("ca_file", "cert_file", "key_file"):
            check(self, name, "given with an https:// or grpcs:// address only", lambda v: v is None or secure)
        check(self, "key_file", "given with a cert_file", lambda v: v is None or self.cert_file is not None)
        check(self, "model", MODEL_NAME, lambda v: v is None or is_model_name(v))
        check(self, "version", SEGMENT, lambda v: v == "" or is_segment(v))
        for name in ("input", "scores", "label", "explanation"):
            check(self, name, "the name of a tensor", lambda v: v is None or is_tensor(v))
        check(self, "label", "named otherwise than the scores", lambda v: v is None or v != self.scores)
        check(self, "token_header", HEADER, is_header)
        grpc = self.url.startswith(GRPC)
        check(self, "url", "http://host:port or grpc://host:port", lambda v: _url(v) or _plain_address(v))
        spoken("UpstreamTable.protocol", self.protocol)
        check(self, "protocol", '"grpc" with a grpc:// address', lambda v: (v == "grpc") == grpc)
        check(self, "inputs", '"tensor" or "columns"', lambda v: v in (None, "tensor", "columns"))
        check(self, "answers", '"scores" or "labels"', lambda v: v in ("scores", "labels"))
        check(self, "datatype", f"one of {', '.join(DTYPES)}", lambda v: v is None or v in DTYPES)
        check(self, "timeout_s", "a positive number of seconds", _positive)
        check(self, "connections", "a positive int", _positive)


@dataclass(frozen=True, kw_only=True)
class Cors:
    """Which pages in a browser may ask: cross-origin resource sharing."""

    origins: tuple[str, ...]  # of the pages, such as "https://app.example"; "*" is every page
    headers: tuple[str, ...] = ("content-type", "authorization", "x-api-key")  # that a page may send
    exposed: tuple[str, ...] = ("x-request-id", "retry-after", "x-ratelimit-remaining")  # that a page may read
    max_age_s: int = 600  # that a browser may remember this

    def __post_init__(self) -> None:
        check(
            self, "origins", 'a list of origins such as "https://app.example", or "*"', lambda v: all(map(_origin, v))
        )
        for name in ("headers", "exposed"):
            check(self, name, "a list of names of headers", lambda v: all(map(_header, v)))
        check(self, "max_age_s", "a number of seconds", lambda v: v >= 0)


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where clients come in."""

    host: str = "127.0.0.1"
    port: int = 8000
    protocols: tuple[str, ...] = ("v2",)
    grpc_port: int | None = None  # where clients of the Open Inference Protocol come in by gRPC; None: nowhere
    cert_file: str | None = None  # the port speaks TLS with this certificate, which is read anew when it changes
    key_file: str | None = None  # its key, where it is not in the same file
    cors: Cors | None = None  # None: no page in a browser is told that it may ask

    def __post_init__(self) -> None:
        check(self, "key_file", "given with a cert_file", lambda v: v is None or self.cert_file is not None)
        check(self, "port", "an int in [0, 65535]", lambda v: isinstance(v, int) and 0 <= v <= 65_535)
        check(self, "grpc_port", "an int in [0, 65535]", lambda v: v is None or (type(v) is int and 0 <= v <= 65_535))
        check(self, "grpc_port", "another one than port", lambda v: v in (None, 0) or v != self.port)
        words = f"a list of some of {', '.join(p for p in PROTOCOLS if p != 'grpc')}"
        check(self, "protocols", words, lambda v: bool(v) and not isinstance(v, str))
        check(self, "protocols", "without grpc, which has a port of its own: grpc_port", lambda v: "grpc" not in v)
        for name in self.protocols:
            spoken("Listen.protocols", name)
        check(self, "protocols", "a list that names each once", lambda v: len(set(v)) == len(v))
        check(self, "host", "an address of this machine, such as 127.0.0.1", lambda v: v.strip() != "")

    @property
    def spoken(self) -> tuple[str, ...]:
        """The protocols on both ports."""
        return self.protocols if self.grpc_port is None else (*self.protocols, "grpc")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, one client and all of them together may take."""

    body_bytes: int = 4 << 20  # of one request; larger ones get 413
    rows: int = 1_024  # of one request
    in_flight: int = 256  # requests at once; beyond, 503 with Retry-After
    per_client: int = 64  # requests of one client at once; beyond, 429
    requests_per_minute: float = 60_000.0  # of one client, answered or not; beyond, 429 with Retry-After
    bytes_per_minute: float = float(1 << 30)  # of their bodies; beyond, the same. Ten seconds' worth may come at once
    buffer_bytes: int = 256 << 20  # of all bodies being read; beyond, 503
    connections: int = 2_048  # open at once; beyond, 503 with Retry-After
    head_bytes: int = 64 << 10  # of a request's address and headers; beyond, 431
    head_s: float = 10.0  # for them to arrive, twice that at worst; slower ones get 408
    body_s: float = 10.0  # for a body to arrive; slower ones get 408
    write_s: float = 10.0  # for a client to take what it is sent, twice that at worst; slower ones are cut off
    drain_s: float = 20.0  # for running requests to finish at shutdown

    def __post_init__(self) -> None:
        for name in (
            "body_bytes",
            "rows",
            "in_flight",
            "per_client",
            "requests_per_minute",
            "bytes_per_minute",
            "buffer_bytes",
            "connections",
            "head_bytes",
            "head_s",
            "body_s",
            "write_s",
            "drain_s",
        ):
            check(self, name, "a positive number", _positive)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What happens when a part fails: "closed" refuses the request, "open" serves it."""

    state: str = "closed"  # the journal cannot be written; "open" serves and writes it later
    guard: str = "closed"  # a stage raised an error; "labels" serves the class alone, "open" the whole answer
    log: str = "open"  # the query log cannot be written; "open" counts what was dropped

    def __post_init__(self) -> None:
        check(self, "state", '"closed" or "open"', lambda v: v in ("closed", "open"))
        check(self, "guard", '"closed", "labels" or "open"', lambda v: v in ("closed", "labels", "open"))
        check(self, "log", '"closed" or "open"', lambda v: v in ("closed", "open"))


@dataclass(frozen=True, kw_only=True)
class State:
    """Where the journal is, and how many clients stay in memory."""

    url: str = "sqlite:///portcullis-state.db"  # or redis://host:port/0 for several replicas
    synchronous: str = "normal"  # "full" survives a power cut, at the price of a disk flush per request
    clients_in_memory: int = 2_000

    def __post_init__(self) -> None:
        check(self, "url", "sqlite:///FILE or redis://HOST:PORT/0", _store)
        check(self, "synchronous", '"normal" or "full"', lambda v: v in ("normal", "full"))
        check(self, "clients_in_memory", "a positive int", _positive)


@dataclass(frozen=True, kw_only=True)
class QueryLog:
    """The query log: one line for each request."""

    path: str  # a folder
    queries: bool = False  # keep the rows and the model's answers too: needed by `portcullis replay`
    format: str = "jsonl"  # or "parquet"
    days: float | None = 30.0  # files older than this are deleted; None keeps them
    file_bytes: int = 64 << 20  # a new file is begun beyond this

    def __post_init__(self) -> None:
        check(self, "path", "a folder", lambda v: v.strip() != "")
        check(self, "format", '"jsonl" or "parquet"', lambda v: v in ("jsonl", "parquet"))
        check(self, "days", "a positive number of days", lambda v: v is None or v > 0)
        check(self, "file_bytes", "a positive int", _positive)


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """Where alarms are told, and to whom somebody turns who was stopped by mistake."""

    webhook: str | None = None
    secret_file: str | None = None  # the key that signs what is sent
    retry_s: float = 5.0  # between attempts at first; it doubles up to ten minutes
    contact: str = ""  # whom to write to, such as an address; operators see it with every alarm
    tell_clients: bool = False  # a refusal that is no quota's says the contact too

    def __post_init__(self) -> None:
        check(self, "webhook", "http://host/path", lambda v: v is None or _url(v))
        check(self, "secret_file", "given with webhook", lambda v: (v is None) == (self.webhook is None))
        check(self, "contact", "one line of at most 200 printable characters", lambda v: len(v) <= 200 and _line(v))
        check(self, "tell_clients", "given with a contact", lambda v: not v or self.contact.strip() != "")
        check(self, "retry_s", "a positive number of seconds", _positive)


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Where spans and metrics are sent by OpenTelemetry's protocol."""

    endpoint: str  # of a collector that speaks OTLP over HTTP
    service: str = "portcullis"  # what the collector knows the gate by
    spans: float = 0.01  # the share of requests that become spans
    every_s: float = 60.0  # between two reports of the metrics

    def __post_init__(self) -> None:
        check(self, "endpoint", "http://host:port", _url)
        check(self, "service", "a name", lambda v: v.strip() != "")
        check(self, "spans", "a share from 0 to 1", lambda v: type(v) in (int, float) and 0 <= v <= 1)
        check(self, "every_s", "a positive number of seconds", _positive)


@dataclass(frozen=True, kw_only=True)
class Admin:
    """The operators' own port: dashboard, metrics, readiness."""

    host: str = "127.0.0.1"
    port: int = 8001
    https: bool = False  # operators come by https, through a proxy before this port: their cookies travel no other way
    tokens: tuple[tuple[str, str], ...] = ()  # (operator, SHA-256 of the token)
    cert_file: str | None = None  # as in [listen]
    key_file: str | None = None

    def __post_init__(self) -> None:
        check(self, "key_file", "given with a cert_file", lambda v: v is None or self.cert_file is not None)
        check(self, "port", "an int in [0, 65535]", lambda v: isinstance(v, int) and 0 <= v <= 65_535)
