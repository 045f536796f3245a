"""Texts from files: what a person gives as rows of a model that takes strings.

    FILE.jsonl, .ndjson  {"text": "...", "label": ...} on every line, or a bare string
    FILE.csv, .csv.gz    a column of texts, and one of labels, if there are any
    FILE.npz             x (n,) or (n, 1) strings (or x_test, x_train), and y under the same name
    FILE.npy             strings (n,)
    FILE.txt             one text a line

The columns are the ones named, or `text` and `label`; else, of a table of one or two columns, the first and the other.
UTF-8 throughout. Rows without a text are left out and counted.
"""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.data.csv_file import read_csv

__all__ = ["TABLES", "TextRows", "holds_texts", "read_texts"]

LIMIT = 2 * 2**30  # bytes, unpacked
LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
TABLES = (".csv", ".csv.gz")
TEXT, LABEL = "text", ("label", "class", "target", "y")  # usual names
KNOWN = "one of .jsonl, .csv, .npz, .npy, .txt"


@dataclass(frozen=True, kw_only=True)
class TextRows:
    """texts (n,), labels (n,) as words or None, rows left out because they lacked a text, and where texts stood."""

    texts: list[str]
    labels: list[str] | None = None
    dropped: int = 0
    column: str = TEXT
    split: list[str] = field(default_factory=list)  # "train" or "test" of each row, where a column `split` says so

    def part(self, name: str) -> TextRows:
        """The rows of that part ("train" or "test") where the file says which they are; else all."""
        keep = [i for i, part in enumerate(self.split) if part == name] if self.split else range(len(self.texts))
        labels = None if self.labels is None else [self.labels[i] for i in keep]
        return TextRows(
            texts=[self.texts[i] for i in keep], labels=labels, dropped=self.dropped, column=self.column,
        )  # fmt: skip


def holds_texts(path: Path) -> bool:
    """Whether a file holds texts for sure: by its name, or since its arrays are strings."""
    if path.name.endswith((*LINES, ".txt")):
        return True
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r").dtype.kind in "US"
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return file[_array_name(file.files)].dtype.kind in "US"
    except (OSError, ValueError, zipfile.BadZipFile):
        pass  # whoever reads it says what is wrong
    return False


def read_texts(
    what: str, path: Path, *, column: str | None = None, target: str | None = None, part: str = "test"
) -> TextRows:
    """The texts in a file; `what` is what the caller calls them ("pool"). InputError says what is wrong, and where."""
    if not path.is_file():
        raise InputError(f"The {what} was expected in {path}; there is no such file. Check the path.")
    if path.name.endswith(LINES):
        rows = _of_lines(path, column or TEXT, target)
    elif path.name.endswith(TABLES):
        rows = _of_table(path, column, target)
    elif path.suffix in (".npz", ".npy"):
        rows = _of_arrays(path, part)
    elif path.suffix == ".txt":
        rows = TextRows(texts=[line for _, line in _lines(path)])
    else:
        raise InputError(f"The {what} was expected as {KNOWN}; got {path.name}. Save it as one of those.")
    rows = _with_texts(rows).part(part)
    if not rows.texts:
        raise InputError(f"The {what} was expected to hold at least one text; {path.name} holds none.")
    return rows


def _with_texts(rows: TextRows) -> TextRows:
    """The rows that have a text and, where rows have labels, a label."""
    keep = [i for i, text in enumerate(rows.texts) if text.strip() and (rows.labels is None or rows.labels[i])]
    labels = None if rows.labels is None else [rows.labels[i] for i in keep]
    return TextRows(
        texts=[rows.texts[i] for i in keep], labels=labels, dropped=len(rows.texts) - len(keep), column=rows.column,
        split=[rows.split[i] for i in keep] if rows.split else [],
    )  # fmt: skip


def _of_table(path: Path, column: str | None, target: str | None) -> TextRows:
    columns = read_csv(path, LIMIT)
    split = columns.get("split", [])
    if set(split) != {"train", "test"}:
        split = []
    names = [name for name in columns if not (split and name == "split")]
    label = _named(path, target, names) if target else next((n for n in LABEL if n in names and n != column), None)
    text = _named(path, column, names) if column else _text_column(path, [n for n in names if n != label])
    if label is None and len(names) == 2:
        label = next(name for name in names if name != text)
    cells = columns[text]
    if all(map(_is_number, cells)):
        raise InputError(
            f"{path.name}: the column {text!r} was expected to hold texts; it holds numbers. Name the right one with "
            "--text; rows of numbers go to a victim that takes numbers."
        )
    return TextRows(texts=cells, labels=None if label is None else columns[label], column=text, split=split)


def _text_column(path: Path, names: Sequence[str]) -> str:
    if TEXT in names:
        return TEXT
    if len(names) in (1, 2):
        return names[0]
    raise InputError(
        f"{path.name} was expected to have a column {TEXT!r}; it has {', '.join(names) or 'none beside the label'}. "
        "Name the column of texts with --text."
    )


def _named(path: Path, name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise InputError(f"{path.name} was expected to have a column {name!r}; it has {', '.join(names)}. Rename it.")
    return name


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()
    return True


def _of_lines(path: Path, column: str, target: str | None) -> TextRows:
    """JSON, one row a line."""
    texts, labels, splits = [], [], []
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: JSON was expected; it is broken ({error}). Correct that line.") from error
        row = {column: row} if isinstance(row, str) else row
        if not isinstance(row, dict):
            raise InputError(f'{where}: {{"{column}": "..."}} was expected; it holds a {_kind(row)}.')
        text = row.get(column, "" if column in row else None)
        if column not in row:
            raise InputError(
                f"{where}: a key {column!r} was expected; it has {', '.join(row) or 'none'}. Name the key of the texts "
                "with --text."
            )
        if text is not None and not isinstance(text, str):
            raise InputError(f"{where}: {column!r} was expected to be a text; it is a {_kind(text)}.")
        texts.append(text or "")
        labels.append(_label(row, target, where))
        splits.append(str(row.get("split", "")))
    _all_labelled(path, labels, target)
    return TextRows(
        texts=texts, labels=[label or "" for label in labels] if any(labels) else None, column=column,
        split=splits if set(splits) == {"train", "test"} else [],
    )  # fmt: skip


def _label(row: dict[str, Any], target: str | None, where: str) -> str | None:
    name = target or next((n for n in LABEL if n in row), None)
    value = None if name is None else row.get(name)
    if value is None:
        return None
    if isinstance(value, list | dict):
        raise InputError(f"{where}: {name!r} was expected to be one label; it is a {_kind(value)}. Keep one a row.")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _all_labelled(path: Path, labels: Sequence[str | None], target: str | None) -> None:
    """InputError where a label was named that no row has."""
    if target and labels and not any(labels):
        raise InputError(f"{path.name}: no line has a label {target!r}. Name the right one with --target.")


def _kind(value: Any) -> str:
    kinds = {bool: "truth value", int: "number", float: "number", list: "list", dict: "object", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end)."""
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            raw = file.read(LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name} was expected to hold texts; it cannot be read ({error}).") from error
    if len(raw) > LIMIT:
        raise InputError(f"{path.name} has more than {LIMIT:,} bytes. Take a part of it.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path.name} was expected to be UTF-8; line {line} is not. If it was written on Windows, try "
            f"`iconv -f WINDOWS-1252 -t UTF-8 {path.name}`."
        ) from error
    yield from enumerate((line.rstrip("\r") for line in text.split("\n")), 1)


def _of_arrays(path: Path, part: str) -> TextRows:
    y: Any = None
    try:
        with np.load(path, allow_pickle=False) if path.suffix == ".npz" else _Single(path) as file:
            name = _array_name(file.files, part)
            x = file[name]
            label = "y" + name.removeprefix("x")
            y = file[label] if label in file.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path.name} was expected to hold an array x of strings; it cannot be read ({error}). Write it again with "
            "np.savez(..., x=np.array(texts, str)): arrays of objects are pickles, and are not read."
        ) from error
    if x.dtype.kind not in "US":
        raise InputError(f"{path.name}: x was expected to hold strings, as the victim takes texts; it holds {x.dtype}.")
    if x.ndim > 2 or (x.ndim == 2 and x.shape[1] != 1):
        raise InputError(f"{path.name}: x was expected to hold one text a row, (n,) or (n, 1); got {x.shape}.")
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "uibUS"):
        raise InputError(f"{path.name}: one label for each of {len(x)} texts was expected; got {y.dtype} of {y.shape}.")
    try:
        texts = [v.decode() if isinstance(v, bytes) else v for v in x.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: x was expected to be UTF-8; row {error.start} is not.") from error
    labels = None if y is None else [v.decode() if isinstance(v, bytes) else str(v) for v in y.tolist()]
    return TextRows(texts=texts, labels=labels, column="x")


class _Single:
    """A .npy file read like an archive of one array x."""

    files = ("x",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Single:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(np.load(self._path, allow_pickle=False))


def _array_name(names: Sequence[str], part: str = "test") -> str:
    found = [n for n in ("x", f"x_{part}", "x_test", "x_train", "texts", "text") if n in names] or list(names)[:1]
    if not found:
        raise ValueError("it holds no array")
    return found[0]
