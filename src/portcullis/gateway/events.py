"""Events: what happened to a client, in order, from which everything that the guard knows of him follows.

    admit    rows asked at a time; the event's place in the client's journal is the request's sequence number
    release  the model's undefended answer to the admitted request `of`
    undo     the admitted request `of` got no answer
    whole    admit and release in one, for requests served while the journal could not be written
    block, unblock, clear    an operator's word

A state is a fold over the journal: whoever folds the same events with the same guard stands where
everyone else stands, after a crash, on another replica, or in a replay a month later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from portcullis.core.errors import InputError
from portcullis.core.types import Answer, Array

__all__ = ["Event", "pack_event", "unpack_event"]

KINDS = ("admit", "release", "undo", "whole", "block", "unblock", "clear")


@dataclass(frozen=True)
class Event:
    """One line of a client's journal."""

    kind: str
    at: float = 0.0
    of: int = 0  # release and undo: the sequence number of the request
    x: Array | None = None
    answer: Answer | None = None
    by: str = ""  # the operator


def narrow(a: np.ndarray) -> np.ndarray:
    """The array in the smallest type that holds its values exactly: half the bytes for 32-bit inputs."""
    if a.dtype != np.float64:
        return np.ascontiguousarray(a)
    with np.errstate(over="ignore", invalid="ignore"):
        small = a.astype(np.float32)
    same = (small == a).all() or (not np.isfinite(a).all() and np.array_equal(small, a, equal_nan=True))
    return np.ascontiguousarray(small if same else a)


def pack_event(event: Event) -> bytes:
    """JSON header, then raw little-endian arrays."""
    arrays: list[tuple[str, np.ndarray]] = []
    if event.x is not None:
        arrays.append(("x", narrow(event.x)))
    if event.answer is not None:
        shown = (("labels", event.answer.labels), ("scores", event.answer.scores))
        arrays += [(name, np.ascontiguousarray(a)) for name, a in shown if a is not None]
    tree: dict[str, Any] = {"k": event.kind, "at": event.at, "of": event.of, "by": event.by}
    tree["a"] = [(name, a.dtype.str, a.shape) for name, a in arrays]
    header = orjson.dumps(tree)
    return b"".join([len(header).to_bytes(4, "little"), header, *(a.tobytes() for _, a in arrays)])


def unpack_event(data: bytes) -> Event:
    """The event that `pack_event` wrote; InputError if the bytes are damaged."""
    try:
        start = 4 + int.from_bytes(data[:4], "little")
        tree = orjson.loads(data[4:start])
        found: dict[str, Any] = {}
        for name, dtype, shape in tree["a"]:
            count = int(np.prod(shape, dtype=int))
            value = np.frombuffer(data, np.dtype(dtype), count, start).reshape(shape)
            start += value.nbytes
            found[name] = value.astype(np.float64) if value.dtype.kind == "f" else value.astype(np.int64)
        shown = "labels" in found or "scores" in found
        answer = Answer(found.get("labels"), found.get("scores")) if shown else None
        return Event(tree["k"], tree["at"], tree["of"], found.get("x"), answer, tree["by"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"An event of the journal is damaged ({error}). Restore the state file or clear it."
        ) from error
