"""What the policy says of a model's inputs: one tensor for a row, one for each column, or a list of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway.policy.names import is_tensor
from portcullis_ml.gateway.policy.settings import UpstreamTable
from portcullis_ml.gateway.policy.text_table import refuse_mute
from portcullis_ml.gateway.policy.toml_positions import known
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.datatypes import DTYPE, DTYPES
from portcullis_ml.gateway.protocols.parts import WORDS, Part, named
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["inputs_of", "several", "spoken_by", "told_inputs"]

MANY = 64  # inputs of a list, at most
WAYS = '"tensor", "columns" or a list such as [{ name = "image", shape = [28, 28] }, { name = "meta", shape = [3] }]'


def inputs_of(model: Mapping[str, Any], upstream: Any) -> dict[str, Any]:
    """The settings `parts` and `several` of a model. Raises ParameterError, whose parameter is the wrong key."""
    way = model.get("inputs", "tensor")
    if way not in ("tensor", "columns") and not isinstance(way, list):
        raise ParameterError("inputs", WAYS, way)
    behind = upstream.get("inputs") if isinstance(upstream, dict) else None
    features = model.get("features", [])
    if way == "tensor" and behind != "columns":
        if any("datatype" in feature for feature in features):
            raise InputError('A feature has a datatype of its own where inputs = "columns" only; see [model] datatype.')
        return {}
    if isinstance(way, list):
        parts = tuple(_part(table, model) for table in way)
        _sizes(parts, model["input_shape"])
    elif not features:
        raise ParameterError("inputs", '"tensor", or [model] features that name the columns', "columns")
    else:
        parts = tuple(_column(feature, model) for feature in features)
    if way != "tensor" and "input" in model:
        raise ParameterError("input", 'left out: with inputs = "columns" each has a name of its own', model["input"])
    if model.get("missing"):
        _may_be_missing(parts, upstream)
    return {"parts": parts, "several": way != "tensor"}


def _column(feature: Mapping[str, Any], model: Mapping[str, Any]) -> Part:
    words = tuple(feature.get("values", ()))
    if not all(isinstance(w, str) and w.isprintable() for w in words) or len(set(words)) < len(words):
        raise ParameterError("a feature's values", "different words of printable characters", list(words))
    datatype = feature.get("datatype", WORDS if words else model.get("datatype", "FP64"))
    return Part(feature["name"], (), _datatype(datatype, words), words)


def _part(table: Any, model: Mapping[str, Any]) -> Part:
    known(table, ("name", "shape", "datatype"), "an input")
    name, shape = table.get("name"), table.get("shape", [])
    if not isinstance(name, str) or not is_tensor(name):
        raise ParameterError("an input's name", "printable text", name)
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise ParameterError("an input's shape", "a list of positive ints", shape)
    return Part(name, tuple(shape), _datatype(table.get("datatype", model.get("datatype", "FP64")), ()))


def _datatype(datatype: Any, words: tuple[str, ...]) -> str:
    kinds = (*DTYPES, *([WORDS] if words else []))
    if datatype not in kinds:
        raise ParameterError("datatype", f"one of {', '.join(kinds)}", datatype)
    return str(datatype)


def _sizes(parts: Sequence[Part], input_shape: Any) -> None:
    """Refuse a list of inputs that is not the row that [model] input_shape says."""
    names, total = [p.name for p in parts], sum(p.size for p in parts)
    if not 1 <= len(parts) <= MANY or len(set(names)) < len(names):
        raise ParameterError("inputs", f"1 to {MANY} inputs with different names", names)
    if input_shape != [total]:
        sizes = " + ".join(str(math.prod(p.shape)) for p in parts)
        raise ParameterError(
            "input_shape", f"[{total}], which is {sizes}: the inputs one behind the other", input_shape
        )


def _may_be_missing(parts: Sequence[Part], upstream: Any) -> None:
    """Refuse inputs that may be missing where their datatype has no place for that."""
    binary = isinstance(upstream, dict) and upstream.get("binary")
    for part in parts:
        if part.datatype == WORDS and binary:
            raise ParameterError("missing", f"false: the word {part.name!r} cannot be missing in a binary tensor", True)
        if part.datatype != WORDS and part.datatype[:2] != "FP":
            raise ParameterError(
                "missing", f"false: {part.name!r} is {part.datatype}, of which none can be missing", True
            )


def several(served: ModelSpec, upstream: UpstreamTable) -> bool:
    """Whether the upstream has an input for each part of a row."""
    way = upstream.inputs or ("columns" if served.several else "tensor")
    if way == "columns" and upstream.input:
        raise ParameterError("input", "left out where the upstream has several inputs", upstream.input)
    if served.text and upstream.datatype:
        raise ParameterError("datatype", "left out where the model takes texts", upstream.datatype)
    if served.parts and upstream.datatype:
        raise ParameterError("datatype", "left out: each input has its own, under [model]", upstream.datatype)
    if served.parts and not (served.several and way == "columns"):
        _in_one_tensor(served)
    return way == "columns"


def _in_one_tensor(served: ModelSpec) -> None:
    """Refuse inputs of which a number could change where one side has them in one tensor of the model's datatype."""
    dtype = DTYPE[served.datatype]
    for part in served.parts:
        codes = np.arange(len(part.words))
        same = (codes.astype(dtype) == codes).all() if part.words else part.datatype == served.datatype
        if served.datatype != "FP64" and not same:
            what = f"FP64, or that of {part.name!r} ({part.datatype}), with all inputs in one tensor on one side"
            raise ParameterError("datatype", what, served.datatype)


def spoken_by(spec: ModelSpec, protocols: Sequence[str], key: str) -> None:
    """Refuse protocols that have no place for several inputs, or none for texts. `key` is where they stand in the
    policy."""
    for name in protocols:
        refuse_mute(name, spec.text, key)
        if spec.several and not PROTOCOLS.load(name).parts:
            raise ParameterError(
                key,
                'v2, v1 or invocations where a row has several inputs; another one asks with inputs = "tensor"',
                name,
            )


def told_inputs(served: ModelSpec, asked: ModelSpec) -> Iterator[str]:
    """What `portcullis check` says of a model with several inputs."""
    if served.parts:
        ways = [
            "one tensor for each input" if side.several else "one tensor for all inputs" for side in (served, asked)
        ]
        told = ways[0] if ways[0] == ways[1] else f"{ways[0]}, and the model server is asked with {ways[1]}"
        yield f"A row consists of {len(served.parts)} inputs ({named(served.parts)}); clients send {told}."
        words = [f"{p.name!r} ({len(p.words)})" for p in served.parts if p.words]
        if words:
            yield f"Words that no category has are refused with 400, in {', '.join(words)}."
