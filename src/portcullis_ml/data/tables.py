"""Tables: columns become features, rows with a missing value are dropped and counted.

A column whose every value is a number is numeric, with its range; any other is categorical, its values in alphabetical
order standing for the codes 0, 1, 2, ... Where it is known what a model takes (`Takes`), that goes first: text stays
text, a word that the model knows is never a missing value, and a column that it does not take costs no row. Otherwise
numbers with leading zeros are text. The label column is the one named, or the usual one of a known table, or the last.
A column `split` that says train or test is obeyed; otherwise three rows in ten, drawn once and for all, are the test
set, as in Tramèr et al. (USENIX Security 2016, section 4).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Feature
from portcullis_ml.data.csv_file import Column, read_csv
from portcullis_ml.data.dataset import Dataset
from portcullis_ml.data.takes import NOTHING_KNOWN, Taken, Takes

__all__ = ["from_columns", "from_csv", "from_openml"]

MISSING = {"", "?", "na", "n/a", "nan", "none", "null"}
TEST_SHARE = 0.3

KNOWN = {  # label column, columns that say nothing
    "adult": ("income", ()),
    "german_credit": ("class", ()),
    "gss_happiness": ("happiness", ("id",)),
    "steak": ("steak_prep", ("respondent_id",)),
}

NO_LABEL = "(no label)"  # stands for the label column of a table that has none

LEADING_ZERO = re.compile(r"0\d+")


def from_csv(
    path: Path, target: str | None, limit: int, takes: Takes = NOTHING_KNOWN, *, unlabelled: bool = False
) -> Dataset:
    """A .csv or .csv.gz file with one header line. Where rows may be `unlabelled` and the label column is not there, or
    the model takes the last column as an input, all are of one class, and `target` is empty."""
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    columns = read_csv(path, limit)
    usual, useless = KNOWN.get(name, (list(columns)[-1], ()))
    for column in useless:
        columns.pop(column, None)
    target = target or usual
    if not unlabelled or (target in columns and not takes.takes(target, len(columns))):
        return from_columns(name, columns, target, takes)
    marked = {**columns, NO_LABEL: [NO_LABEL] * len(next(iter(columns.values())))}
    return replace(from_columns(name, marked, NO_LABEL, takes), target="", columns=tuple(columns))


def from_openml(name: str, target: str | None) -> Dataset:
    """A data set of openml.org by name; needs a network the first time, then scikit-learn's own cache."""
    from sklearn.datasets import fetch_openml

    try:
        bunch: Any = fetch_openml(name, version=1, as_frame=False, parser="liac-arff", target_column=None)
    except Exception as error:  # no network, no such set, a changed site: each has its own exception
        raise InputError(
            f"openml:{name} was expected at openml.org and could not be fetched ({type(error).__name__}: {error}). "
            "Check the name and the network, or give a file."
        ) from error
    columns = {}
    for j, column in enumerate(bunch.feature_names):
        values, categories = bunch.data[:, j], (bunch.categories or {}).get(column)
        columns[column] = [_word(v, categories) for v in values]
    return from_columns(name, columns, target or bunch.feature_names[-1])


def _word(value: Any, categories: list[str] | None) -> str:
    if value is None or value != value:
        return ""
    return str(categories[int(value)]) if categories else str(value)


def from_columns(name: str, columns: dict[str, Column], target: str, takes: Takes = NOTHING_KNOWN) -> Dataset:
    """A data set from named columns of words, one of them the label. `takes` is what a model takes of them."""
    if target not in columns:
        near = difflib.get_close_matches(target, columns, n=3, cutoff=0.3) or list(columns)
        raise InputError(f"{name} has no column {target!r}. Did you mean {' or '.join(near)}?")
    own_split = set(columns.get("split", ["?"])) == {"train", "test"}
    inputs = takes.of([column for column in columns if column != target and not (own_split and column == "split")])
    known = {**inputs, target: Taken(words=takes.classes), **({"split": Taken()} if own_split else {})}
    kept, dropped, lacking = _complete({column: columns[column] for column in known}, known)
    if len(kept[target]) < 2:
        where = f"; {' and '.join(lacking[:3])} lack values" if lacking else ""
        raise InputError(
            f"{name} has {len(kept[target])} rows without a missing value; at least 2 are needed{where}. "
            "Drop such a column with --schema, or fill it."
        )
    test = _test_rows(name, kept.pop("split") if own_split else None, kept)
    labels, names = _coded(kept.pop(target))
    encoded = {column: _feature(column, values, known[column]) for column, values in kept.items()}
    x = np.column_stack([values for values, _ in encoded.values()]) if encoded else np.empty((len(labels), 0))
    return Dataset(
        name=name,
        x=x[~test],
        y=labels[~test],
        x_test=x[test],
        y_test=labels[test],
        classes=names,
        features=tuple(feature for _, feature in encoded.values()),
        dropped=dropped,
        lacking=lacking,
        columns=tuple(columns),
        target=target,
        split=own_split,
    )


def _complete(columns: dict[str, Column], known: Mapping[str, Taken]) -> tuple[dict[str, Column], int, tuple[str, ...]]:
    """The rows that lack nothing, how many lack something, and the columns that lack values, most first."""
    gone = {name: np.array([_is_missing(v, known[name]) for v in values], bool) for name, values in columns.items()}
    for name, missing in gone.items():
        if (word := known[name].missing) is not None:
            columns[name] = [word if lost else v for v, lost in zip(columns[name], missing, strict=True)]
            missing[:] = False
    whole = ~np.any(list(gone.values()), axis=0)
    kept = {name: [v for v, keep in zip(values, whole, strict=True) if keep] for name, values in columns.items()}
    lacking = sorted((name for name in gone if gone[name].any()), key=lambda name: -int(gone[name].sum()))
    return kept, int((~whole).sum()), tuple(lacking)


def _is_missing(value: str, taken: Taken) -> bool:
    return value.strip().lower() in MISSING and not taken.knows(value)


def _test_rows(name: str, split: Column | None, columns: dict[str, Column]) -> NDArray[np.bool_]:
    if split is not None:
        return np.asarray(np.array(split) == "test")
    n = len(next(iter(columns.values())))
    test = np.zeros(n, bool)
    test[derive(0, "data", name).permutation(n)[: max(1, round(TEST_SHARE * n))]] = True
    return test


def _coded(values: Column) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    names, codes = np.unique(np.array(values), return_inverse=True)
    return codes.astype(np.int64), tuple(names.tolist())


def _feature(name: str, values: Column, taken: Taken) -> tuple[Array, Feature]:
    text = taken.text or (taken.text is None and any(map(LEADING_ZERO.fullmatch, values)))
    try:
        if text:
            raise ValueError
        numbers = np.array(values, np.float64)
    except ValueError:
        codes, names = _coded(values)
        return codes.astype(np.float64), Feature(name, values=names)
    if not np.isfinite(numbers).all():
        raise InputError(f"Column {name!r} must be finite; it holds infinity. Correct or drop those rows.")
    return numbers, Feature(name, low=float(numbers.min()), high=float(numbers.max()))
