"""Rows in parts, as plain JSON has them: {name: values of all rows}, or a list of {name: value}.

TensorFlow Serving calls the first the columnar format and the second the row format; MLflow and pandas have a table in
the second form as records, and as a list of names beside rows of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portcullis_ml.core.types import Array, Floats
from portcullis_ml.gateway.protocols.described import object_of, some
from portcullis_ml.gateway.protocols.parts import Part, coded, joined, named, parted, rows_of
from portcullis_ml.gateway.protocols.strict import BadRequest, flattened, no_booleans, numbers, only_keys
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["columns_described", "columns_in", "columns_out", "record_described", "records_in", "records_out"]


def columns_in(served: ModelSpec, body: bytes, given: Any, where: str) -> Array:
    """(n, d) rows from {name: values of all rows}. Raises BadRequest."""
    parts, missing = served.parts, served.interface.missing
    tree = only_keys(given, {p.name for p in parts}, where)
    no_booleans(body, list(tree.values()), where)
    found = {p.name: rows_of(p, _values(p, tree[p.name], missing)) for p in parts if p.name in tree}
    return joined(parts, found, served.max_rows)


def records_in(served: ModelSpec, body: bytes, given: Any, where: str) -> Array:
    """(n, d) rows from a list of {name: value}; where inputs may be missing, a name may be left out. BadRequest."""
    parts, most = served.parts, served.max_rows
    if not isinstance(given, list) or not 1 <= len(given) <= most:
        many = isinstance(given, list) and len(given) > most
        raise BadRequest(f"{where} must be a list of 1 to {most} objects.", 413 if many else 400)
    names = {p.name for p in parts}
    rows = [only_keys(row, names, "A row") for row in given]
    columns = {p.name: [row.get(p.name) for row in rows] for p in parts}
    lacking = next((p for p in parts if None in columns[p.name] and not served.interface.missing), None)
    if lacking:
        raise BadRequest(f"A row lacks the input {lacking.name[:60]!r}; the model takes {named(parts)}.")
    return columns_in(served, body, columns, where)


def _values(part: Part, data: Any, missing: bool) -> Array:
    """Nested lists of numbers, or of the part's words, as 64-bit floats in the lists' shape. Raises BadRequest."""
    if part.words:
        nested, flat = flattened(data, part.where)
        if str in set(map(type, flat)):
            return coded(part, flat, missing=missing).reshape(nested)
    return numbers(data, part.where, missing=missing)


def columns_out(served: ModelSpec, x: Floats) -> dict[str, Any]:
    """{name: values of all rows}; a missing one is null."""
    return {part.name: values.tolist() for part, values in parted(served.parts, x)}


def records_out(served: ModelSpec, x: Floats) -> list[dict[str, Any]]:
    """A list of {name: value}."""
    columns = columns_out(served, x)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def record_described(served: ModelSpec) -> dict[str, Any]:
    """Schema of one row."""
    must = () if served.interface.missing else tuple(p.name for p in served.parts)
    return object_of(must, **{p.name: _value(p, p.shape, served.interface.missing) for p in served.parts})


def columns_described(served: ModelSpec) -> dict[str, Any]:
    """Schema of all rows by columns."""
    parts, missing, most = served.parts, served.interface.missing, served.max_rows
    columns = {p.name: some(_value(p, p.shape, missing), 1, most) for p in parts}
    single = {p.name: some(some(_value(p, (), missing), 1, 1), 1, most) for p in parts if p.shape == ()}
    return object_of(tuple(columns), **{n: {"anyOf": [c, single[n]]} if n in single else c for n, c in columns.items()})


def _value(part: Part, shape: Sequence[int], missing: bool) -> dict[str, Any]:
    """Schema of one row's value of a part."""
    nothing = [None] if missing else []
    words: list[dict[str, Any]] = [{"enum": [*part.words, *nothing]}] if part.words else []
    found: dict[str, Any] = {"type": ["number", "null"] if missing else "number"}
    for width in reversed(shape):
        found = some(found, width, width)
    return {"anyOf": [found, *words]} if words else found
