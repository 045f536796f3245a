"""A long list of numbers in a JSON body, read separately from the rest: nine tenths of most bodies are one such list.

simdjson hands its numbers over without making a Python object of each, which halves the time. It is given nothing but
the list; whatever else a body holds, and every body out of the ordinary, is read as `strict` reads it, so that each is
understood or refused as it would be without simdjson. Where that is not installed, all are.

The numbers of a large body are read and written by pieces, because whoever parses or writes JSON keeps Python's lock
until it is done, and the event loop waits for that.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, cast

import numpy as np
import orjson

from portcullis_ml.core.types import Array
from portcullis_ml.gateway.protocols.claims import Room, fits
from portcullis_ml.gateway.protocols.strict import DEPTH, BadRequest, loads, no_booleans, numbers

try:
    import simdjson
except ImportError:  # it has no wheel for this Python
    PARSER = None
else:
    PARSER = simdjson.Parser(1 << 20)  # bytes; it keeps some 14 times as much for good

__all__ = ["LARGE", "MANY", "loads_rest", "loads_with_numbers", "numbers_out", "whole_or_rest", "without_numbers"]

LEAST, SHARE = 256, 0.5  # bytes of a list, and its part of the body, for which this pays
SPACE = b" \t\r\n"
OPENING = b"[" + SPACE
LARGE, PIECE = 128 << 10, 64 << 10  # bytes of a body that is read by pieces, and of a piece: it takes a millisecond
REST = LARGE  # bytes around the numbers, at most
MANY, SOME = 32_768, 16_384  # numbers that are written by pieces, and of a piece: it takes half a millisecond


def loads_with_numbers(
    body: bytes, *path: str | int, most: Room | None = None, missing: bool = False
) -> tuple[dict[str, Any], Array | None]:
    """What `loads` says of the body, and None; or that without the numbers at the end of this path, where an empty list
    is left, and these: (n,) 64-bit floats of one row, or an array of all rows. Raises BadRequest as `loads` does, and
    where the body holds more than there is room for; `missing` lets a null mean NaN."""
    found = without_numbers(body, f'"{path[-1]}"'.encode(), most, missing)
    tree = loads_rest(found[0], path) if found else None
    if found is None:
        return loads(body), None
    return (whole_or_rest(body, found[0]), None) if tree is None else (tree, found[1])


def without_numbers(
    body: bytes, key: bytes, most: Room | None = None, missing: bool = False
) -> tuple[bytes, Array] | None:
    """The body with an empty list in place of the first one behind this key, and the numbers of that; None where it
    cannot be told for certain, or does not pay. BadRequest where the body holds more than there is room for."""
    large = len(body) > LARGE
    if large and most is not None:
        fits(body, most)
    found = _one_row(body, key)
    if not large and most is not None:  # the numbers of one row have been read in less time than they are counted in
        fits(body if found is None else found[0], most)
    return _by_pieces(body, key, missing) if large and found is None else found


def _one_row(body: bytes, key: bytes) -> tuple[bytes, Array] | None:
    """As `without_numbers`, where nearly all of the body is the innermost list of one row."""
    at = body.find(key)
    if PARSER is None or at < 0:
        return None
    after = at + len(key)
    first = body.find(b"[", after)
    end = body.find(b"]", first) + 1
    start = body.rfind(b"[", first, end)
    if start < 0 or body[after:start].strip(OPENING) != b":":
        return None
    if end - start < max(LEAST, SHARE * len(body)):
        return None
    rest = body[:start] + b"[]" + body[end:]
    if rest.count(key) != 1 or b"\\" in rest:  # else the list at that path is this one: no other key is spelled like it
        return None
    try:
        row = np.frombuffer(cast("simdjson.Array", PARSER.parse(body[start:end])).as_buffer(of_type="d"))
    except (RuntimeError, TypeError, ValueError):  # RuntimeError: another thread parses too
        return None
    return (rest, row) if row.size else None


def whole_or_rest(body: bytes, rest: bytes) -> dict[str, Any]:
    """What `loads` says of a body whose list is not where it should be. A large one is refused by what stands around
    the list, which is as wrong."""
    return loads(body if len(body) <= LARGE else rest)


def _by_pieces(body: bytes, key: bytes, missing: bool) -> tuple[bytes, Array] | None:
    """As `without_numbers`, where the list holds numbers and lists of them, whatever their shape."""
    at = body.find(key)
    start = body.find(b"[", at) if at >= 0 else -1
    if start < 0 or body[at + len(key) : start].strip(SPACE) != b":":
        return None
    ends = [end for end in (body.find(b'"', start), body.find(b"}", start)) if end >= 0]
    text = body[start : min(ends, default=len(body))].rstrip(SPACE + b",")
    rest = body[:start] + b"[]" + body[start + len(text) :]
    if rest.count(key) != 1 or b"\\" in rest or b"BOOL" in rest or text.count(b"[") != text.count(b"]"):
        return None
    if len(rest) > REST or not text.endswith(b"]"):  # a word may stand behind the list, where none belongs
        return None
    parts = [_piece(text[i:j], key.decode(), missing) for i, j in _cuts(text)]
    if len({part.shape[1:] for part in parts}) != 1:
        raise BadRequest(f"{key.decode()} must hold lists of equal length.")
    return rest, np.concatenate(parts)


def _cuts(text: bytes) -> list[tuple[int, int]]:
    """Where nested lists without texts in them are cut: between two lists of the outermost one, or two numbers of it.

    Pieces that are lists with a bracket at each end are the whole list, one after another, because every comma in it
    parts two values."""
    depth = text[: len(text) - len(text.lstrip(OPENING))].count(b"[")
    between = _between(min(depth, DEPTH))
    begin, last, cuts = text.find(b"[") + 1, text.rfind(b"]"), list[tuple[int, int]]()
    while found := between.search(text, begin + PIECE, last):
        cuts.append((begin, found.end() - 1))
        begin = found.end()
    return [*cuts, (begin, last)]


@lru_cache(maxsize=DEPTH)
def _between(depth: int) -> re.Pattern[bytes]:
    """What stands between two values of the outermost of so many nested lists."""
    return re.compile(rb"[ \t\r\n]*".join([*[rb"\]"] * (depth - 1), rb","]))


def _piece(text: bytes, where: str, missing: bool) -> Array:
    """(k, ...) the numbers of one piece."""
    try:
        tree = orjson.loads(b"[%b]" % text)
    except orjson.JSONDecodeError:
        raise BadRequest(f"{where} must be valid JSON: numbers, or lists of equal length of them.") from None
    no_booleans(text, tree, where)
    return numbers(tree, where, missing=missing)


def loads_rest(rest: bytes, path: tuple[str | int, ...]) -> dict[str, Any] | None:
    """What `loads` says of the rest, as `without_numbers` gives it; None if the list is not at the end of this path."""
    try:
        tree = loads(rest)
        hole: Any = tree
        for step in path:
            hole = hole[step]
    except (BadRequest, LookupError, TypeError):
        return None
    while type(hole) is list and len(hole) == 1:
        hole = hole[0]
    return tree if hole == [] else None


def numbers_out(a: Array) -> Any:
    """The numbers as `orjson.dumps` takes them with OPT_SERIALIZE_NUMPY: many are written here already, by pieces."""
    a = np.ascontiguousarray(a)
    return a if a.size <= MANY else orjson.Fragment(_written(a))


def _written(a: Array) -> bytes:
    """The array as JSON, no more than `SOME` numbers of it at a time."""
    step = SOME * len(a) // a.size
    if step >= len(a):
        return orjson.dumps(a, option=orjson.OPT_SERIALIZE_NUMPY)
    if step:
        inner = [_written(a[i : i + step])[1:-1] for i in range(0, len(a), step)]
    else:
        inner = [_written(row) for row in a]
    return b"[%b]" % b",".join(inner)
