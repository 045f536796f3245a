"""Open Inference Protocol v2: health, metadata and infer, in JSON and with the binary tensor extension.

KServe, "Open Inference Protocol", github.com/kserve/open-inference-protocol; NVIDIA Triton, "Binary
Tensor Data Extension".

One input tensor, asked for by name; parameters that change what the server does with a tensor
(shared memory, classification, sequences) are refused, because they carry the question or the
answer past the guard. The two dialects may differ on the two sides of the gate: MLServer reads no
binary body and KServe answers no JSON without a content type, so both are written as they like it.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np
import orjson

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Floats
from portcullis_ml.gateway.protocols.answers import class_values, label_type
from portcullis_ml.gateway.protocols.described import Described, const, object_of, rows, some
from portcullis_ml.gateway.protocols.number_lists import numbers_out
from portcullis_ml.gateway.protocols.strict import json_typed
from portcullis_ml.gateway.protocols.tensors import one_row, raw_words, several_rows
from portcullis_ml.gateway.protocols.text_questions import schema_of, tensor_asked, v2_inquiry
from portcullis_ml.gateway.protocols.v2_metadata import differences
from portcullis_ml.gateway.protocols.v2_parts import described_inputs, inquiry_of, tensors_of, told_inputs
from portcullis_ml.gateway.protocols.v2_question import LENGTH, REFUSED, form_of, split, tensor_of
from portcullis_ml.gateway.protocols.wire import (
    DTYPE,
    DTYPES,
    NOTHING,
    Ask,
    Carried,
    Headers,
    Inquiry,
    ModelSpec,
    Reply,
    Wire,
    parsed,
    shown_scores,
)

__all__ = ["OpenInference"]

SERVER = {"/v2": "server", "/v2/health/live": "live", "/v2/health/ready": "ready"}
BEHIND_NAME = re.compile(r"(?:/versions/([^/]+))?(/infer|/ready)?")
WORD: dict[str, Any] = {"type": "string"}
TENSOR = object_of(("name", "datatype", "shape"), name=WORD, datatype=WORD, shape=some({"type": "integer"}))
WORDS = {"/infer": "infer", "/ready": "model_ready"}


class OpenInference(Wire):
    """The protocol of Triton, KServe, MLServer, Seldon and OpenVINO's server."""

    name: ClassVar[str] = "v2"
    health: ClassVar[frozenset[str]] = frozenset(("ready", "model_ready"))
    common: ClassVar[frozenset[str]] = frozenset(SERVER.values())
    explains: ClassVar[bool] = True
    parts: ClassVar[bool] = True
    carries: ClassVar[frozenset[str]] = frozenset(("texts",))

    def route(self, method: str, path: str, served: ModelSpec) -> str | None:
        what = SERVER.get(path) or _of_model(path, served)
        return what if method == ("POST" if what == "infer" else "GET") else None

    def routes(self, served: ModelSpec) -> tuple[Described, ...]:
        model = f"/v2/models/{served.name}"
        versions = ("", f"/versions/{served.version}") if served.version else ("",)
        about = object_of(("name", "inputs", "outputs"), name=const(served.name), versions={"type": "array"},
                     platform=WORD, inputs=some(TENSOR), outputs=some(TENSOR))  # fmt: skip
        server = object_of(("name",), name=WORD, version=WORD, extensions=some(WORD))
        return (
            Described("get", "/v2", "What the gate is", server),
            Described("get", "/v2/health/live", "Whether it is up", object_of(("live",), live=const(True))),
            Described("get", "/v2/health/ready", "Whether it is up", object_of(("ready",), ready=const(True))),
            *(Described("get", model + v, "What goes in and out", about) for v in versions),
            *(Described("get", f"{model}{v}/ready", "Whether the model is up", object_of(name=WORD, ready=const(True)))
              for v in versions),
            *(Described("post", f"{model}{v}/infer", "Ask the model", _answer(served), _question(served))
              for v in versions),
        )  # fmt: skip

    # Facing the client.

    def read(self, served: ModelSpec, headers: Headers, body: bytes) -> Inquiry:
        json_typed(headers)
        header, raw = split(headers, body)
        if served.text is not None:
            return v2_inquiry(served, header, raw)
        if served.several:
            return inquiry_of(served, header, raw)
        form, row = form_of(served, header, raw)
        x = tensor_of(form, row, header, raw, served)
        return Inquiry(served.inspected(x, form.datatype), form.mark, form.binary, form.outputs)

    def write(self, served: ModelSpec, inquiry: Inquiry, answer: Answer) -> Reply:
        scores = shown_scores(served, answer)
        values = ((served.label, answer.labels), (served.scores, scores), (served.explanation, answer.explanation))
        known = [(n, v) for n, v in values if n and v is not None and (not inquiry.outputs or n in inquiry.outputs)]
        raw: list[bytes] = []
        outputs = [
            _classes_written(v, served, n in inquiry.binary, raw)
            if n == served.label and served.class_names
            else _written(n, v, served, n in inquiry.binary, raw)
            for n, v in known
        ]
        tree: dict[str, Any] = {"model_name": served.name, "outputs": outputs}
        if served.version:
            tree["model_version"] = served.version
        if inquiry.id is not None:
            tree["id"] = inquiry.id
        header = orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)
        if not raw:
            return Reply(header)
        kind = (("content-type", "application/octet-stream"), (LENGTH, str(len(header))))
        return Reply(b"".join([header, *raw]), 200, kind)

    def tell(self, served: ModelSpec, what: str) -> Reply:
        if what == "server":
            return _json({"name": "portcullis", "version": "", "extensions": ["binary_tensor_data"]})
        if what == "live":
            return _json({"live": True})
        if what == "ready":
            return _json({"ready": True})
        if what == "model_ready":
            return _json({"name": served.name, "ready": True})
        columns, (datatype, shape) = served.interface.columns, served.tensor
        precision = "FP32" if served.interface.precision == "float32" else "FP64"
        row = _about(served.input, datatype, [-1, *shape])
        outputs = [
            _about(served.label, label_type(served), [-1]),
            _about(served.scores, precision, [-1, columns]),
            _about(served.explanation, "FP64", [-1, *served.explained]),
        ]
        return _json(
            {
                "name": served.name,
                "versions": _versions(served),
                "platform": "portcullis",
                "inputs": told_inputs(served) if served.several else [row],
                "outputs": [o for o in outputs if o["name"]],
            }
        )

    # Facing the upstream.

    def ready_paths(self, served: ModelSpec) -> tuple[str, ...]:
        return f"{_model_path(served)}/ready", "/v2/health/ready"

    def ask(self, served: ModelSpec, x: Floats, carried: Carried = NOTHING) -> Ask:
        path, outputs = served.made.get("v2") or served.made.setdefault("v2", _asking(served))
        if carried.texts is not None:
            tensors, raw = tensor_asked(served, carried.texts)
        else:
            tensors, raw = tensors_of(served, x) if served.several else _one_tensor(served, x)
        tree: dict[str, Any] = {"inputs": tensors, "outputs": outputs}
        if served.several and not raw and all(part.shape == () for part in served.parts):
            tree["parameters"] = {"content_type": "pd"}
        header = orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)
        if not raw:
            return Ask(path, header, {"content-type": "application/json"})
        kind = {"content-type": "application/octet-stream", LENGTH: str(len(header))}
        return Ask(path, b"".join([header, *raw]), kind)

    def about(self, served: ModelSpec) -> str:
        return _model_path(served)

    def differences(self, served: ModelSpec, told: Any) -> list[str]:
        return differences(served, told)

    def understand(self, served: ModelSpec, n: int, headers: Headers, body: bytes) -> Answer:
        cut, raw = headers.get(LENGTH), memoryview(b"")
        if cut:
            if not (cut.isascii() and cut.isdigit() and len(cut) <= 12):
                raise Unreachable(f"The model server's {LENGTH} must be a number; it sent {cut[:40]!r}.")
            body, raw = body[: int(cut)], memoryview(body)[int(cut) :]
        tree = parsed(body)
        answer = one_row(served, tree) if n == 1 and not raw else None
        return several_rows(served, n, tree, raw) if answer is None else answer


def _of_model(path: str, served: ModelSpec) -> str | None:
    """The kind of a request at a path of this model, whose name may hold slashes."""
    model = f"/v2/models/{served.name}"
    found = BEHIND_NAME.fullmatch(path, len(model)) if path.startswith(model) else None
    if found is None or found[1] not in (None, served.version):
        return None
    return WORDS.get(found[2] or "", "model")


def _versions(served: ModelSpec) -> list[str]:
    beside = [version for name, version, protocol in served.beside if (name, protocol) == (served.name, "v2")]
    return [version for version in (served.version, *beside) if version]


def _one_tensor(served: ModelSpec, x: Floats) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The only tensor of a question, and its bytes where the far side reads them."""
    cast = np.ascontiguousarray(x, DTYPE[served.datatype])
    tensor: dict[str, Any] = {"name": served.input, "shape": x.shape, "datatype": served.datatype}
    if not served.binary:
        return [{**tensor, "data": numbers_out(cast.reshape(-1))}], []
    return [{**tensor, "parameters": {"binary_data_size": cast.nbytes}}], [cast.tobytes()]


def _model_path(served: ModelSpec) -> str:
    return f"/v2/models/{served.name}{'/versions/' + served.version if served.version else ''}"


def _asking(served: ModelSpec) -> tuple[str, orjson.Fragment]:
    """What is the same in every question to this model: the path, and the outputs asked for."""
    flags: dict[str, Any] = {"parameters": {"binary_data": True}} if served.binary else {}
    outputs = [{"name": n, **flags} for n in served.outputs]
    return f"{_model_path(served)}/infer", orjson.Fragment(orjson.dumps(outputs))


def _question(served: ModelSpec) -> dict[str, Any]:
    """What `read` reads, but for raw tensors. That as many numbers must come as the shape says is beyond a schema."""
    hints = {"type": ["object", "null"], "propertyNames": {"not": {"pattern": f"^({REFUSED.pattern})"}}}
    widths = served.interface.input_shape
    lengths = [{"type": "integer", "minimum": 1, "maximum": served.max_rows}, *map(const, widths)]
    shape = {"prefixItems": lengths, **some({"type": "integer"}, len(lengths), len(lengths))}
    rest = {"name": const(served.input), "parameters": hints}
    must = ("name", "shape", "datatype", "data")
    row = rows(served.interface, served.max_rows)["items"]
    single = object_of(must, shape=const([1, *widths]), datatype=const("FP64"), data=some(row, 1, 1), **rest)
    tensor = object_of(must, shape=shape, datatype=const(*DTYPES), data={"type": "array", "minItems": 1}, **rest)
    tensors = [single, tensor] if served.text is None else [schema_of(served, tensor=True)]
    return object_of(
        ("inputs",),
        id={"type": ["string", "null"], "maxLength": 128},
        inputs=described_inputs(served, hints) if served.several else some({"anyOf": tensors}, 1, 1),
        outputs={
            **some(object_of(("name",), name=const(*served.outputs), parameters=hints), 0, 8),
            "type": ["array", "null"],
        },
        parameters=hints,
    )


def _answer(served: ModelSpec) -> dict[str, Any]:
    value = {"type": ["number", "string", "boolean", "null"] if served.class_names else ["number", "null"]}
    output = object_of(("name", "shape", "datatype", "data"), name=WORD, shape=some({"type": "integer"}), datatype=WORD,
                  data=some(value))  # fmt: skip
    return object_of(("model_name", "outputs"), model_name=const(served.name), model_version=WORD, id=WORD,
                outputs=some(output))  # fmt: skip


def _written(name: str, value: np.ndarray, served: ModelSpec, binary: bool, raw: list[bytes]) -> dict[str, Any]:
    kind = "INT64" if value.dtype.kind != "f" else "FP64"
    if name == served.scores and served.interface.precision == "float32":
        kind = "FP32"
    value = np.ascontiguousarray(value, DTYPE[kind])
    tree: dict[str, Any] = {"name": name, "shape": value.shape, "datatype": kind}
    if binary:
        tree["parameters"] = {"binary_data_size": value.nbytes}
        raw.append(value.tobytes())
    else:
        tree["data"] = value.reshape(-1)
    return tree


def _classes_written(labels: Any, served: ModelSpec, binary: bool, raw: list[bytes]) -> dict[str, Any]:
    """Classes that have names. Raw bytes have no place for a withheld one, so that then all are written as JSON."""
    values, kind = class_values(served, labels), label_type(served)
    tree: dict[str, Any] = {"name": served.label, "shape": [len(values)], "datatype": kind}
    if binary and None not in values:
        raw.append(raw_words(values) if kind == "BYTES" else np.array(values, DTYPE[kind]).tobytes())
        tree["parameters"] = {"binary_data_size": len(raw[-1])}
    else:
        tree["data"] = values
    return tree


def _about(name: str | None, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _json(tree: dict[str, Any]) -> Reply:
    return Reply(orjson.dumps(tree))
