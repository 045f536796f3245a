"""Rows as objects by the names of their columns, {"age": 37, "city": "Bern"}, and the words of categories as codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from portcullis_ml.core.types import Array, Feature, Floats
from portcullis_ml.gateway.protocols.described import Schema, const, object_of
from portcullis_ml.gateway.protocols.strict import BadRequest, only_keys
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["described_row", "records_out", "rows_by_name"]

SWITCH = ("false", "true")  # the words of a category that is a boolean in JSON


def rows_by_name(records: list[Any], served: ModelSpec) -> Array:
    """(n, columns) the rows in records, in which categories are words. A record must hold every column, which may be
    left out or null where inputs may be missing."""
    read = [(f, _codes(served, f)) for f in served.interface.features or ()]
    found = np.empty((len(records), len(read)))
    names = [f.name for f, _ in read]
    for i, record in enumerate(records):
        only_keys(record, names, "A row")
        found[i] = [_value(record.get(f.name), f, codes, served.interface.missing) for f, codes in read]
    return found


def _codes(served: ModelSpec, feature: Feature) -> Mapping[Any, float]:
    """Each word of a category, with its code; of a boolean, false and true."""
    known: dict[str, Mapping[Any, float]] = served.made.setdefault("codes", {})
    if feature.name not in known:
        words: tuple[Any, ...] = (False, True) if feature.values == SWITCH else feature.values
        known[feature.name] = {word: float(i) for i, word in enumerate(words)}
    return known[feature.name]


def _value(value: Any, feature: Feature, codes: Mapping[Any, float], missing: bool) -> float:
    if value is None:
        if missing:
            return math.nan
        raise BadRequest(f"A row must hold {feature.name[:80]!r}, which may not be null.")
    if not feature.categorical:
        if type(value) not in (int, float):
            raise BadRequest(f"{feature.name[:80]!r} must be a number.")
        return float(value)
    if type(value) is not (bool if feature.values == SWITCH else str) or value not in codes:
        words = ", ".join(map(_shown, list(codes)[:5])) + (", ..." if len(codes) > 5 else "")
        raise BadRequest(f"{feature.name[:80]!r} must be one of {words}.")
    return codes[value]


def _shown(word: Any) -> str:
    return str(word).lower() if isinstance(word, bool) else repr(word[:20])


def records_out(x: Floats, served: ModelSpec) -> list[dict[str, Any]]:
    """Rows (n, columns) as records. BadRequest where a category's code stands for no word."""
    named = [(f.name, _written(x[:, j], served, f)) for j, f in enumerate(served.interface.features or ())]
    return [{name: values[i] for name, values in named} for i in range(len(x))]


def _written(column: Floats, served: ModelSpec, feature: Feature) -> list[Any]:
    """One column's values as JSON has them; null for an omitted input."""
    values = column.astype(np.float64, copy=False).tolist()
    if not feature.categorical:
        return [None if value != value else value for value in values]
    known: dict[float | None, Any] = {code: word for word, code in _codes(served, feature).items()}
    known[None] = None
    try:
        return [known[None if value != value else value] for value in values]
    except KeyError:
        last = feature.categories - 1
        raise BadRequest(f"{feature.name[:80]!r} must be a category's code, a whole number from 0 to {last}.") from None


def described_row(served: ModelSpec) -> dict[str, Any]:
    """A row by name, described."""
    features = served.interface.features or ()
    missing = served.interface.missing
    return object_of(
        () if missing else tuple(f.name for f in features), **{f.name: _kind(f, missing) for f in features}
    )


def _kind(feature: Feature, missing: bool) -> Schema:
    if not feature.categorical:
        return {"type": ["number", "null"] if missing else "number"}
    words = (False, True) if feature.values == SWITCH else feature.values
    return const(*words, *([None] if missing else []))
