"""TensorFlow-Serving and KServe v1: `:predict` with "instances" in rows or "inputs" in columns.

TensorFlow Serving, "RESTful API"; KServe, "V1 Inference Protocol".

An answer row is the list of scores, or the class where the API shows no scores. A row whose scores
are withheld while its class is known is written one-hot, since the protocol has no other place for it.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np
import orjson

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Floats
from portcullis_ml.gateway.protocols.answers import answer_from, class_values
from portcullis_ml.gateway.protocols.described import Described, answers, const, object_of, rows, some
from portcullis_ml.gateway.protocols.json_parts import (
    columns_described,
    columns_in,
    record_described,
    records_in,
    records_out,
)
from portcullis_ml.gateway.protocols.number_lists import loads_with_numbers, numbers_out
from portcullis_ml.gateway.protocols.strict import (
    BadRequest,
    given,
    json_typed,
    no_booleans,
    numbers,
    only_keys,
    rows_in,
)
from portcullis_ml.gateway.protocols.text_questions import inquiry_of, loads_texts, schema_of, texts_in, texts_out
from portcullis_ml.gateway.protocols.wire import (
    NOTHING,
    Ask,
    Carried,
    Headers,
    Inquiry,
    ModelSpec,
    Reply,
    Wire,
    one_hot_where_withheld,
    parsed,
)

__all__ = ["Predict"]

MODELS = "/v1/models"
BEHIND_NAME = re.compile(r"(?:/(?:versions|labels)/([^/:]+))?(:predict|/metadata)?")


class Predict(Wire):
    """The protocol of TensorFlow Serving, and of KServe's older servers."""

    name: ClassVar[str] = "v1"
    health: ClassVar[frozenset[str]] = frozenset(("model",))
    common: ClassVar[frozenset[str]] = frozenset(("server",))
    parts: ClassVar[bool] = True
    carries: ClassVar[frozenset[str]] = frozenset(("texts",))

    def route(self, method: str, path: str, served: ModelSpec) -> str | None:
        what = "server" if path == MODELS else _of_model(path, served)
        return what if method == ("POST" if what == "infer" else "GET") else None

    def routes(self, served: ModelSpec) -> tuple[Described, ...]:
        model, absent = f"/v1/models/{served.name}", {"type": "null"}
        signature = const("", "serving_default", None)
        rowwise, columns = _asked(served)
        body = {
            "oneOf": [
                object_of(("instances",), instances=rowwise, inputs=absent, signature_name=signature),
                object_of(("inputs",), inputs=columns, instances=absent, signature_name=signature),
            ]
        }
        shown = answers(served.interface, served.class_names)
        answer = {"oneOf": [object_of((key,), **{key: shown}) for key in ("predictions", "outputs")]}
        state = object_of(("name",), name=const(served.name), ready=const(True), model_version_status={"type": "array"})
        return (
            Described(
                "get", "/v1/models", "Which models there are", object_of(("models",), models=some({"type": "string"}))
            ),
            Described("get", model, "Whether the model is ready", state),
            Described("post", f"{model}:predict", "Ask the model", answer, body),
        )

    def read(self, served: ModelSpec, headers: Headers, body: bytes) -> Inquiry:
        json_typed(headers)
        spelled = "instances" if b'"instances"' in body else "inputs"
        if served.text is None:
            tree, row = loads_with_numbers(body, spelled, most=served.most, missing=served.interface.missing)
        else:
            tree, row = loads_texts(body, served.max_rows), None
        tree = given(only_keys(tree, ("instances", "inputs", "signature_name"), "The request"))
        if tree.get("signature_name", "serving_default") not in ("", "serving_default"):
            raise BadRequest('"signature_name" must be "serving_default" or absent.')
        if ("instances" in tree) == ("inputs" in tree):
            raise BadRequest('The request must hold one of "instances" and "inputs".')
        key = "instances" if "instances" in tree else "inputs"
        if served.text is not None:
            return inquiry_of(served, texts_in(served, tree[key]), f'"{key}"', shape=key)
        if served.several:
            table = (records_in if key == "instances" else columns_in)(served, body, tree[key], f'"{key}"')
            return Inquiry(served.inspected(table), shape=key)
        data = _unwrapped(tree[key], served.input)
        if row is None:
            no_booleans(body, data, f'"{key}"')
        found = numbers(data, f'"{key}"', row=row, missing=served.interface.missing)
        x = rows_in(found, served.interface.input_shape, served.max_rows, f'"{key}"')
        return Inquiry(served.inspected(x), shape=key)

    def write(self, served: ModelSpec, inquiry: Inquiry, answer: Answer) -> Reply:
        key = "outputs" if inquiry.shape == "inputs" else "predictions"
        return Reply(orjson.dumps({key: plain_rows(served, answer)}, option=orjson.OPT_SERIALIZE_NUMPY))

    def tell(self, served: ModelSpec, what: str) -> Reply:
        if what == "server":
            names = dict.fromkeys(
                (served.name, *(name for name, _, protocol in served.beside if protocol == self.name))
            )
            return Reply(orjson.dumps({"models": list(names)}))
        state = {"version": served.version or "1", "state": "AVAILABLE", "status": {"error_code": "OK"}}
        return Reply(orjson.dumps({"name": served.name, "ready": True, "model_version_status": [state]}))

    def ready_paths(self, served: ModelSpec) -> tuple[str, ...]:
        return (f"/v1/models/{served.name}",)

    def ask(self, served: ModelSpec, x: Floats, carried: Carried = NOTHING) -> Ask:
        version = f"/versions/{served.version}" if served.version else ""
        if carried.texts is not None:
            rows: Any = texts_out(served, carried.texts)
        else:
            rows = records_out(served, x) if served.several else rows_out(x)
        body = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Ask(f"/v1/models/{served.name}{version}:predict", body, {"content-type": "application/json"})

    def understand(self, served: ModelSpec, n: int, headers: Headers, body: bytes) -> Answer:
        tree = parsed(body)
        found = tree.get("predictions", tree.get("outputs")) if isinstance(tree, dict) else None
        return read_rows(served, n, found)


def _of_model(path: str, served: ModelSpec) -> str | None:
    """The kind of a request at a path of this model, whose name may hold slashes."""
    model = f"{MODELS}/{served.name}"
    found = BEHIND_NAME.fullmatch(path, len(model)) if path.startswith(model) else None
    if found is None or found[1] not in (None, served.version):
        return None
    return "infer" if found[2] == ":predict" else "model"


def _asked(served: ModelSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Schemas of "instances" and of "inputs"."""
    if served.several:
        return some(record_described(served), 1, served.max_rows), columns_described(served)
    if served.text is not None:
        return schema_of(served), schema_of(served)
    asked = rows(served.interface, served.max_rows)
    rowwise = some(object_of((served.input,), **{served.input: asked["items"]}), 1, served.max_rows)
    return {"anyOf": [asked, rowwise]}, {"anyOf": [asked, object_of((served.input,), **{served.input: asked})]}


def _unwrapped(data: Any, name: str) -> Any:
    """Rows that are wrapped as {input name: row}, or columns as {input name: rows}."""
    if isinstance(data, dict):
        return only_keys(data, (name,), '"inputs"').get(name)
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return [only_keys(row, (name,), "An instance").get(name) for row in data]
    return data


def plain_rows(served: ModelSpec, answer: Answer) -> Any:
    """One list of scores for every row, or one class."""
    if answer.scores is None:
        return None if answer.labels is None else class_values(served, answer.labels)
    return np.ascontiguousarray(one_hot_where_withheld(answer.scores, answer))


def rows_out(x: Floats) -> Any:
    """Rows as JSON writes them; an omitted input is null."""
    return numbers_out(x.astype(np.float64, copy=False))  # nothing on the wire says that 0.1 is in 32 bits


def read_rows(served: ModelSpec, n: int, found: Any) -> Answer:
    """An answer from a list of score rows or of classes, or from such lists under the names of the model's outputs."""
    if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
        found = {name: [row.get(name) for row in found] for name in found[0]}
    if isinstance(found, dict):
        scores, labels = (found.get(name) if name else None for name in (served.scores, served.label))
        if scores is None and labels is None:
            wanted = served.scores or served.label
            raise Unreachable(f"The model server must answer an output named {wanted!r}; it sent {list(found)[:8]}.")
        return answer_from(served, n, scores, labels)
    if not isinstance(found, list) or len(found) != n:
        sent = len(found) if isinstance(found, list) else "none"
        raise Unreachable(f"The model server must answer a list of {n} rows; it sent {sent}.")
    return answer_from(served, n, None, found) if _are_classes(served, found) else answer_from(served, n, found, None)


def _are_classes(served: ModelSpec, found: list[Any]) -> bool:
    """Whether a list holds classes and no scores: of two classes, fractions are the scores of the second."""
    if not served.interface.n_classes or served.scores is None:
        return bool(served.interface.n_classes)
    kinds = set(map(type, found))
    return list not in kinds and not (float in kinds and served.interface.n_classes == 2)
