"""Rows that travel in parts: a tensor for every column of a table, or several inputs of different shapes.

A row is its parts, flattened and put one behind the other in the policy's order. Words that stand for categories become
their numbers, and back. Whatever protocol brings the parts: each must be there once, with as many rows as the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Floats
from portcullis_ml.gateway.protocols.datatypes import DTYPE, whole
from portcullis_ml.gateway.protocols.strict import BadRequest, floats, single

__all__ = ["WORDS", "Part", "as_the_model_reads", "coded", "cut", "joined", "named", "parted", "rows_of"]

WORDS = "BYTES"  # the datatype of a tensor of words


@dataclass(frozen=True)
class Part:
    """One input of the model."""

    name: str
    shape: tuple[int, ...] = ()  # of one row; () is a column, which has one number or word a row
    datatype: str = "FP64"  # what the model reads; BYTES where it reads words
    words: tuple[str, ...] = ()  # what the categories 0, 1, ... are called

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return self.datatype not in ("FP16", "FP32", "FP64")

    @property
    def where(self) -> str:
        return f"The input {self.name[:60]!r}"

    @cached_property
    def codes(self) -> dict[Any, float]:
        """The number of each word."""
        return {word: float(i) for i, word in enumerate(self.words)}


def coded(part: Part, words: Sequence[Any], *, missing: bool = False) -> Array:
    """(n,) the numbers of these words; BadRequest names one that is none of the part's."""
    codes = {**part.codes, None: math.nan} if missing else part.codes
    for word in words:
        if type(word) not in (str, type(None)) or word not in codes:
            shown = repr(word[:40]) if isinstance(word, str) else "a value that is no word"
            known = f"{', '.join(repr(w[:20]) for w in part.words[:3])}{', ...' if len(part.words) > 3 else ''}"
            raise BadRequest(f"{part.where} must hold its {len(part.words)} words ({known}); got {shown}.")
    return floats([codes[word] for word in words])


def rows_of(part: Part, values: Floats) -> Floats:
    """(n, size) values that must be rows of this part. A column may come as (n,) or as (n, 1)."""
    if values.shape[1:] != part.shape and (part.shape or values.shape[1:] != (1,)):
        want = ", ".join(map(str, ("n", *part.shape)))
        raise BadRequest(f"{part.where} must have shape ({want}); got ({', '.join(map(str, values.shape[:8]))}).")
    return values.reshape(len(values), part.size)


def joined(parts: Sequence[Part], given: Mapping[str, Floats], most: int) -> Array:
    """(n, d) rows from (n, size) values of each part, at most so many."""
    for part in parts:
        if part.name not in given:
            raise BadRequest(f"The request lacks the input {part.name[:60]!r}; the model takes {named(parts)}.")
    columns = [given[part.name] for part in parts]
    if len(set(map(len, columns))) != 1:
        told = ", ".join(f"{p.name[:20]!r} {len(c)}" for p, c in list(zip(parts, columns, strict=True))[:5])
        raise BadRequest(f"All inputs must have equally many rows; these have {told}.")
    n = len(columns[0])
    if not 1 <= n <= most:
        raise BadRequest(f"The inputs must hold 1 to {most} rows; got {n}.", 413 if n else 400)
    return np.concatenate([c.astype(np.float64, copy=False) for c in columns], axis=1)


def named(parts: Sequence[Part]) -> str:
    """The first names of the parts."""
    return f"{', '.join(repr(p.name[:20]) for p in parts[:5])}{', ...' if len(parts) > 5 else ''}"


def cut(parts: Sequence[Part], x: Floats) -> Iterator[tuple[Part, Floats]]:
    """Each part with its (n, size) columns of the rows."""
    at = 0
    for part in parts:
        yield part, x[:, at : at + part.size]
        at += part.size


def as_the_model_reads(parts: Sequence[Part], x: Floats, *, missing: bool = False) -> Array:
    """(n, d) the rows, each part brought to its datatype: what cannot stand there is refused, never rounded off."""
    columns = []
    for part, values in cut(parts, x):
        if part.words:
            if not (_are_codes(part, values) | (np.isnan(values) if missing else False)).all():
                raise BadRequest(f"{part.where} must hold the numbers 0 to {len(part.words) - 1} of its words.")
        elif part.datatype == "FP32":
            values = single(values)
        elif part.datatype != "FP64":
            dtype = DTYPE[part.datatype]
            with np.errstate(over="ignore"):
                values = (values if dtype.kind == "f" else whole(values, dtype, part.datatype, part.where)).astype(
                    dtype
                )
        columns.append(values.astype(np.float64, copy=False))
    return np.concatenate(columns, axis=1)


def _are_codes(part: Part, values: Floats) -> NDArray[np.bool_]:
    return np.isin(values, np.arange(len(part.words)))


def parted(parts: Sequence[Part], x: Floats) -> Iterator[tuple[Part, np.ndarray]]:
    """Each part with its values as the model reads them: (n, *shape) numbers of its datatype, or (n,) words, of which
    one that is missing is None. InputError where a value cannot be written so, which no row is that was inspected."""
    for part, values in cut(parts, x):
        known = np.isnan(values) | (_are_codes(part, values) if part.words else values == np.round(values))
        if (part.whole or part.words) and not known.all():
            raise InputError(f"{part.where} must hold whole numbers; asked for is one between them.")
        if part.datatype == WORDS:
            known = [None if c != c else part.words[int(c)] for c in values[:, 0].tolist()]
            yield part, np.array([*known, None], object)[:-1]
        else:
            yield part, np.ascontiguousarray(values.reshape(len(x), *part.shape), DTYPE[part.datatype])
