"""A question in the Open Inference Protocol with several inputs: one tensor for each part of a row, in any order.

MLServer's pandas content type sends a table like this, a tensor for every column, with BYTES for words.
"""

from __future__ import annotations

import struct
from typing import Any

from portcullis_ml.core.types import Floats
from portcullis_ml.gateway.protocols.claims import fits
from portcullis_ml.gateway.protocols.described import const, object_of, some
from portcullis_ml.gateway.protocols.number_lists import numbers_out
from portcullis_ml.gateway.protocols.parts import WORDS, Part, coded, joined, named, parted, rows_of
from portcullis_ml.gateway.protocols.strict import (
    BadRequest,
    flattened,
    given,
    listed,
    loads,
    no_booleans,
    numbers,
    only_keys,
    single,
)
from portcullis_ml.gateway.protocols.tensors import raw_words, words_of
from portcullis_ml.gateway.protocols.v2_question import (
    NO_DATA,
    SIZE,
    TOP,
    as_sent,
    asked_for,
    raw_numbers,
    shaped,
    tensor_form,
)
from portcullis_ml.gateway.protocols.wire import DTYPES, Inquiry, ModelSpec

__all__ = ["described_inputs", "inquiry_of", "tensors_of", "told_inputs"]


def inquiry_of(served: ModelSpec, header: bytes, raw: bytes) -> Inquiry:
    """The question in the two halves of a body. Raises BadRequest."""
    fits(header, served.most)
    tree = given(only_keys(loads(header), TOP, "The request"))
    mark, outputs, binary = asked_for(served, tree)
    parts, found = {p.name: p for p in served.parts}, dict[str, Floats]()
    tensors = listed(tree.get("inputs"), '"inputs"', range(1, len(parts) + 1))
    no_booleans(header, [t.get("data") for t in tensors if _plain(t)], "An input")
    for tensor in tensors:
        name, data, shape, datatype, size = tensor_form(tensor, (WORDS,))
        part = parts.get(name) if isinstance(name, str) else None
        if part is None:
            raise BadRequest(f"The model takes the inputs {named(served.parts)}; the request has another.")
        if name in found:
            raise BadRequest(f"The request has two inputs named {part.name[:60]!r}.")
        if size is not None and not 0 <= size <= len(raw):
            raise BadRequest(SIZE)
        bytes_of, raw = (None, raw) if size is None else (raw[:size], raw[size:])
        found[part.name] = _values(part, data, bytes_of, shape, datatype, served.interface.missing)
    if raw:
        raise BadRequest(NO_DATA)
    return Inquiry(served.inspected(joined(served.parts, found, served.max_rows)), mark, binary, outputs)


def _plain(tensor: Any) -> bool:
    """Whether a tensor has no place for true and false."""
    return isinstance(tensor, dict) and tensor.get("datatype") != "BOOL"


def _values(
    part: Part, data: Any, raw: bytes | None, shape: tuple[int, ...], datatype: str, missing: bool
) -> Floats:  # fmt: skip
    """(n, size) the values of one input, in the datatype that they claim to be in. Raises BadRequest."""
    found: Floats
    where = part.where
    if datatype == WORDS and not part.words:
        raise BadRequest(f"{where} holds numbers, which {WORDS} has no place for.")
    if datatype == WORDS and raw is not None:
        found = coded(part, _words(raw))
    elif datatype == WORDS:
        nested, words = flattened(data, where)
        found = coded(part, words, missing=missing).reshape(nested)
    elif raw is not None:
        found = raw_numbers(raw, datatype)
    else:
        found = numbers(data, where, missing=missing, booleans=datatype == "BOOL")
        found = as_sent(found, datatype, where)
    rows = rows_of(part, shaped(found, shape, where))
    return single(rows) if datatype == "FP32" else rows


def _words(raw: bytes) -> list[str]:
    """The texts of raw bytes. Raises BadRequest."""
    try:
        return words_of(memoryview(raw), "strict")
    except (struct.error, ValueError):
        raise BadRequest("Raw words must each be four bytes of length and as many bytes of UTF-8.") from None


# Towards the upstream, and what the gate says of itself.


def tensors_of(asked: ModelSpec, x: Floats) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The tensors of a question, and the raw bytes behind it where the far side reads them."""
    tensors, raw = list[dict[str, Any]](), list[bytes]()
    for part, values in parted(asked.parts, x):
        tree: dict[str, Any] = {"name": part.name, "shape": [len(x), *(part.shape or (1,))], "datatype": part.datatype}
        if asked.binary:
            raw.append(raw_words(values.tolist()) if part.datatype == WORDS else values.tobytes())
            tree["parameters"] = {"binary_data_size": len(raw[-1])}
        elif part.datatype == WORDS:
            tree |= {"parameters": {"content_type": "str"}, "data": values.tolist()}
        else:
            tree |= {"parameters": {"content_type": "np"}, "data": numbers_out(values.reshape(-1))}
        tensors.append(tree)
    return tensors, raw


def told_inputs(served: ModelSpec) -> list[dict[str, Any]]:
    """The inputs as metadata tells of them."""
    return [{"name": p.name, "datatype": p.datatype, "shape": [-1, *(p.shape or (1,))]} for p in served.parts]


def described_inputs(served: ModelSpec, hints: dict[str, Any]) -> dict[str, Any]:
    """Schema of "inputs". That each part comes once, with as many values as its shape says, is beyond it."""
    must, tensors = ("name", "shape", "datatype", "data"), []
    for part in served.parts:
        kinds = (*DTYPES, WORDS) if part.words else tuple(DTYPES)
        shape = some({"type": "integer", "minimum": 1}, 1, 1 + max(len(part.shape), 1))
        data = {"type": "array", "minItems": 1}
        tensors.append(object_of(must, name=const(part.name), shape=shape, datatype=const(*kinds), data=data,
                                 parameters=hints))  # fmt: skip
    return some({"anyOf": tensors}, len(tensors), len(tensors))
