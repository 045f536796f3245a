"""Where a brought victim and its rows come from, and the rows read as that victim takes them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.endpoint import Endpoint
from portcullis_ml.bench.picture_rows import scaled_as
from portcullis_ml.bench.rows import LabelledRows, at_most, one_table, read_rows
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Feature
from portcullis_ml.data.pictures import as_pictures
from portcullis_ml.data.schema import Corrections, read_schema
from portcullis_ml.data.takes import Taken, Takes
from portcullis_ml.models.known import KnownColumn, KnownVictim

__all__ = ["Sources", "matched", "rows_of", "schema_of", "takes_of"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where rows and model come from, as a person names them; see `ExperimentSpec`."""

    victim: str
    data: str | None = None
    folder: str | None = None
    test: str | None = None
    pool: str | None = None
    train: str | None = None
    target: str | None = None
    schema: str | None = None
    classes: str | None = None
    output: str | None = None
    softmax: bool = False
    regression: bool = False
    label: str | None = None  # of several labels the one that is read: a number, or a word of `classes`
    column: int | None = None  # which column that is
    endpoint: Endpoint | None = None
    text: str | None = None  # the column that holds texts; "" where the rows are texts and the column the usual one
    rows: int | None = None  # of the pool at most
    strict_pool: bool = False  # a picture of the pool that cannot be read is refused, not counted


def schema_of(sources: Sources) -> Corrections:
    return {} if sources.schema is None else read_schema(Path(sources.schema))


def takes_of(known: KnownVictim, corrections: Corrections) -> Takes:
    """What is known of the columns before the table is read: by the victim, and by the user's schema."""

    def taken(column: KnownColumn) -> Taken:
        return Taken(text=column.text, words=column.words, missing=column.missing)

    said = {}
    for name, about in corrections.items():
        words = frozenset(map(str, about.get("values", ())))
        kind = "category" if words else about.get("kind")
        said[name] = Taken(text=None if kind is None else kind == "category", words=words)
    return Takes(
        named=None if known.named is None else {name: taken(column) for name, column in known.named.items()},
        placed=tuple(map(taken, known.placed)),
        classes=frozenset(known.classes),
        said=said,
        left_out=frozenset(name for name, about in corrections.items() if about.get("drop")),
    )


def rows_of(
    sources: Sources, takes: Takes
) -> tuple[LabelledRows, LabelledRows | None, LabelledRows | None, tuple[float, float], str]:
    """Test rows, pool, training rows, bounds of an input, and the sentence about them."""
    test = pool = train = None
    sentence = ""
    if sources.data is not None:
        from portcullis_ml.data.datasets import load_dataset

        d = load_dataset(sources.data, sources.folder, target=sources.target, takes=takes)
        about: dict[str, Any] = {
            "features": d.features,
            "classes": d.classes or None,
            "columns": d.columns,
            "target": d.target,
        }
        test = LabelledRows(x=d.x_test, y=d.y_test.astype(np.int64), dropped=d.dropped, lacking=d.lacking, **about)
        pool = LabelledRows(x=d.x, y=d.y.astype(np.int64), **about)
        sentence = f"{d.name}: the thief holds the {len(d.x):,} training rows, {len(d.x_test):,} test rows judge."
    for_all: dict[str, Any] = {"target": sources.target, "takes": takes, "column": sources.column}
    if sources.test is not None:
        test = read_rows("test set", Path(sources.test), **for_all)
    if sources.pool is not None:
        shape = None if test is None or test.features else test.x.shape[1:]
        named = for_all | {"target": sources.target or (test.target if test is not None else None) or None}
        if test is not None and test.features is not None and test.classes is not None:
            named["takes"] = _by_name(takes, [f.name for f in test.features])
        named |= {"shape": shape, "unlabelled": True, "most": sources.rows, "skip": not sources.strict_pool}
        pool = read_rows("pool", Path(sources.pool), part="train", **named)
        pool = pool if test is None or test.features is None else matched(pool, test)
    if sources.train is not None:
        train = read_rows("training set", Path(sources.train), part="train", **for_all)
    if test is None:
        raise InputError(
            "A victim needs rows to be judged on; got none. Give --test FILE (.npz or .csv) or --data NAME."
        )
    test, pool, train = one_table((test, pool, train), None if sources.schema is None else Path(sources.schema))
    assert test is not None
    if pool is not None and pool.x.ndim > 2 and test.x.ndim > 2:
        pool = scaled_as(pool, test)
    if pool is not None and pool.x.shape[1:] != test.x.shape[1:] and 4 in (pool.x.ndim, test.x.ndim):
        x = as_pictures(pool.x, test.x.shape[1:])
        said = f"The pool's pictures of {pool.x.shape[1:]} were laid out as {test.x.shape[1:]}, which the victim takes."
        pool = replace(pool, x=x, said=" ".join(filter(None, [pool.said, said])))
    if pool is not None and pool.x.shape[1:] != test.x.shape[1:]:
        shapes = f"{pool.x.shape[1:]} and {test.x.shape[1:]}"
        raise InputError(f"The pool must have the inputs of the test set; got {shapes}.")
    pool = None if pool is None else at_most("The pool", pool, sources.rows)
    if not sentence or sources.test or sources.pool:
        held = "no pool" if pool is None else f"{len(pool):,} rows of a pool of your own"
        sentence = f"The thief holds {held}; {len(test):,} test rows judge. Nobody but you knows where they come from."
    every = test.x if pool is None else np.concatenate([test.x.reshape(len(test), -1), pool.x.reshape(len(pool), -1)])
    least, greatest = float(every.min()), float(every.max())
    if test.features is None and test.x.ndim == 2 and not (least >= 0 and greatest <= 1):
        test = _with_columns(test, every.reshape(len(every), -1))
    bounds = (0.0, 1.0) if 0 <= least and greatest <= 1 else (least, greatest if greatest > least else least + 1)
    return test, pool, train, bounds, sentence


def _by_name(takes: Takes, names: list[str]) -> Takes:
    """What is taken of a pool: the test set's columns, where the victim knows no names; others cost no row."""
    if takes.named is not None:
        return takes
    placed = takes.placed if len(takes.placed) == len(names) else (Taken(),) * len(names)
    return replace(takes, named=dict(zip(names, placed, strict=True)), placed=())


def matched(pool: LabelledRows, test: LabelledRows) -> LabelledRows:
    """The pool, with a sentence about the columns that are not taken of it. InputError where it lacks one of the test
    set's columns, which are found by their names."""
    if pool.features is None:
        return pool
    wanted, held = [f.name for f in test.features or ()], {f.name for f in pool.features}
    lacks = [name for name in wanted if name not in held]
    if lacks:
        near = difflib.get_close_matches(lacks[0], sorted(held - set(wanted)), n=1, cutoff=0.4)
        guess = f" Did you mean {near[0]!r}? Rename it." if near else ""
        more = f" and {len(lacks) - 1} more" if len(lacks) > 1 else ""
        raise InputError(
            f"The pool lacks the column {lacks[0]!r}{more}, which the test set has; columns are found by their names."
            f"{guess} Give a table with all columns that the victim takes."
        )
    extra = [name for name in pool.columns if name not in wanted and name not in (pool.target, "split")]
    if not extra:
        return pool
    shown = ", ".join(extra[:4]) + (", ..." if len(extra) > 4 else "")
    said = f"Of the pool's columns {len(extra)} are not the victim's and were left out: {shown}."
    return replace(pool, said=" ".join(filter(None, [pool.said, said])))


def _with_columns(rows: LabelledRows, every: Array) -> LabelledRows:
    """A table without a schema, with each column's range as its feature: a thief knows the usual ranges."""
    spans = zip(every.min(axis=0), every.max(axis=0), strict=True)
    features = tuple(Feature(f"x{j}", float(low), float(high)) for j, (low, high) in enumerate(spans))
    return replace(rows, features=features)
