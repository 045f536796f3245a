"""Strict reading: JSON and tensors from strangers, refused in one sentence or understood in one way.

Servers disagree about the odd corners of JSON: of two equal keys one keeps the first and another
the last, strings are numbers here and errors there. A guard that reads a body in another way than
the model behind it inspects the wrong question. So what was read is written anew before it is sent
on: of two equal keys the last one holds, for the guard and for the model. Most other corners are refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain
from operator import mul
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Floats

__all__ = [
    "BadRequest",
    "finite",
    "flattened",
    "floats",
    "given",
    "json_typed",
    "listed",
    "loads",
    "moderate",
    "nested_as",
    "numbers",
    "only_keys",
    "rows_in",
    "text",
]

ONE_THREAD = 10_000  # numbers; for more, a linear algebra library may start threads
DEPTH = 32  # of nested lists and objects; numpy reads no deeper, and nothing honest comes near


JSON_TYPES = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded")


class BadRequest(Exception):
    """What a client sent cannot be taken: a status from 400 to 499 and one sentence."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status


def loads(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, the last one of equal keys; refuses anything else, and deep nesting."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body must be valid JSON: {str(error).split(':')[0]}.") from None
    if not isinstance(tree, dict):
        raise BadRequest(f"The body must be a JSON object; got a {_kind(tree)}.")
    _bounded(tree, 0)
    return tree


def json_typed(headers: Mapping[str, str]) -> None:
    """Refuse a body that says it is something else than JSON; silence and what `curl -d` says by itself are taken."""
    kind = headers.get("content-type")
    if kind is not None and kind not in JSON_TYPES and kind.partition(";")[0].strip().lower() not in JSON_TYPES:
        raise BadRequest("The content type must be application/json.", 415)


def _bounded(tree: Any, depth: int) -> None:
    """Refuse deep nesting; lists are looked into that begin with an object or a list."""
    if depth > DEPTH:
        raise BadRequest(f"The body must be nested at most {DEPTH} deep.")
    for value in tree.values() if type(tree) is dict else tree:
        if type(value) is dict or (type(value) is list and value and type(value[0]) in (dict, list)):
            _bounded(value, depth + 1)


def floats(flat: list[Any]) -> Array:
    """(n,) a list of Python's numbers as 64-bit floats, three times as fast as numpy; struct.error if it holds more."""
    return np.frombuffer(struct.pack(f"{len(flat)}d", *flat))


def numbers(
    data: Any,
    where: str,
    *,
    row: Array | None = None,
    missing: bool = False,
    booleans: bool = False,
) -> Array:
    """Nested lists of JSON numbers as 64-bit floats; `missing` lets a null mean NaN. `row` are the numbers of
    an empty list that were read separately.

    numpy is not asked what a list holds: one long text among many numbers would make it set aside room for a text
    as long in every place."""
    if row is not None:
        return row if data == [] else row.reshape(*flattened(data, where)[0][:-1], row.size)
    shape, flat = flattened(data, where)
    if not flat:
        raise BadRequest(f"{where} must be a list with at least one number.")
    try:
        return floats(flat).reshape(shape)
    except struct.error:  # not only numbers
        kinds = set(map(type, flat))
    if list in kinds:
        raise BadRequest(f"{where} must hold lists of equal length.")
    if not (missing and kinds <= {int, float, type(None), *([bool] if booleans else [])}):
        raise BadRequest(f"{where} must hold numbers only.")
    return floats([math.nan if v is None else v for v in flat]).reshape(shape)


def flattened(data: Any, where: str) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and what they hold, in one list."""
    if not isinstance(data, list):
        raise BadRequest(f"{where} must hold numbers only.")
    shape = [len(data)]
    while data and type(data[0]) is list:
        width = len(data[0])
        if len(shape) == DEPTH or any(type(row) is not list or len(row) != width for row in data):
            raise BadRequest(f"{where} must hold lists of equal length, nested at most {DEPTH} deep.")
        shape.append(width)
        data = data[0] if len(data) == 1 else list(chain.from_iterable(data))
    return tuple(shape), data


def single(x: Floats) -> NDArray[np.float32]:
    """x in 32-bit floats; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return x.astype(np.float32, copy=False)


def moderate(x: Floats) -> bool:
    """Whether all are finite for certain, in 32 bits too; no other number of them all is had as quickly."""
    return x.size <= ONE_THREAD and float(np.vdot(x, x)) < 1e76


def rows_in(found: Floats, shape: tuple[int, ...], limit: int, where: str) -> Floats:
    """(n, *shape) from an array that must have this shape and at most `limit` rows."""
    if found.shape[1:] != shape:
        want = ", ".join(map(str, ("n", *shape)))
        raise BadRequest(f"{where} must have shape ({want}); got {_shape(found.shape)}.")
    if not 1 <= len(found) <= limit:
        raise BadRequest(f"{where} must hold 1 to {limit} rows; got {len(found)}.", 413 if len(found) else 400)
    return found


def finite(x: Floats, where: str, *, missing: bool = False) -> Floats:
    """x, refused if it holds NaN or infinity (a NaN is an omitted input where `missing`)."""
    good = np.isfinite(x)
    if np.count_nonzero(good) < x.size and not (missing and (good | np.isnan(x)).all()):
        raise BadRequest(f"{where} must be finite; got NaN or infinity.")
    return x


def claimed_shape(value: Any, where: str) -> tuple[int, ...]:
    """A shape that a client claims, as positive ints whose product nothing is allocated for."""
    if not isinstance(value, list) or not 1 <= len(value) <= DEPTH:
        raise BadRequest(f"{where} must be a list of 1 to {DEPTH} positive integers.")
    if set(map(type, value)) != {int} or min(value) < 1:
        raise BadRequest(f"{where} must hold positive integers only.")
    return tuple(value)


def same_count(shape: tuple[int, ...], size: int, where: str) -> None:
    """Refuse data whose length is not the product of its claimed shape."""
    if math.prod(shape) != size:
        raise BadRequest(f"{where} must hold as many numbers as its shape says; got {size}.")


def nested_as(nested: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether lists nested like this are in this shape, or flat in part: 2 x 3 may come as 6, but not as 3 x 2."""
    blocks = set(accumulate(reversed(shape), mul, initial=1))
    return set(accumulate(reversed(nested), mul, initial=1)) <= blocks and math.prod(nested) == math.prod(shape)


def only_keys(tree: Any, allowed: Iterable[str], where: str) -> dict[str, Any]:
    """`tree` if it is an object all of whose keys are on the list."""
    if not isinstance(tree, dict):
        raise BadRequest(f"{where} must be an object; got a {_kind(tree)}.")
    for key in tree:
        if key not in allowed:
            raise BadRequest(f"{where} has {key[:40]!r}, which is not allowed here.")
    return tree


def given(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` without the keys that are null: whatever may be left out may be null."""
    return {key: value for key, value in tree.items() if value is not None}


def listed(tree: Any, where: str, length: Sequence[int] | range = range(1, 65)) -> list[Any]:
    """`tree` if it is a list of an allowed length."""
    if not isinstance(tree, list) or len(tree) not in length:
        raise BadRequest(f"{where} must be a list of {length[0]} to {length[-1]} objects.")
    return tree


def text(value: Any, where: str, limit: int = 128) -> str:
    """`value` if it is short printable text."""
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        raise BadRequest(f"{where} must be text of at most {limit} printable characters.")
    return value


def no_booleans(body: bytes, data: Any, where: str) -> None:
    """Refuse true and false among numbers, which numpy would take for 1 and 0."""
    if (_holds(body, b"true", b"u") or _holds(body, b"false", b"l")) and _holds_bool(data):
        raise BadRequest(f"{where} must hold numbers only.")


def _holds(body: bytes, word: bytes, letter: bytes) -> bool:
    """Whether the word is in the body. Behind the last `letter` of it there is none, and in most bodies that is at
    the head: a letter is found forty times as fast as a word."""
    return body.find(word, 0, body.rfind(letter) + len(word)) >= 0


def _holds_bool(data: Any) -> bool:
    level = [data]  # level by level: how deep lists are nested is the client's choice
    while level:
        if bool in set(map(type, level)):
            return True
        level = [v for part in level if type(part) is list for v in part]
    return False


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape[:8]))}{', ...' if len(shape) > 8 else ''})"


def _kind(tree: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(tree), "null" if tree is None else "object")
