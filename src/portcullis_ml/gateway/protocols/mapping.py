"""A home-made JSON server, described by where its rows and scores stand.

For FastAPI, BentoML, LitServe, Ray Serve and everything else that posts one JSON object and answers
one. A path is `$.key.key`; the request may hold nothing but the rows at their path.

    [model.mapping]
    path = "/predict"
    rows = "$.features"
    scores = "$.result.probabilities"
    labels = "$.result.class"        # optional
    explanation = "$.result.saliency"  # where [model] explanation says that there is one
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import orjson

from portcullis_ml.core.errors import ParameterError, Unreachable
from portcullis_ml.core.types import Answer, Floats
from portcullis_ml.gateway.protocols.answers import answer_from, class_values
from portcullis_ml.gateway.protocols.described import Described, object_of, rows
from portcullis_ml.gateway.protocols.number_lists import loads_with_numbers
from portcullis_ml.gateway.protocols.strict import BadRequest, json_typed, no_booleans, numbers, only_keys, rows_in
from portcullis_ml.gateway.protocols.v1 import rows_out
from portcullis_ml.gateway.protocols.wire import (
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

__all__ = ["DEFAULTS", "JsonPath", "steps"]

DEFAULTS = {"path": "/predict", "rows": "$.inputs", "scores": "$.scores", "labels": "$.labels",
            "explanation": "$.explanation"}  # fmt: skip


class JsonPath(Wire):
    """Any server that takes a JSON object with rows in it and answers one with scores in it."""

    name: ClassVar[str] = "mapping"
    explains: ClassVar[bool] = True

    def route(self, method: str, path: str, served: ModelSpec) -> str | None:
        return "infer" if method == "POST" and path == _option(served, "path") else None

    def routes(self, served: ModelSpec) -> tuple[Described, ...]:
        body: dict[str, Any] = rows(served.interface, served.max_rows)
        for key in reversed(steps(_option(served, "rows"))):
            body = object_of((key,), **{key: body})
        return (Described("post", _option(served, "path"), "Ask the model", {"type": "object"}, body),)

    def read(self, served: ModelSpec, headers: Headers, body: bytes) -> Inquiry:
        json_typed(headers)
        where = _option(served, "rows")
        path = steps(where)
        data: Any
        data, row = loads_with_numbers(body, *path, most=served.most, missing=served.interface.missing)
        for key in path:
            data = only_keys(data, (key,), "The request").get(key)
        if row is None:
            no_booleans(body, data, where)
        found = numbers(data, where, row=row, missing=served.interface.missing)
        return Inquiry(served.inspected(rows_in(found, served.interface.input_shape, served.max_rows, where)))

    def write(self, served: ModelSpec, inquiry: Inquiry, answer: Answer) -> Reply:
        tree: dict[str, Any] = {}
        parts: dict[str, Any] = {"scores": shown_scores(served, answer)}
        if answer.labels is not None:
            parts["labels"] = class_values(served, answer.labels)
        if served.explanation:
            parts["explanation"] = answer.explanation
        for name, value in parts.items():
            if value is not None:
                value = value[0] if inquiry.shape == "one" else value
                _place(
                    tree,
                    steps(_option(served, name)),
                    np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value,
                )
        return Reply(orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY))

    def tell(self, served: ModelSpec, what: str) -> Reply:
        raise BadRequest("There is nothing here.", 404)

    def ask(self, served: ModelSpec, x: Floats, carried: Carried = NOTHING) -> Ask:
        tree: dict[str, Any] = {}
        _place(tree, steps(_option(served, "rows")), rows_out(x))
        body = orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)
        return Ask(_option(served, "path"), body, {"content-type": "application/json"})

    def understand(self, served: ModelSpec, n: int, headers: Headers, body: bytes) -> Answer:
        tree = parsed(body)
        scores, labels = _find(tree, _option(served, "scores")), _find(tree, _option(served, "labels"))
        if scores is None and labels is None:
            raise Unreachable(f"The model server must answer {_option(served, 'scores')}; it sent none.")
        explanation = _find(tree, _option(served, "explanation")) if served.explanation else None
        if scores is not None and "labels" not in served.options and not served.class_names and not _numbers(labels):
            labels = None  # nobody asked for them, and what they mean is not known
        return answer_from(served, n, scores, labels, explanation)


def steps(path: str, name: str = "a mapping's path") -> list[str]:
    """The keys of a path: "$.a.b" -> ["a", "b"]. Nothing else of JSONPath is understood."""
    head, *keys = path.split(".")
    if head != "$" or not keys or not all(keys) or any(c in path for c in "[]*?()\"'"):
        raise ParameterError(name, 'written "$.key" or "$.key.key"', path)
    return keys


def _option(served: ModelSpec, name: str) -> str:
    return str(served.options.get(name, DEFAULTS[name]))


def _place(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def _find(tree: Any, path: str) -> Any:
    for key in steps(path):
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _numbers(labels: Any) -> bool:
    while isinstance(labels, list) and labels:
        labels = labels[0]
    return isinstance(labels, int | float)
