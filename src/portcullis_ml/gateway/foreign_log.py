"""Logs that other gateways wrote, as lines of a query log: what a guard would have said of last month's traffic.

Two forms are read, one JSON object a line:
    nginx     an access log by `log_format ... escape=json` that holds $request_body, and the answer in a variable
    litellm   LiteLLM's standard payload of pass-through calls, beside `passthrough_logging_payload`
The bodies are read by the policy's own protocols, so whatever its gate would refuse is left out here, and counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from portcullis_ml.core.errors import InputError, ParameterError, Unreachable
from portcullis_ml.gateway.policy.clients import ANONYMOUS, good_name
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import ModelSpec, Wire
from portcullis_ml.gateway.querylog import Line
from portcullis_ml.gateway.upstream import checked

__all__ = ["FIELDS", "ForeignLog", "Form", "form_of", "read_foreign", "seconds_of"]

JSON = {"content-type": "application/json"}
# What a field may be called, the first that a line has; a dot leads into an object.
FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "nginx": {
        "client": ("client", "remote_user"),
        "time": ("msec", "time_iso8601", "@timestamp", "time"),
        "seconds": ("request_time",),
        "method": ("request_method", "method"),
        "path": ("request_uri", "uri", "path"),
        "status": ("status",),
        "request": ("request_body",),
        "answer": ("response_body", "resp_body"),
        "id": ("request_id",),
    },
    "litellm": {
        "client": (
            "standard_logging_object.metadata.user_api_key_alias",
            "standard_logging_object.metadata.user_api_key_user_id",
            "standard_logging_object.metadata.user_api_key_hash",
        ),
        "time": ("standard_logging_object.startTime",),
        "seconds": ("standard_logging_object.response_time",),
        "method": ("passthrough_logging_payload.request_method",),
        "path": ("passthrough_logging_payload.url",),
        "status": ("standard_logging_object.status",),
        "request": ("passthrough_logging_payload.request_body",),
        "answer": ("passthrough_logging_payload.response_body",),
        "id": ("standard_logging_object.id",),
    },
}
NEEDED = ("time", "path", "request", "answer")
SUCCESS = ("200", "success")  # nginx has a number, LiteLLM a word
AT_END = ("nginx",)  # whose line is written, and timed, when the answer has gone


@dataclass(frozen=True)
class Form:
    """A log's form: its kind, and what its fields are called."""

    kind: str
    fields: Mapping[str, tuple[str, ...]]


class _Entry(NamedTuple):
    """One request as the other gateway saw it."""

    id: str
    client: str
    at: float  # when it came in
    seconds: float
    wire: Wire
    spec: ModelSpec
    request: bytes
    answer: bytes


@dataclass
class ForeignLog:
    """What was read of a log."""

    lines: list[Line] = field(default_factory=list)  # in the order of their times
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> lines

    def said(self) -> str:
        """In a sentence, what was left out."""
        reasons = ", ".join(f"{n} {why}" for why, n in self.left_out.most_common())
        return f"{len(self.lines)} requests were read" + (f"; left out: {reasons}." if reasons else ".")


def form_of(kind: str, named: Mapping[str, str]) -> Form:
    """The form of a log of this kind, some of whose fields the user has named."""
    if kind not in FIELDS:
        raise ParameterError("from", f"one of {', '.join(FIELDS)}", kind)
    if strange := sorted(set(named) - set(FIELDS[kind])):
        raise ParameterError("field", f"one of {', '.join(FIELDS[kind])}, as in client=http_x_account", strange[0])
    return Form(kind, {**FIELDS[kind], **{key: (name,) for key, name in named.items()}})


def read_foreign(path: str | Path, policy: Policy, form: Form) -> ForeignLog:
    """The answered requests to the policy's model in a log. InputError where it holds none, or is no such log."""
    found = ForeignLog()
    held = [(entry, *both) for entry in _entries(Path(path), policy, form, found) if (both := _read(entry, found))]
    if not held:
        raise InputError(
            f"{path} holds no answered request that this policy's model takes. {found.said()} "
            "Name the fields of your log with --field, such as --field answer=response_body."
        )
    moments = [(entry.at + late * entry.seconds, late, i) for late in (0, 1) for i, (entry, *_) in enumerate(held)]
    order = {moment[1:]: place for place, moment in enumerate(sorted(moments), 1)}
    for i, (entry, x, clean) in enumerate(held):
        line = Line(entry.at, entry.id, entry.client, "answered", 200, rows=len(x), x=x, clean=clean, run="foreign")
        line.admitted, line.released, line.seconds = order[0, i], order[1, i], entry.seconds
        found.lines.append(line)
    found.lines.sort(key=lambda line: line.admitted)
    return found


def _entries(path: Path, policy: Policy, form: Form, found: ForeignLog) -> Iterator[_Entry]:
    routes = _routes(policy)
    try:
        with path.open("rb") as lines:
            for number, text in enumerate(lines, 1):
                entry = _entry(f"{path}, line {number}", text, routes, form, found) if text.strip() else None
                if entry is not None:
                    yield entry
    except OSError as error:
        raise InputError(f"A log was expected at {str(path)!r}; it cannot be read ({error.strerror}).") from error


def _routes(policy: Policy) -> list[tuple[Wire, ModelSpec]]:
    """The protocols in which a logged request may be written: the model server's, then those of the gate's clients."""
    own = [] if policy.upstream is None else [(PROTOCOLS.load(policy.upstream.protocol)(), policy.asked)]
    return [*own, *((wire, policy.served) for wire in policy.wires())]


def _entry(
    where: str, text: bytes, routes: list[tuple[Wire, ModelSpec]], form: Form, found: ForeignLog
) -> _Entry | None:
    try:
        tree = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InputError(f"{where}: one JSON object was expected; got {text[:40]!r}.") from None
    values = {
        key: next((v for n in names if (v := _at(tree, n)) is not None), None) for key, names in form.fields.items()
    }
    method, path = str(values["method"] or "POST").upper(), urlsplit(str(values["path"] or "")).path
    spoken = next(((wire, spec) for wire, spec in routes if wire.route(method, path, spec) == "infer"), None)
    if spoken is None:
        found.left_out["of other routes"] += 1
        return None
    if values["status"] is not None and str(values["status"]) not in SUCCESS:
        found.left_out["not answered"] += 1
        return None
    if missing := [key for key in NEEDED if values[key] in (None, "", "-")]:
        raise InputError(
            f"{where} has no {missing[0]} (looked for {', '.join(form.fields[missing[0]])}). Let the other gateway "
            f"log it, or say what it is called: --field {missing[0]}=NAME."
        )
    at, seconds, client = seconds_of(where, values["time"]), _number(values["seconds"]), str(values["client"] or "-")
    begun = at - seconds if form.kind in AT_END else at
    name = client if client != "-" and good_name(client) else ANONYMOUS
    return _Entry(
        str(values["id"] or where), name, begun, seconds, *spoken, _body(values["request"]), _body(values["answer"])
    )


def _read(entry: _Entry, found: ForeignLog) -> tuple[Any, Any] | None:
    """The rows and the model's answer; None, and counted, where the gate would have refused one of them."""
    try:
        x = entry.wire.read(entry.spec, JSON, entry.request).x
        return x, checked(entry.wire.understand(entry.spec, len(x), JSON, entry.answer), len(x), entry.spec)
    except BadRequest:
        found.left_out["that the gate would not take"] += 1
    except Unreachable:
        found.left_out["whose answer the policy does not fit"] += 1
    return None


def _at(tree: Any, name: str) -> Any:
    """What stands under a name, or under a.b in the object a."""
    for key in (name,) if isinstance(tree, dict) and name in tree else name.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _body(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def _number(value: Any) -> float:
    try:
        return max(float(value), 0.0)
    except (TypeError, ValueError):
        return 0.0


def seconds_of(where: str, value: Any) -> float:
    """A time as seconds since 1970; without a zone it is UTC. InputError says where it stands."""
    try:
        if math.isfinite(found := float(value)):
            return found
    except (TypeError, ValueError):
        pass
    try:
        when = datetime.fromisoformat(str(value))
    except ValueError:
        raise InputError(f"{where}: a time was expected (seconds since 1970, or ISO 8601); got {value!r}.") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
