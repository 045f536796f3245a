"""Rows from files: what a person gives as --test, --pool and --train.

.npz       x (or x_test, x_train) and, if there are labels, y under the same name; 8-bit images become [0, 1]
.npy       x alone
.csv[.gz]  a table; one column may hold the labels. Where its column `split` says train or test, that part is taken
FOLDER, .zip  image files, for a pool and for outside rows: read in the shape of the test set (`data/pictures.py`)

Tables that belong together may differ in what they happen to hold: `one_table` gives them one schema, and `as_taken`
turns them into what the victim takes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Feature, Labels
from portcullis_ml.data.pictures import holds_pictures, read_pictures
from portcullis_ml.data.pools import open_pool
from portcullis_ml.data.takes import NOTHING_KNOWN, Takes

__all__ = ["LabelledRows", "as_taken", "at_most", "drawn_of", "one_table", "read_rows"]

LIMIT = 2 * 2**30  # bytes, unpacked
MOST = 20_000  # pictures that are drawn from a larger pool on disk, where nobody says how many


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """x (n, *input_shape), y (n,) or None, whole numbers or real ones; a table's features and the names of its classes.

    columns    names of all the file's columns, those that are not taken included
    dropped    rows of the file that were left out because they lack a value, in the columns `lacking`
    eight_bit  whether the rows were whole numbers of 8 bits before they were scaled to [0, 1]
    groups     (n,) what the source itself sorts the rows by, where that is not the victim's classes: folders, say
    files      whether they were decoded from files of pictures, to 0 to 1
    target     the name of a table's label column; empty where it has none
    said       what the reader of these rows should know
    """

    x: Array
    y: Any = None
    features: tuple[Feature, ...] | None = None
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    dropped: int = 0
    lacking: tuple[str, ...] = ()
    eight_bit: bool = False
    groups: np.ndarray | None = None
    files: bool = False
    target: str = ""
    said: str = ""

    def __len__(self) -> int:
        return len(self.x)


def read_rows(
    what: str,
    path: Path,
    *,
    target: str | None = None,
    part: str = "test",
    takes: Takes = NOTHING_KNOWN,
    shape: tuple[int, ...] | None = None,
    column: int | None = None,
    unlabelled: bool = False,
    most: int | None = None,
    skip: bool = True,
) -> LabelledRows:
    """The rows in a file.

    what        what the caller calls them ("pool")
    part        which array to prefer
    takes       what a victim takes of a table
    shape       of a picture, where files of pictures will do
    column      which of several labels a row is read
    unlabelled  whether a table may have no label column
    most        pictures that are read of a large pool
    skip        whether files that cannot be read are counted; else they are refused
    """
    most = most or MOST
    if shape is not None and path.exists() and holds_pictures(path):
        found = read_pictures(path, shape, most=most, skip=skip)
        return LabelledRows(
            x=found.x,
            eight_bit=True,
            groups=found.groups,
            files=True,
            said=f"{path.name}: {found.sentence()}{_more(found.found, most)}",
        )
    if shape is not None and ":" in str(path) and not path.exists():
        return _drawn(str(path), open_pool(str(path), shape, skip=skip), most)
    if shape is not None and path.suffix == ".npy" and path.is_file() and len(np.load(path, mmap_mode="r")) > most:
        return _drawn(path.name, open_pool(path, shape), most)
    if not path.is_file():
        raise InputError(f"The {what} was expected in {path}; there is no such file. Check the path.")
    if path.name.endswith((".csv", ".csv.gz")):
        rows = _from_table(path, target, part, takes, unlabelled)
    elif path.suffix in (".npz", ".npy"):
        rows = _from_arrays(what, path, part, column)
    else:
        raise InputError(f"The {what} was expected as .npz, .npy or .csv; got {path.name}. Save it as one of those.")
    if len(rows.x) == 0:
        raise InputError(f"The {what} was expected to hold at least one row; {path.name} holds none.")
    if not np.isfinite(rows.x).all():
        raise InputError(f"The {what} must be finite; {path.name} holds NaN or infinity. Drop those rows first.")
    return rows


def drawn_of(n: int, most: int | None) -> Labels:
    """(<= most,) of n places, drawn at random, in order; all where `most` is None. The same for every run."""
    return np.sort(derive(0, "pictures").permutation(n)[:most])


def at_most(what: str, rows: LabelledRows, most: int | None) -> LabelledRows:
    """`most` of the rows, drawn at random where there are more, which is said then; all where it is None."""
    if most is None or len(rows) <= most:
        return rows
    drawn = drawn_of(len(rows), most)
    said = f"{what}: {most:,} of {len(rows):,} rows were drawn at random.{_more(len(rows), most)}"
    y, groups = (None if of is None else of[drawn] for of in (rows.y, rows.groups))
    return replace(rows, x=rows.x[drawn], y=y, groups=groups, said=" ".join(filter(None, [rows.said, said])))


def _more(found: int, most: int) -> str:
    return " More: --pool-rows." if found > most else ""


def _drawn(name: str, pool: Any, most: int) -> LabelledRows:
    """`most` rows of a large pool, drawn at random; no other is read."""
    drawn = drawn_of(len(pool), most)
    said = f"{name}: {len(drawn):,} of {len(pool):,} pictures were drawn.{_more(len(pool), most)}"
    groups = None if pool.groups is None else pool.groups[drawn]
    return LabelledRows(x=pool[drawn], eight_bit=True, groups=groups, said=said)


def _from_table(path: Path, target: str | None, part: str, takes: Takes, unlabelled: bool = False) -> LabelledRows:
    from portcullis_ml.data.datasets import load_dataset

    table = load_dataset(str(path), target=target, takes=takes, unlabelled=unlabelled)
    if not table.classes:
        raise InputError(f"{path.name} was expected to have a column of classes; its label column holds numbers.")
    if table.split:
        x, y = (table.x_test, table.y_test) if part == "test" else (table.x, table.y)
    else:
        x, y = np.concatenate([table.x, table.x_test]), np.concatenate([table.y, table.y_test])
    labelled = bool(table.target)
    return LabelledRows(
        x=x, y=y.astype(np.int64) if labelled else None, features=table.features, columns=table.columns,
        classes=table.classes if labelled else (), dropped=table.dropped, lacking=table.lacking, target=table.target,
    )  # fmt: skip


def _from_arrays(what: str, path: Path, part: str, column: int | None = None) -> LabelledRows:
    arrays = _load(path)
    names = [n for n in ("x", f"x_{part}", "x_test", "x_train") if n in arrays] or list(arrays)[:1]
    x = arrays[names[0]]
    if x.ndim < 2 or x.dtype.kind not in "uif":
        raise InputError(f"The {what} must be numbers of shape (n, ...); {path.name} holds {x.dtype} of {x.shape}.")
    y = arrays.get("y" + names[0].removeprefix("x"))
    y = _of_column(y, column, what, path.name)
    if y is not None and y.shape == (len(x), 1):
        y = y[:, 0]
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "uibfU"):
        raise InputError(
            f"The {what} needs one label for each row, a number or a word; {path.name} holds {len(x)} rows and "
            f"labels {y.dtype} of shape {y.shape}."
        )
    words = None
    if y is not None and y.dtype.kind == "U":
        words, y = np.unique(y, return_inverse=True)
    eight_bit = x.dtype == np.uint8
    return LabelledRows(
        x=x / 255.0 if eight_bit else x.astype(np.float64),
        y=None if y is None else y.astype(np.float64 if y.dtype.kind == "f" else np.int64),
        classes=None if words is None else tuple(words.tolist()),
        eight_bit=eight_bit,
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".npy":
            return {"x": np.load(path, allow_pickle=False)}
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LIMIT:
            raise InputError(f"{path.name} unpacks to {size:,} bytes; at most {LIMIT:,} are read. Take a part of it.")
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path.name} was expected to hold plain arrays; it cannot be read ({error}). "
            "Write it again with numpy.savez_compressed, without objects."
        ) from error
    if not found:
        raise InputError(f"{path.name} was expected to hold an array x; it holds none.")
    return found


def one_table(parts: Sequence[LabelledRows | None], schema: Path | None = None) -> list[LabelledRows | None]:
    """The same rows under one schema, the first's columns in the first's order, corrected by a file of the user's.

    A category is all the values that any part holds, a number's range what all of them span, and so for the classes.
    """
    from portcullis_ml.data.schema import aligned, corrected, read_schema

    tables = [rows for rows in parts if rows is not None and rows.features is not None]
    if not tables:
        return list(parts)
    features = tuple(_union(f, tables) for f in tables[0].features or ())
    classes = tuple(sorted({name for rows in tables for name in rows.classes or ()}))
    everywhere = {name for rows in tables for name in rows.columns} - {f.name for f in features}
    given = {} if schema is None else read_schema(schema)
    corrections = {name: about for name, about in given.items() if name not in everywhere}  # not taken, so not read
    made: list[LabelledRows | None] = []
    for rows in parts:
        if rows is None or rows.features is None:
            made.append(rows)
            continue
        x, final = corrected(aligned(rows.x, rows.features, features, "The test set"), features, corrections)
        y = None if rows.y is None else _renumbered(rows.y, rows.classes or (), classes)
        made.append(replace(rows, x=x, y=y, features=final, classes=classes))
    return made


def _union(feature: Feature, tables: Sequence[LabelledRows]) -> Feature:
    """The feature of that name as all tables together show it."""
    own = [f for rows in tables for f in rows.features or () if f.name == feature.name]
    if any(f.categorical != feature.categorical for f in own):
        raise InputError(
            f"Column {feature.name!r} holds numbers in one table and words in another. Correct the one that is wrong."
        )
    if feature.categorical:
        return replace(feature, values=tuple(sorted({value for f in own for value in f.values})))
    return replace(feature, low=min(f.low for f in own), high=max(f.high for f in own))


def as_taken(rows: LabelledRows, model: Any) -> LabelledRows:
    """A table as the victim takes it: its columns in its order, its categories."""
    from portcullis_ml.data.schema import aligned

    features = getattr(model, "features", None)
    if features is None or rows.features is None:
        return rows
    return replace(rows, x=aligned(rows.x, rows.features, features), features=features)


def _renumbered(y: Labels, have: Sequence[str], want: Sequence[str]) -> Labels:
    """Labels y (n,) that number the classes `have`, as numbers of the classes `want`, which hold them all."""
    place = {name: i for i, name in enumerate(want)}
    return np.array([place[name] for name in have], np.int64)[y]


def _of_column(y: Any, column: int | None, what: str, name: str) -> Any:
    """(n,) the labels of that column of y (n, labels). InputError where there are several and none is named."""
    if y is None or y.ndim != 2 or y.shape[1] < 2:
        return y
    if column is None:
        raise InputError(
            f"The {what} in {name} has {y.shape[1]} labels a row (y of {y.shape}): a multi-label task. Audit them one "
            f"at a time: --label INDEX (0 to {y.shape[1] - 1})."
        )
    if column >= y.shape[1]:
        raise InputError(f"--label names a column from 0 to {y.shape[1] - 1} of y in {name}; got {column}.")
    return y[:, column]
