"""A table's schema: inferred from the table, printed for people, corrected by a file of theirs.

A column of numbers is taken for a number in the range that the table shows, any other for a category with the values
that it holds. Both are guesses about what an API accepts. A TOML file puts them right, with a table for every column
that it has something to say about:

    [age]
    low = 17                              # the range that the API accepts
    high = 100
    [education_num]
    kind = "category"                     # numbers that are names; with `values`, these and no others
    [workclass]
    values = ["Private", "Never-worked"]  # may name values that this table does not hold
    [fnlwgt]
    drop = true                           # not an input of the API
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Feature

__all__ = ["aligned", "as_word", "corrected", "described", "read_schema"]

Corrections = Mapping[str, Mapping[str, Any]]
KEYS = {"kind", "low", "high", "values", "drop"}
SHOWN = 6  # values of a category in a printed schema


def read_schema(path: Path) -> Corrections:
    """The corrections in a TOML file (see the head of this file)."""
    try:
        read = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"The schema was expected in {path}; there is no such file. Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} was expected to be a schema in TOML; it cannot be read ({error}).") from error
    for name, about in read.items():
        if not isinstance(about, dict) or (unknown := sorted(set(about) - KEYS)):
            given = f"the key {unknown[0]!r}" if isinstance(about, dict) else repr(about)
            raise InputError(
                f"{path}: [{name}] may say {', '.join(sorted(KEYS))}; it has {given}. Write a table for every column."
            )
        if about.get("kind", "number") not in ("number", "category"):
            raise InputError(f'{path}: [{name}] kind must be "number" or "category"; got {about["kind"]!r}.')
    return read


def corrected(x: Array, features: Sequence[Feature], corrections: Corrections) -> tuple[Array, tuple[Feature, ...]]:
    """x (n, d) and its features as the corrections want them; dropped columns are gone."""
    names = [f.name for f in features]
    for name in corrections:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
            raise InputError(f"The schema speaks of a column {name!r}; the table has none. Did you mean {_or(near)}?")
    kept = [f for f in features if not corrections.get(f.name, {}).get("drop")]
    if not kept:
        raise InputError("The schema drops every column; an API takes at least one. Keep some.")
    want = [_corrected(f, x[:, names.index(f.name)], corrections.get(f.name, {})) for f in kept]
    return aligned(x, features, want, "The schema"), tuple(want)


def _corrected(feature: Feature, column: Array, about: Mapping[str, Any]) -> Feature:
    """The feature as the file wants it; column (n,) holds the values of the table."""
    kind = "category" if "values" in about else about.get("kind", "category" if feature.categorical else "number")
    if kind == "category":
        if "low" in about or "high" in about:
            raise InputError(f"Column {feature.name!r} is a category, which has values and no low or high.")
        usual = feature.values or [as_word(v) for v in np.unique(column).tolist()]
        values = tuple(map(as_word, about.get("values", usual)))
        if not values or len(set(values)) < len(values):
            raise InputError(f"Column {feature.name!r}: values must differ, and there must be some; got {values}.")
        return Feature(feature.name, values=values)
    low, high = feature.low, feature.high
    if feature.categorical:
        numbers = [_number(feature, word) for word in feature.values]
        low, high = min(numbers), max(numbers)
    low, high = float(about.get("low", low)), float(about.get("high", high))
    if not low < high and not low == high == feature.low:
        raise InputError(f"Column {feature.name!r}: low must be below high; got {low:g} and {high:g}.")
    return Feature(feature.name, low=low, high=high)


def aligned(x: Array, have: Sequence[Feature], want: Sequence[Feature], who: str = "The victim") -> Array:
    """Rows x (n, len(have)) with the columns `have`, as rows of the columns `want`: found by name, coded anew.

    `who` wants them, for the sentence about a column that is missing or a value that it has never seen.
    """
    place = {f.name: j for j, f in enumerate(have)}
    columns = []
    for feature in want:
        if feature.name not in place:
            near = difflib.get_close_matches(feature.name, place, n=3, cutoff=0.4) or list(place)
            raise InputError(
                f"{who} takes a column {feature.name!r}; the table has none. Did you mean {_or(near[:3])}? Rename it."
            )
        j = place[feature.name]
        columns.append(_recoded(x[:, j], have[j], feature, who))
    return np.column_stack(columns) if columns else np.empty((len(x), 0))


def _recoded(column: Array, have: Feature, want: Feature, who: str) -> Array:
    """(n,) values or codes of one feature, as values or codes of the other."""
    if have.values == want.values:
        return column
    if not want.categorical:
        return np.array([_number(have, word) for word in have.values])[column.astype(np.int64)]
    codes = {word: float(code) for code, word in enumerate(want.values)}
    if have.categorical:
        held, inverse = np.unique(column.astype(np.int64), return_inverse=True)
        words = [have.values[code] for code in held]
    else:
        numbers, inverse = np.unique(column, return_inverse=True)
        words = [as_word(v) for v in numbers.tolist()]
    strange = [word for word in words if word not in codes]
    if strange:
        rows = int(np.isin(inverse, [words.index(word) for word in strange]).sum())
        raise InputError(
            f"{who} has never seen {strange[0]!r} in column {want.name!r} ({rows} of {len(column)} rows); it knows "
            f"{', '.join(want.values[:SHOWN])}{', ...' if len(want.values) > SHOWN else ''}. Drop those rows, or "
            "correct the schema."
        )
    return np.array([codes[word] for word in words])[inverse]


def as_word(value: Any) -> str:
    """A category as a table writes it: 3.0 is "3"."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _number(feature: Feature, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"Column {feature.name!r} was expected to hold numbers; it holds {word!r}.") from None


def _or(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names[:3]))


def described(features: Sequence[Feature]) -> list[tuple[str, str, str]]:
    """(name, kind, what it may hold) of every column, for people."""
    lines = []
    for f in features:
        if f.categorical:
            more = f", ... ({f.categories} in all)" if f.categories > SHOWN else ""
            lines.append((f.name, "category", ", ".join(f.values[:SHOWN]) + more))
        else:
            lines.append((f.name, "number", f"{f.low:g} to {f.high:g}"))
    return lines
