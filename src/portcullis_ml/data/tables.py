"""Tables: columns become features, rows with a missing value are dropped and counted.

A column whose every value is a number is numeric, with its range; any other is categorical, its values in alphabetical
order standing for the codes 0, 1, 2, ... The label column is the one named, or the usual one of a known table, or the
last. A column `split` that says train or test is obeyed; otherwise three rows in ten, drawn once and for all, are the
test set, as in Tramèr et al. (USENIX Security 2016, section 4).
"""

from __future__ import annotations

import csv
import difflib
import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Feature
from portcullis_ml.data.dataset import Dataset

__all__ = ["from_columns", "from_csv", "from_openml"]

MISSING = {"", "?", "na", "n/a", "nan", "none", "null"}
TEST_SHARE = 0.3

KNOWN = {  # label column, columns that say nothing
    "adult": ("income", ()),
    "german_credit": ("class", ()),
    "gss_happiness": ("happiness", ("id",)),
    "steak": ("steak_prep", ("respondent_id",)),
}

Column = list[str]


def from_csv(path: Path, target: str | None, limit: int) -> Dataset:
    """A .csv or .csv.gz file, UTF-8, with one header line."""
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    header, rows = _read(path, limit)
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    usual, useless = KNOWN.get(name, (header[-1], ()))
    for column in useless:
        columns.pop(column, None)
    return from_columns(name, columns, target or usual)


def _read(path: Path, limit: int) -> tuple[list[str], list[list[str]]]:
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            text = file.read(limit + 1)
        if len(text) > limit:
            raise InputError(f"{path} unpacks to more than {limit:,} bytes. Take a part of it.")
        header, *rows = csv.reader(text.decode("utf-8-sig").splitlines())
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} was expected to be a UTF-8 table with a header line; it cannot be read ({error}). Write it again."
        ) from error
    rows = [row for row in rows if row]
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if wrong is not None or not rows:
        what = "has no rows" if wrong is None else f"has {len(rows[wrong])} fields in row {wrong + 1}"
        raise InputError(f"{path} was expected to have rows of {len(header)} fields; it {what}.")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path}: column names must differ; {twice!r} stands twice. Rename one of them.")
    return header, rows


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


def from_columns(name: str, columns: dict[str, Column], target: str) -> Dataset:
    """A data set from named columns of words, one of them the label."""
    if target not in columns:
        near = difflib.get_close_matches(target, columns, n=3, cutoff=0.3) or list(columns)
        raise InputError(f"{name} has no column {target!r}. Did you mean {' or '.join(near)}?")
    kept, dropped = _complete(columns)
    if len(kept[target]) < 2:
        raise InputError(f"{name} has {len(kept[target])} rows without a missing value; at least 2 are needed.")
    own_split = kept.pop("split") if set(kept.get("split", ["?"])) == {"train", "test"} else None
    test = _test_rows(name, own_split, kept)
    labels, names = _coded(kept.pop(target))
    encoded = {column: _feature(column, values) for column, values in kept.items()}
    x = np.column_stack([values for values, _ in encoded.values()])
    return Dataset(
        name=name,
        x=x[~test],
        y=labels[~test],
        x_test=x[test],
        y_test=labels[test],
        classes=names,
        features=tuple(feature for _, feature in encoded.values()),
        dropped=dropped,
        split=own_split is not None,
    )


def _complete(columns: dict[str, Column]) -> tuple[dict[str, Column], int]:
    """The rows that lack nothing, and how many lack something."""
    rows = list(zip(*columns.values(), strict=True))
    whole = [row for row in rows if not any(value.strip().lower() in MISSING for value in row)]
    kept = map(list, zip(*whole, strict=True)) if whole else ([] for _ in columns)
    return dict(zip(columns, kept, strict=True)), len(rows) - len(whole)


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


def _feature(name: str, values: Column) -> tuple[Array, Feature]:
    try:
        numbers = np.array(values, np.float64)
    except ValueError:
        codes, names = _coded(values)
        return codes.astype(np.float64), Feature(name, values=names)
    if not np.isfinite(numbers).all():
        raise InputError(f"Column {name!r} must be finite; it holds infinity. Correct or drop those rows.")
    return numbers, Feature(name, low=float(numbers.min()), high=float(numbers.max()))
