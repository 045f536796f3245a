"""The answer of a model server that speaks the Open Inference Protocol: from its tensors to rows."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.protocols.answers import answer_from
from portcullis_ml.gateway.protocols.strict import floats, nested_as
from portcullis_ml.gateway.protocols.wire import DTYPE, ModelSpec

__all__ = ["one_row", "raw_words", "several_rows", "words_of"]


def one_row(served: ModelSpec, tree: Any) -> Answer | None:
    """As many scores as there are classes, with or without a label, in plain numbers; None where anything is out of the
    ordinary, such as a third tensor."""
    classes = served.interface.n_classes
    try:
        *labels, scores = tree["outputs"]
        shown, kind = scores["data"], DTYPE[scores["datatype"]]
        found = [v for t in labels if t["datatype"] == "INT64" and t["shape"] == [1] for v in t["data"]]
        plain = [t["name"] for t in (*labels, scores) if "binary_data_size" not in (t.get("parameters") or ())]
        shaped = scores["shape"] == [1, classes]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    names = [served.label, served.scores] if served.label else [served.scores]
    if plain != names or len(found) != len(labels) or kind.kind != "f" or not shaped:
        return None
    if type(shown) is not list or len(shown) != classes or set(map(type, shown)) != {float}:
        return None
    row = np.array([shown], kind).astype(np.float64, copy=False)
    if not labels:
        return Answer(row.argmax(axis=1), row)
    if served.class_names or type(found[0]) is not int or not 0 <= found[0] < classes:
        return None
    return Answer(np.array(found, np.int64), row)


def several_rows(served: ModelSpec, n: int, tree: Any, raw: memoryview) -> Answer:
    """Whatever tensors came, as an answer for n rows, or Unreachable. Those that were not asked for are read past."""
    found: dict[str, np.ndarray] = {}
    others = []
    try:
        for output in tree["outputs"]:
            name, size, part = output["name"], (output.get("parameters") or {}).get("binary_data_size"), None
            if size is not None:
                part, raw = raw[:size], raw[size:]
                if type(size) is not int or len(part) != size:
                    raise Unreachable(f"The model server's tensor {name!r} must have {size!r} bytes.")
            if name not in served.outputs:
                others.append(name)
            elif name in found:
                raise Unreachable(f"The model server answered two tensors named {name!r}.")
            else:
                found[name] = _tensor(output, part)
    except (KeyError, TypeError, ValueError, AttributeError, struct.error):
        raise Unreachable("The model server's answer must hold tensors of the Open Inference Protocol.") from None
    labels = found.get(served.label) if served.label else None
    scores = found.get(served.scores) if served.scores else None
    if labels is None and scores is None:
        wanted = served.scores or served.label
        raise Unreachable(f"The model server must answer a tensor named {wanted!r}; it sent {others}.")
    if scores is not None and scores.dtype.kind == "O":
        raise Unreachable(f"The model server's tensor {served.scores!r} must hold numbers; it holds words.")
    return answer_from(served, n, scores, labels, found.get(served.explanation) if served.explanation else None)


def _tensor(output: dict[str, Any], part: memoryview | None) -> np.ndarray:
    """A tensor's values in the shape that it declares."""
    name, kind, shape = output["name"], output["datatype"], output["shape"]
    if kind != "BYTES" and kind not in DTYPE:
        raise Unreachable(f"The model server's tensor {name!r} is {str(kind)[:20]}; the gate reads {', '.join(DTYPE)}.")
    if part is not None:
        value = np.array(words_of(part), object) if kind == "BYTES" else np.frombuffer(part, DTYPE[kind])
    elif kind == "BYTES":
        value = np.array(output["data"], object)
    else:
        value = _plain(output["data"])
        if DTYPE[kind].kind == "f":
            value = value.astype(DTYPE[kind])
    given = list(map(int, shape))
    if given != shape or min(given, default=0) < -1 or not _fits(value.shape, value.size, given):
        raise Unreachable(
            f"The model server's tensor {name!r} must hold as many values as its shape says; it says {shape} of "
            f"{' x '.join(map(str, value.shape))}."
        )
    return value.reshape(given)


def _fits(nested: tuple[int, ...], size: int, shape: list[int]) -> bool:
    """Whether values that are nested like this can be in this shape, of which one length may be open (-1)."""
    known = [s for s in shape if s != -1]
    if len(known) < len(shape):
        rest = size // max(math.prod(known), 1)
        shape = [rest if s == -1 else s for s in shape]
    return nested_as(nested, tuple(shape))


def words_of(raw: memoryview, wrong: str = "replace") -> list[str]:
    """The texts of a raw tensor: the length of each in four bytes, and its bytes; `wrong` says, as Python does, what
    becomes of bytes that are no UTF-8. Raises ValueError or struct.error."""
    words, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4 + length
        if at > len(raw):
            raise ValueError("a text ends behind the tensor")
        words.append(str(raw[at - length : at], "utf-8", wrong))
    return words


def raw_words(words: list[str]) -> bytes:
    """The reverse."""
    return b"".join(struct.pack("<I", len(w)) + w for w in (word.encode() for word in words))


def _plain(data: Any) -> np.ndarray:
    """What numpy makes of a tensor's data, as 64-bit floats; a long flat list of numbers takes a shorter way."""
    if type(data) is list and len(data) > 60:
        try:
            return floats(data)
        except struct.error:  # nested, or not only numbers
            pass
    return np.asarray(data, np.float64)
