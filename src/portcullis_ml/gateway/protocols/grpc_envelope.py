"""Between the messages of gRPC and the JSON of the same protocol with raw tensors behind it.

The Open Inference Protocol is one protocol in two envelopes. What is in a question or an answer is read, judged and
written by `v2`, whichever envelope it came in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from portcullis_ml.gateway.protocols.grpc_messages import CONTENTS, message
from portcullis_ml.gateway.protocols.strict import DEPTH, BadRequest
from portcullis_ml.gateway.protocols.tensors import raw_words
from portcullis_ml.gateway.protocols.v2_question import LENGTH
from portcullis_ml.gateway.protocols.wire import DTYPE, whole

__all__ = ["Misfit", "hints", "opened", "packed", "tensors_out"]

SIZE = "binary_data_size"
NO_CLASS = -(2**63)  # in place of a class that is withheld, where classes are numbers by name; of words the empty one


class Misfit(Exception):
    """A tensor whose values are not where or what its message says, in one sentence."""


def opened(tensors: Sequence[Any], raw: Sequence[bytes], key: str, **more: Any) -> tuple[dict[str, str], bytes]:
    """(headers, body): JSON with these tensors under the key, and their raw values, which are in `raw` or stand in the
    messages themselves. Raises Misfit."""
    if raw and len(raw) != len(tensors):
        raise Misfit("The raw contents must be as many as the tensors.")
    parts = [_values(t, raw[i] if raw else None) for i, t in enumerate(tensors)]
    trees, left = [], []
    for tensor, part in zip(tensors, parts, strict=True):
        tree = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        given, data = parameters(tensor.parameters), _withheld(tensor.datatype, part) if key == "outputs" else None
        if data is None:
            trees.append({**tree, "parameters": {**given, SIZE: len(part)}})
            left.append(part)
        else:
            trees.append({**tree, "data": data})
    header = orjson.dumps({**more, key: trees})
    return {LENGTH: str(len(header))}, b"".join((header, *left))


def parameters(found: Iterable[Any]) -> dict[str, Any]:
    """Their values by name; of equal names the last one, as of a map."""
    return {p.key: getattr(p.value, p.value.WhichOneof("parameter_choice") or "", None) for p in found}


def _values(tensor: Any, raw: bytes | None) -> bytes:
    """A tensor's values as they are sent raw."""
    if len(tensor.shape) > DEPTH:
        raise Misfit(f"A tensor's shape may have {DEPTH} axes.")
    kind, filled = tensor.datatype, [field.name for field, _ in tensor.contents.ListFields()]
    if raw is not None:
        if filled:
            raise Misfit("A tensor's values may be raw or in its contents, not both.")
        if kind in DTYPE and len(raw) != math.prod(tensor.shape) * DTYPE[kind].itemsize:
            raise Misfit(
                f"The raw contents of {tensor.name[:40]!r} must have as many bytes as its shape and datatype say."
            )
        return raw
    field = CONTENTS.get(kind, "")
    if filled != [field]:
        where = f"in its {field}, or raw" if field else "raw"
        raise Misfit(f"The values of {tensor.name[:40]!r}, which are {kind[:20]}, must stand {where}.")
    values = getattr(tensor.contents, field)
    if len(values) != math.prod(tensor.shape):
        raise Misfit(f"The values of {tensor.name[:40]!r} must be as many as its shape says; got {len(values)}.")
    if kind == "BYTES":
        return b"".join(len(v).to_bytes(4, "little") + v for v in values)
    return np.asarray(_narrow(np.array(values), kind), DTYPE[kind]).tobytes()


def _narrow(values: np.ndarray, kind: str) -> np.ndarray:
    """Whole numbers came in 32 bits or more: those that the datatype does not have are refused."""
    if kind in ("INT8", "INT16", "UINT8", "UINT16"):
        try:
            whole(values, DTYPE[kind], kind)
        except BadRequest as error:
            raise Misfit(error.sentence) from None
    return values


def packed(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """(the JSON of a body, the raw values of each of its tensors): what `v2` has written."""
    cut = int(headers.get(LENGTH, len(body)))
    tree, at, raw = orjson.loads(body[:cut]), cut, []
    for tensor in tree.get("inputs") or tree.get("outputs") or ():
        size = tensor.get("parameters", {}).get(SIZE)
        raw.append(_of_json(tensor) if size is None else body[at : at + size])
        at += size or 0
    return tree, raw


def _of_json(tensor: dict[str, Any]) -> bytes:
    """Values that are written as JSON: words, numbers of which some may be missing, and classes by name, of which those
    that are withheld are null."""
    data, kind = tensor["data"], tensor["datatype"]
    if kind == "BYTES":
        return raw_words(["" if v is None else v for v in data])
    if DTYPE[kind].kind != "f" and None in data:
        tensor["datatype"], data = "INT64", [NO_CLASS if v is None else v for v in data]  # false is not withheld
    return np.array(data, DTYPE[tensor["datatype"]]).tobytes()


def _withheld(kind: str, raw: bytes) -> list[Any] | None:
    """The reverse; None where nothing is withheld."""
    if kind == "BYTES":
        words = [word.decode("utf-8", "replace") or None for word in _words(raw)]
        return words if None in words else None
    if kind != "INT64":
        return None
    values = np.frombuffer(raw, "<i8").tolist()
    return [None if v == NO_CLASS else v for v in values] if NO_CLASS in values else None


def tensors_out(
    trees: Sequence[dict[str, Any]], raw: Sequence[bytes], typed: bool = False
) -> tuple[list[Any], list[bytes]]:
    """(messages, what is sent raw beside them): the tensors of `packed`. Typed values stand in the messages, and
    nothing is raw."""
    made = [message("Tensor", name=t["name"], datatype=t["datatype"], shape=t["shape"], parameters=hints(t))
            for t in trees]  # fmt: skip
    if not typed or any(t.datatype not in CONTENTS for t in made):
        return made, list(raw)
    for tensor, part in zip(made, raw, strict=True):
        values = _words(part) if tensor.datatype == "BYTES" else np.frombuffer(part, DTYPE[tensor.datatype]).tolist()
        getattr(tensor.contents, CONTENTS[tensor.datatype]).extend(values)
    return made, []


def hints(tree: dict[str, Any]) -> list[Any]:
    """The parameters of a question or a tensor, such as the content type by which a server reads its columns."""
    texts = {k: v for k, v in tree.get("parameters", {}).items() if isinstance(v, str)}
    return [message("Parameter", key=key, value=message("Value", string_param=v)) for key, v in texts.items()]


def _words(raw: bytes) -> list[bytes]:
    """The texts of a raw tensor."""
    words, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise Misfit("A text ends behind its tensor.")
        words.append(raw[at + 4 : end])
        at = end
    return words
