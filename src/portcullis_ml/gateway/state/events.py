"""Events: what happened to a client, in order, from which everything that the guard knows of it follows.

    admit    rows asked at a time; the event's place in the client's journal is the request's sequence number
    release  the model's undefended answer to the admitted request `of`
    undo     the admitted request `of` got no answer
    whole    admit and release in one, for requests served while the journal could not be written
    block, unblock, clear    an operator's word

A state is a fold over the journal: whoever folds the same events with the same guard stands where
everyone else stands, after a crash, on another replica, or in a replay a month later.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np
import orjson

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Answer, Floats

__all__ = ["JournalEvent", "narrow", "pack_by_words", "pack_event", "unpack_event"]

KINDS = ("admit", "release", "undo", "whole", "block", "unblock", "clear")
CODES = {kind: code for code, kind in enumerate(KINDS)}
SINGLE, DOUBLE, LONG = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i8")
MARK = 255  # in place of the highest byte of a JSON header's length
# kind, type of x (1 single, 2 double), its axes, MARK, whether there are labels, axes of scores, sizes, axes of the
# explanation (and 128 if it is single), at, of
HEAD = struct.Struct("<8Bdq")
SIZES = [struct.Struct(f"<{n}I") for n in range(256)]  # of x, labels, scores and explanation, one after another
IS_SINGLE = 128


class JournalEvent(NamedTuple):
    """One line of a client's journal."""

    kind: str
    at: float = 0.0
    of: int = 0  # release and undo: the sequence number of the request; admit and whole: bits of the work shown
    x: Floats | None = None
    answer: Answer | None = None
    by: str = ""  # the operator; of admit and whole, the account that asked, where its principal has another name


@np.errstate(over="ignore", invalid="ignore")
def _small(a: np.ndarray) -> np.ndarray:
    return a.astype(SINGLE)


def narrow(a: np.ndarray) -> np.ndarray:
    """The array in the smallest type that holds its values exactly: half the bytes for 32-bit inputs."""
    if a.dtype != DOUBLE:
        return np.ascontiguousarray(a)
    small = _small(a)
    # Bytes are compared, not numbers: a fifth of the time, and a NaN needs no care.
    return np.ascontiguousarray(small if small.astype(DOUBLE).tobytes() == a.tobytes() else a)


def pack_event(event: JournalEvent) -> bytes:
    """A header, then raw little-endian arrays. What nearly every event is made of has a header of fixed form."""
    kind, at, of, x, answer, by = event
    labels, scores = (None, None) if answer is None else (answer.labels, answer.scores)
    explanation = None if answer is None else answer.explanation
    plain = (x is None or x.dtype is SINGLE or x.dtype is DOUBLE) and (scores is None or scores.dtype is DOUBLE)
    plain = plain and (explanation is None or explanation.dtype == DOUBLE)
    if by or not plain or not (labels is None or (labels.dtype is LONG and labels.ndim == 1)):
        return pack_by_words(event)
    sizes: tuple[int, ...] = ()
    arrays = []
    form = [0, 0, 0, 0, 0]
    if x is not None:
        x = narrow(x) if x.dtype is DOUBLE else x
        form[0], form[1], sizes = 2 if x.dtype is DOUBLE else 1, x.ndim, x.shape
        arrays.append(x.tobytes())
    if labels is not None:
        form[2] = 1
        sizes += labels.shape
        arrays.append(labels.tobytes())
    if scores is not None:
        form[3] = scores.ndim
        sizes += scores.shape
        arrays.append(scores.tobytes())
    if explanation is not None:
        explanation = narrow(explanation)
        form[4] = explanation.ndim + (IS_SINGLE if explanation.dtype == SINGLE else 0)
        sizes += explanation.shape
        arrays.append(explanation.tobytes())
    head = HEAD.pack(CODES[kind], *form[:2], MARK, *form[2:4], len(sizes), form[4], at, of)
    return b"".join((head, SIZES[len(sizes)].pack(*sizes), *arrays))


def pack_by_words(event: JournalEvent) -> bytes:
    """The form that holds any event, and that journals were written in before: JSON header, then the arrays."""
    arrays: list[tuple[str, np.ndarray]] = []
    if event.x is not None:
        arrays.append(("x", narrow(event.x)))
    if event.answer is not None:
        arrays += [(name, np.ascontiguousarray(a)) for name, a in vars(event.answer).items() if a is not None]
    tree: dict[str, Any] = {"k": event.kind, "at": event.at, "of": event.of, "by": event.by}
    tree["a"] = [(name, a.dtype.str, a.shape) for name, a in arrays]
    header = orjson.dumps(tree)
    return b"".join([len(header).to_bytes(4, "little"), header, *(a.tobytes() for _, a in arrays)])


def unpack_event(data: bytes) -> JournalEvent:
    """The event that `pack_event` or `pack_by_words` wrote; InputError if the bytes are damaged."""
    try:
        return _unpack(data) if data[3] == MARK else _unpack_words(data)
    except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise InputError(
            f"An event of the journal is damaged ({error}). Restore the state file or clear it."
        ) from error


def _unpack(data: bytes) -> JournalEvent:
    code, kind_of_x, x_axes, _, labeled, score_axes, axes, explained, at, of = HEAD.unpack_from(data)
    sizes = SIZES[axes].unpack_from(data, HEAD.size)
    start = HEAD.size + 4 * axes

    def taken(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        nonlocal start
        found = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
        start += found.nbytes
        return found.astype(LONG if dtype is LONG else DOUBLE)

    x = taken(SINGLE if kind_of_x == 1 else DOUBLE, sizes[:x_axes]) if kind_of_x else None
    labels = taken(LONG, sizes[x_axes : x_axes + 1]) if labeled else None
    end = axes - explained % IS_SINGLE
    scores = taken(DOUBLE, sizes[end - score_axes : end]) if score_axes else None
    explanation = taken(SINGLE if explained > IS_SINGLE else DOUBLE, sizes[end:]) if explained else None
    answer = Answer(labels, scores, explanation) if labels is not None or scores is not None else None
    return JournalEvent(KINDS[code], at, of, x, answer)


def _unpack_words(data: bytes) -> JournalEvent:
    start = 4 + int.from_bytes(data[:4], "little")
    tree = orjson.loads(data[4:start])
    found: dict[str, Any] = {}
    for name, dtype, shape in tree["a"]:
        count = int(np.prod(shape, dtype=int))
        value = np.frombuffer(data, np.dtype(dtype), count, start).reshape(shape)
        start += value.nbytes
        found[name] = value.astype(np.float64) if value.dtype.kind == "f" else value.astype(np.int64)
    shown = "labels" in found or "scores" in found
    answer = Answer(*(found.get(name) for name in ("labels", "scores", "explanation"))) if shown else None
    return JournalEvent(tree["k"], tree["at"], tree["of"], found.get("x"), answer, tree["by"])
