"""The policy's table of the model, as an interface, and under the names that the upstream has for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Feature, Interface, Reveals
from portcullis_ml.gateway.policy.inputs import several
from portcullis_ml.gateway.policy.names import MODEL_NAME, SEGMENT, is_model_name, is_segment, is_tensor
from portcullis_ml.gateway.policy.settings import UpstreamTable
from portcullis_ml.gateway.policy.toml_positions import known
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.texts import TextInput
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["asked", "checked", "class_names", "feature", "interface_of", "output_names", "undefended"]

TEXTS = ("name", "version", "datatype", "input", "scores", "label", "withheld", "task", "explanation")
WIDEST = 65_536  # dimensions of an embedding
TASKS: dict[str, Literal["classification", "regression"]] = {
    "classification": "classification", "regression": "regression", "embedding": "regression",
}  # fmt: skip
OUTPUTS = {"label": "label", "scores": "probabilities", "explanation": None}  # and what they are called unless said


def asked(served: ModelSpec, upstream: UpstreamTable | None) -> ModelSpec:
    """The model under the names that the upstream has for it."""
    if upstream is None:
        return served
    labels = upstream.answers == "labels"
    known = dataclasses.replace(
        served,
        name=upstream.model or served.name,
        version=upstream.version,
        input=upstream.input or served.input,
        scores=None if labels else upstream.scores or served.scores,
        label=upstream.label or ("label" if labels else None),
        explanation=served.explanation and (upstream.explanation or served.explanation),
        datatype=upstream.datatype or served.datatype,
        binary=upstream.binary,
        several=several(served, upstream),
        options=_options(served, upstream),
    )
    return dataclasses.replace(known, interface=PROTOCOLS.load(upstream.protocol)().given(known))


def _options(served: ModelSpec, upstream: UpstreamTable) -> Mapping[str, Any]:
    """The mapping towards the upstream, which passes on what clients may send."""
    if upstream.mapping is None:
        return served.options
    return {**upstream.mapping, "extras": served.options.get("extras", [])}


def undefended(asked: ModelSpec) -> Interface:
    """The interface of the model's own answers, as the guard meets them."""
    return asked.interface.revealing(reveals=Reveals.LABELS) if asked.scores is None else asked.interface


def feature(table: Any) -> Feature:
    """A column from its table."""
    known(table, [*(f.name for f in dataclasses.fields(Feature)), "datatype"], "a feature")
    if not is_tensor(str(table.get("name", ""))):
        raise ParameterError("a feature's name", "printable text", table.get("name"))
    if not isinstance(table.get("values", []), list):
        raise ParameterError("a feature's values", "a list of names", table["values"])
    return Feature(**{k: v for k, v in table.items() if k != "datatype"} | {"values": tuple(table.get("values", ()))})


def checked(table: Mapping[str, Any]) -> None:
    """Refuse values in [model] that cannot work. Raises ParameterError, whose parameter is the key that is wrong."""
    for key in TEXTS:
        if isinstance(table.get(key), list) and key in OUTPUTS:
            raise ParameterError(key, "the name of one tensor: the gate guards one, and shows no other", table[key])
        if not isinstance(table.get(key, ""), str):
            raise ParameterError(key, "text", table[key])
    if not is_model_name(table["name"]):
        raise ParameterError("name", MODEL_NAME, table["name"])
    if table.get("version") and not is_segment(table["version"]):
        raise ParameterError("version", SEGMENT, table["version"])
    for key in ("input", *OUTPUTS):
        if not is_tensor(table.get(key, key)):
            raise ParameterError(key, "the name of a tensor", table[key])
    outputs = {**OUTPUTS, **{key: table[key] for key in OUTPUTS if key in table}}
    if len(set(outputs.values())) < len(outputs):
        raise ParameterError(next(k for k in OUTPUTS if k in table), "a name of its own among the outputs", outputs)
    shape, bounds = table["input_shape"], table.get("bounds", [0, 1])
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
        raise ParameterError("input_shape", "a list of positive ints", shape)
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(type(b) in (int, float) for b in bounds)
    if not numbers or not all(map(math.isfinite, bounds)):
        raise ParameterError("bounds", "two numbers, the least and the greatest value of an input", bounds)
    if type(table.get("missing", False)) is not bool:
        raise ParameterError("missing", "true or false", table["missing"])
    if table.get("missing") and table.get("datatype", "FP64")[:2] != "FP":
        raise ParameterError("datatype", "FP32 or FP64 where inputs may be missing", table["datatype"])
    _task(table)
    if not isinstance(table.get("features", []), list):
        raise ParameterError("features", "a list of tables such as { name = ... }", table["features"])


def _task(table: Mapping[str, Any]) -> None:
    task, width = table.get("task", "classification"), table.get("dimensions", 1)
    if task not in TASKS:
        raise ParameterError("task", f"one of {', '.join(TASKS)}", task)
    if task == "embedding" and "dimensions" not in table:
        raise ParameterError("dimensions", "given for an embedding, such as dimensions = 384", None)
    if task == "classification" and "dimensions" in table:
        raise ParameterError("dimensions", 'given with task = "embedding" or "regression" alone', width)
    if type(width) is not int or not 1 <= width <= WIDEST:
        raise ParameterError("dimensions", f"a whole number from 1 to {WIDEST}", width)


def output_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """What the outputs are called unless the policy says so: only classification has classes to show."""
    if table.get("task", "classification") == "classification":
        return {}
    return {"label": None, **({"scores": "embedding"} if table["task"] == "embedding" else {})}


def class_names(table: Mapping[str, Any]) -> tuple[str | int, ...]:
    """What the model calls its classes, where the policy says so: words, whole numbers, or false and true."""
    names = table.get("classes", 0)
    if isinstance(names, list):
        kinds = set(map(type, names))
        told = kinds in ({str}, {int}, {bool}) and len(set(names)) == len(names) >= 2
        if not told or not all(n.strip() and n.isprintable() for n in names if isinstance(n, str)):
            raise ParameterError("classes", "a list of 2 or more different names, all words or all numbers", names)
        return tuple(names)
    if type(names) is not int:
        raise ParameterError("classes", "a whole number, or a list of the classes' names", names)
    return ()


def interface_of(table: Mapping[str, Any], features: tuple[Feature, ...] | None, text: TextInput | None) -> Interface:
    return Interface(
        input_shape=tuple(table["input_shape"]),
        n_classes=len(class_names(table)) or table.get("classes", 0),
        outputs=table.get("dimensions", 1),
        task=TASKS[table.get("task", "classification")],
        bounds=tuple(table.get("bounds", (0.0, 1.0))),
        features=features,
        missing=table.get("missing", False),
        explains="explanation" in table,
        text=text is not None and text.hashing is None,  # between hashed words there are distances
        precision="float32" if table.get("datatype") == "FP32" else "float64",
    )
