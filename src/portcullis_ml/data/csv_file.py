"""A .csv or .csv.gz file as named columns of words: RFC 4180, with the separators and encodings that people have.

The separator is the one of `, ; tab |` that gives every row as many fields as the header. Text is UTF-8, with or
without a byte order mark, or UTF-16 with one; any other encoding is refused, since guessing it would change words.
Where the separator is not a comma, a column whose every number is written with a decimal comma is read as numbers.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from pathlib import Path

from portcullis_ml.core.errors import InputError

__all__ = ["Column", "read_csv"]

Column = list[str]
SEPARATORS = ",;\t|"
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?\s*")


def read_csv(path: Path, limit: int) -> dict[str, Column]:
    """{name: its cells}. Raises InputError for a file that is no such table."""
    text = _text(path, limit)
    separator, rows = _rows(path, text)
    header, *rows = rows
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path}: column names must differ; {twice!r} stands twice. Rename one of them.")
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    return columns if separator == "," else {name: _points(cells) for name, cells in columns.items()}


def _text(path: Path, limit: int) -> str:
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            raw = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} was expected to be a table; it cannot be read ({error}). Write it again.") from error
    if len(raw) > limit:
        raise InputError(f"{path} unpacks to more than {limit:,} bytes. Take a part of it.")
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} was expected to be a table in {'UTF-16' if wide else 'UTF-8'}; it cannot be read (byte "
            f"{error.start}). If it was written on Windows, try `iconv -f WINDOWS-1252 -t UTF-8 {path.name}`."
        ) from error


def _rows(path: Path, text: str) -> tuple[str, list[list[str]]]:
    """The separator, and the rows with the header first."""
    for separator in SEPARATORS:
        rows = _parsed(path, text, separator)
        if len(rows) > 1 and len(rows[0]) > 1 and _even(rows):
            return separator, rows
    rows = _parsed(path, text, ",")
    if len(rows) < 2:
        raise InputError(f"{path} was expected to have a header line and rows; it has no rows. Write it again.")
    if not _even(rows):
        wrong = next(i for i, row in enumerate(rows) if len(row) != len(rows[0]))
        raise InputError(
            f"{path} was expected to have rows of {len(rows[0])} fields, as its header has; it has {len(rows[wrong])} "
            f"in row {wrong}. Fields are separated by a comma, a semicolon, a tab or |; quote those that hold one."
        )
    return ",", rows


def _even(rows: list[list[str]]) -> bool:
    return all(len(row) == len(rows[0]) for row in rows)


def _parsed(path: Path, text: str, separator: str) -> list[list[str]]:
    before = csv.field_size_limit(max(len(text), 1))
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    except csv.Error as error:
        raise InputError(f"{path} was expected to be a table; it cannot be read ({error}). Write it again.") from error
    finally:
        csv.field_size_limit(before)


def _points(cells: Column) -> Column:
    """Cells with decimal commas, with decimal points instead; other cells as they are."""
    full = [cell for cell in cells if cell.strip()]
    if not any("," in cell for cell in full) or not all(map(DECIMAL_COMMA.fullmatch, full)):
        return cells
    return [cell.replace(",", ".") for cell in cells]
