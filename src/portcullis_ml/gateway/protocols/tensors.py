"""The answer of a model server that speaks the Open Inference Protocol: from its tensors to rows."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.protocols.strict import floats
from portcullis_ml.gateway.protocols.wire import DTYPE, ModelSpec, answer_from

__all__ = ["one_row", "several_rows"]


def one_row(served: ModelSpec, tree: Any) -> Answer | None:
    """As many scores as there are classes, with or without a label, in plain numbers; None where anything is out of the
    ordinary, such as a third tensor."""
    try:
        *labels, scores = tree["outputs"]
        shown, kind = scores["data"], DTYPE[scores["datatype"]]
        found = [v for t in labels if t["datatype"] == "INT64" for v in t["data"]]
        plain = [t["name"] for t in (*labels, scores) if "binary_data_size" not in (t.get("parameters") or ())]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    names = [served.label, served.scores] if served.label else [served.scores]
    if plain != names or len(found) != len(labels) or kind.kind != "f":
        return None
    classes = served.interface.n_classes
    if type(shown) is not list or len(shown) != classes or set(map(type, shown)) != {float}:
        return None
    row = np.array([shown], kind).astype(np.float64, copy=False)
    if not labels:
        return Answer(row.argmax(axis=1), row)
    if type(found[0]) is not int or not 0 <= found[0] < classes:
        return None
    return Answer(np.array(found, np.int64), row)


def several_rows(served: ModelSpec, n: int, tree: Any, raw: memoryview) -> Answer:
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
    return answer_from(served, n, scores, labels, found.get(served.explanation) if served.explanation else None)


def _plain(data: Any) -> np.ndarray:
    """What numpy makes of a tensor's data, as 64-bit floats; a long flat list of numbers takes a shorter way."""
    if type(data) is list and len(data) > 60:
        try:
            return floats(data)
        except struct.error:  # nested, or not only numbers
            pass
    return np.asarray(data, np.float64)
