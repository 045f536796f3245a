"""A long list of numbers in a JSON body, read separately from the rest: nine tenths of most bodies are one such list.

simdjson hands its numbers over without making a Python object of each, which halves the time. It is given nothing but
the list; whatever else a body holds, and every body out of the ordinary, is read as `strict` reads it, so that each is
understood or refused as it would be without simdjson. Where that is not installed, all are.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from portcullis_ml.core.types import Array
from portcullis_ml.gateway.protocols.strict import BadRequest, loads

try:
    import simdjson
except ImportError:  # it has no wheel for this Python
    PARSER = None
else:
    PARSER = simdjson.Parser(1 << 20)  # bytes; it keeps some 14 times as much for good

__all__ = ["loads_rest", "loads_with_numbers", "without_numbers"]

LEAST, SHARE = 256, 0.5  # bytes of a list, and its part of the body, for which this pays
OPENING = b"[ \t\r\n"


def loads_with_numbers(body: bytes, *path: str | int) -> tuple[dict[str, Any], Array | None]:
    """What `loads` says of the body, and None; or that without the one row of numbers at the end of this path, which
    is an empty list there, and the row, (n,) 64-bit floats. Raises BadRequest as `loads` does."""
    found = without_numbers(body, f'"{path[-1]}"'.encode())
    tree = loads_rest(found[0], path) if found else None
    return (loads(body), None) if found is None or tree is None else (tree, found[1])


def without_numbers(body: bytes, key: bytes) -> tuple[bytes, Array] | None:
    """The body with an empty list in place of the first one behind this key, and the numbers of that; None where it
    cannot be told for certain, or does not pay."""
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
