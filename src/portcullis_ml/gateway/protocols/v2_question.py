"""A question in the Open Inference Protocol: from a body to the rows in it and how they are to be answered.

What stands around the numbers is the same in nearly all that a client asks. It is read and judged once, and known again
by its bytes.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from portcullis_ml.core.types import Array, Floats
from portcullis_ml.gateway.protocols.claims import claimed_room
from portcullis_ml.gateway.protocols.number_lists import loads_rest, whole_or_rest, without_numbers
from portcullis_ml.gateway.protocols.strict import (
    BadRequest,
    claimed_shape,
    given,
    listed,
    loads,
    nested_as,
    no_booleans,
    numbers,
    only_keys,
    rows_in,
    same_count,
    text,
)
from portcullis_ml.gateway.protocols.wire import DTYPE, DTYPES, Headers, ModelSpec, whole

__all__ = ["LENGTH", "NO_DATA", "REFUSED", "SIZE", "TOP", "Form", "as_sent", "asked_for", "form_of", "raw_numbers",
           "shaped", "split", "tensor_form", "tensor_of"]  # fmt: skip

LENGTH = "inference-header-content-length"
NO_DATA = 'The input must have "data", or "binary_data_size" and that many raw bytes.'
SIZE = '"binary_data_size" must be the number of raw bytes behind the JSON, and "data" absent.'
REFUSED = re.compile("shared_memory_|sequence_|classification$")  # they lead the question or the answer past the guard
TOP = ("id", "parameters", "inputs", "outputs")  # keys of a question
FORMS, LONGEST = 64, 1024  # that are remembered of one model, and bytes of one


class Form(NamedTuple):
    """A question but for its numbers."""

    data: Any  # None where they are raw
    shape: tuple[int, ...]
    datatype: str
    size: int | None  # of what is raw, in bytes
    mark: str | None  # the client's own id of it
    outputs: tuple[str, ...]  # asked for by name; none means all
    binary: tuple[str, ...]  # wanted as raw bytes


def split(headers: Headers, body: bytes) -> tuple[bytes, bytes]:
    """The JSON part of a body and the raw tensors behind it."""
    given = headers.get(LENGTH)
    if given is None:
        return body, b""
    if not (given.isascii() and given.isdigit() and 0 < int(given[:12]) <= len(body) and len(given) <= 12):
        raise BadRequest("Inference-Header-Content-Length must be the length of the JSON at the head of the body.")
    return body[: int(given)], body[int(given) :]


def form_of(served: ModelSpec, header: bytes, raw: bytes) -> tuple[Form, Array | None]:
    """A question's form, and the numbers of its only row where they were read separately. Raises BadRequest."""
    most, missing = claimed_room(served.interface, served.most, header), served.interface.missing
    rest, row = without_numbers(header, b'"data"', most, missing) or (header, None)
    if row is None and not raw:  # the numbers are in it
        return _formed(served, loads(header)), None
    known: dict[tuple[bytes, bool], Form] = served.made.setdefault("v2 forms", {})
    key = rest, row is None
    form = known.get(key)
    if form is None:
        tree = loads(header) if row is None else loads_rest(rest, ("inputs", 0, "data"))
        if tree is None:
            return _formed(served, whole_or_rest(header, rest)), None
        form = _formed(served, tree)
        if len(rest) <= LONGEST:
            if len(known) >= FORMS:  # a client that marks its questions makes a new one each time
                known.clear()
            known[key] = form
    return form, row


def _formed(served: ModelSpec, tree: dict[str, Any]) -> Form:
    """What a question's tree says, but for its numbers."""
    tree = given(only_keys(tree, TOP, "The request"))
    mark, outputs, binary = asked_for(served, tree)
    name, data, shape, datatype, size = tensor_form(listed(tree.get("inputs"), '"inputs"', range(1, 2))[0])
    if name != served.input:
        raise BadRequest(f"The model takes one input named {served.input!r}.")
    return Form(data, shape, datatype, size, mark, outputs, binary)


def asked_for(served: ModelSpec, tree: dict[str, Any]) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """(the client's own id, outputs asked for by name, outputs wanted as raw bytes). Raises BadRequest."""
    flags = _parameters(tree, "the request")
    outputs, binary = _wanted(tree, served, bool(flags.get("binary_data_output")))
    return text(tree["id"], '"id"') if "id" in tree else None, outputs, binary


def tensor_form(tensor: Any, more: tuple[str, ...] = ()) -> tuple[Any, Any, tuple[int, ...], str, int | None]:
    """(name, data, shape, datatype, bytes of what is raw) of a tensor, whose datatype may be one of `more` too."""
    tensor = given(only_keys(tensor, ("name", "shape", "datatype", "parameters", "data"), "An input"))
    shape, datatype = claimed_shape(tensor.get("shape"), '"shape"'), tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in (*DTYPES, *more):
        raise BadRequest(f'"datatype" must be one of {", ".join((*DTYPES, *more))}.')
    size = _parameters(tensor, "the input").get("binary_data_size")
    if size is None and "data" not in tensor:
        raise BadRequest(NO_DATA)
    if size is not None and ("data" in tensor or type(size) is not int):
        raise BadRequest(SIZE)
    return tensor.get("name"), tensor.get("data"), shape, datatype, size


def _parameters(tree: dict[str, Any], where: str) -> dict[str, Any]:
    """The parameters of a part of the request. Those that the gate does not know, such as "priority" and "timeout", are
    read past, as the protocol allows; none is ever sent on."""
    found = tree.get("parameters")
    if not isinstance(found, dict | None):
        raise BadRequest(f"The parameters of {where} must be an object.")
    for key in found or ():
        if REFUSED.match(key):
            raise BadRequest(f"The parameters of {where} have {key[:40]!r}, which is not allowed here.")
    return given(found or {})


def tensor_of(form: Form, row: Array | None, header: bytes, raw: bytes, served: ModelSpec) -> Floats:
    """(n, *input_shape) the numbers in the datatype that they claim to be in. Raises BadRequest."""
    where, dtype = "The input", DTYPE[form.datatype]
    found: Floats
    if form.size is None:
        if raw:
            raise BadRequest(NO_DATA)
        if row is None and dtype.kind != "b":
            no_booleans(header, form.data, where)
        missing, booleans = served.interface.missing, dtype.kind == "b"
        found = as_sent(numbers(form.data, where, row=row, missing=missing, booleans=booleans), form.datatype, where)
    else:
        if form.size != len(raw):
            raise BadRequest(SIZE)
        found = raw_numbers(raw, form.datatype)
    return rows_in(shaped(found, form.shape, where), served.interface.input_shape, served.max_rows, where)


def as_sent(found: Array, datatype: str, where: str) -> Floats:
    """Numbers from JSON as they are in the datatype that they claim to be in, but for FP32. Raises BadRequest."""
    dtype = DTYPE[datatype]
    if datatype == "FP16":
        with np.errstate(over="ignore"):
            return found.astype(dtype).astype(np.float64)
    return found if dtype.kind == "f" else whole(found, dtype, datatype, where)


def raw_numbers(raw: bytes, datatype: str) -> Floats:
    """(n,) the numbers in raw bytes. Raises BadRequest."""
    dtype = DTYPE[datatype]
    if len(raw) % dtype.itemsize:
        raise BadRequest(SIZE)
    sent = np.frombuffer(raw, dtype)
    return sent if datatype in ("FP32", "FP64") else sent.astype(np.float64)


def shaped(found: Floats, shape: tuple[int, ...], where: str) -> Floats:
    """Values in the shape that they claim to have, in which they are nested, or flat. Raises BadRequest."""
    same_count(shape, found.size, where)
    if found.ndim > 1 and found.shape != shape and not nested_as(found.shape, shape):
        raise BadRequest(f"{where} must be nested as its shape says, or a flat list.")
    return found.reshape(shape)


def _wanted(tree: dict[str, Any], served: ModelSpec, all_binary: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names asked for, names wanted as raw bytes)."""
    known = served.outputs
    if tree.get("outputs", []) == []:
        return (), known if all_binary else ()
    names, binary = [], []
    for output in listed(tree["outputs"], '"outputs"', range(9)):
        only_keys(output, ("name", "parameters"), "An output")
        if output.get("name") not in known:
            raise BadRequest(f"The model's outputs are {' and '.join(map(repr, known))}.")
        names.append(output["name"])
        if _parameters(output, "an output").get("binary_data", all_binary) is True:
            binary.append(output["name"])
    return tuple(names), tuple(binary)
