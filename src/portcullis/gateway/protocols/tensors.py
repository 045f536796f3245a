"""The answer of a model server that speaks the Open Inference Protocol: from its tensors to rows."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from portcullis.core.errors import Unreachable
from portcullis.core.types import Answer
from portcullis.gateway.protocols.strict import floats
from portcullis.gateway.protocols.wire import DTYPE, Served, answer_from

__all__ = ["one_row", "several_rows"]


def one_row(served: Served, tree: Any) -> Answer | None:
    """A label and as many scores as there are classes, in plain numbers; None where anything is out of the ordinary."""
    try:
        label, scores = tree["outputs"]
        (found,), shown, kind = label["data"], scores["data"], DTYPE[scores["datatype"]]
        sizes = [(t.get("parameters") or {}).get("binary_data_size") for t in (label, scores)]
        names = (label["name"], scores["name"], label["datatype"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if names != (served.label, served.scores, "INT64") or sizes != [None, None] or kind.kind != "f":
        return None
    if type(found) is not int or not 0 <= found < served.interface.n_classes:
        return None
    if type(shown) is not list or len(shown) != served.interface.n_classes or set(map(type, shown)) != {float}:
        return None
    return Answer(np.array([found], np.int64), np.array([shown], kind).astype(np.float64, copy=False))


def several_rows(served: Served, n: int, tree: Any, raw: memoryview) -> Answer:
    """Whatever tensors came, as an answer for n rows, or Unreachable."""
    found = {}
    try:
        for output in tree["outputs"]:
            size = (output.get("parameters") or {}).get("binary_data_size")
            dtype = DTYPE[output["datatype"]]
            if size is None:
                value = _plain(output["data"]).astype(dtype)
            else:
                value, raw = np.frombuffer(raw[:size], dtype), raw[size:]
            found[output["name"]] = value
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unreachable("The upstream's answer must hold tensors of the Open Inference Protocol.") from None
    labels = found.get(served.label) if served.label else None
    scores = found.get(served.scores) if served.scores else None
    if labels is None and scores is None:
        raise Unreachable(f"The upstream must answer {served.scores or served.label!r}; it sent {sorted(found)}.")
    return answer_from(served, n, scores, labels)


def _plain(data: Any) -> np.ndarray:
    """What numpy makes of a tensor's data, as 64-bit floats; a long flat list of numbers takes a shorter way."""
    if type(data) is list and len(data) > 60:
        try:
            return floats(data)
        except struct.error:  # nested, or not only numbers
            pass
    return np.asarray(data, np.float64)
