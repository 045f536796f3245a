"""Recorded traffic, client by client: the gate's query log, or a file of rows with a client and a time in each.

A file is a .csv (or .csv.gz), a .jsonl or a .npz. Beside the inputs each row has a client, a time (seconds since 1970
or ISO 8601; without a zone it is UTC) and the model's undefended answer:
    .csv     columns client, time, label (and score_0, score_1, ...); every other column is an input
    .jsonl   {"client": ..., "time": ..., "x": [...], "label": ..., "scores": [...]} a line
    .npz     arrays client, time, x, label (and scores)
`scores` alone is enough: the label is the greatest.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Answer, Array, Feature, Labels
from portcullis_ml.gateway.foreign_log import seconds_of
from portcullis_ml.measures.calibration import ClientStream

__all__ = ["Names", "read_traffic"]

LIMIT = 2 * 2**30  # bytes, unpacked
SCORE = re.compile(r"score_(\d+)")


@dataclass(frozen=True)
class Names:
    """How a file's columns are called, and what a policy says of the model's classes and inputs."""

    client: str = "client"
    time: str = "time"
    label: str = "label"
    classes: Sequence[str | int] = ()
    features: Sequence[Feature] = ()


def read_traffic(path: Path, names: Names) -> list[ClientStream]:
    """One stream a client, rows in the order of their times. Accounts that many people share are left out: of clients
    without a name the gate knows nothing else."""
    if not path.exists():
        raise InputError(f"A query log or a file of rows was expected at {path}; there is none.")
    if path.is_dir() or path.suffix == ".parquet" or (path.suffix == ".jsonl" and _is_log(path)):
        return _of_log(path)
    kind = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    readers = {".csv": _of_csv, ".csv.gz": _of_csv, ".jsonl": _of_lines, ".npz": _of_arrays}
    if kind not in readers:
        raise InputError(f"A query log, .csv, .jsonl or .npz was expected; got {path.name}. Convert it.")
    return readers[kind](path, names)


def _is_log(path: Path) -> bool:
    with path.open("rb") as lines:
        return b'"decision":' in lines.readline()


def _of_log(path: Path) -> list[ClientStream]:
    from portcullis_ml.gateway.policy.clients import ANONYMOUS
    from portcullis_ml.gateway.querylog import read_log

    parts: dict[str, list[tuple[float, int, Array, Answer]]] = defaultdict(list)
    for line in read_log(path):
        if line.admitted and line.x is None:
            raise InputError("This log holds decisions only; calibration needs [log] queries = true.")
        if line.x is not None and line.clean is not None and line.client != ANONYMOUS:
            parts[line.counts_for].append((line.at, line.admitted, line.x.astype(np.float64), line.clean))
    if not parts:
        raise InputError(
            f"{path} holds no answered request of a client with a name. Give each client a key "
            "(portcullis check --new-key) and let the gate record for some days."
        )
    streams = []
    for client, held in parts.items():
        held.sort(key=lambda part: part[:2])
        at = np.concatenate([np.full(len(x), when) for when, _, x, _ in held])
        x, answer = np.concatenate([x for _, _, x, _ in held]), Answer.concat([a for *_, a in held])
        streams.append(ClientStream(client, x, at, answer))
    return streams


def _of_csv(path: Path, names: Names) -> list[ClientStream]:
    from portcullis_ml.data.csv_file import read_csv

    columns = read_csv(path, LIMIT)
    _has(path, columns, names)
    scores = sorted((int(found[1]), c) for c in columns if (found := SCORE.fullmatch(c)))
    besides = {names.client, names.time, names.label, *(c for _, c in scores)}
    wanted = [f.name for f in names.features] or [c for c in columns if c not in besides]
    if missing := [c for c in wanted if c not in columns]:
        raise InputError(f"{path} lacks the column {missing[0]!r}, which the policy's model takes.")
    known = {f.name: f.values for f in names.features}
    x = np.stack([_numbers(path, c, columns[c], known.get(c, ())) for c in wanted], axis=1)
    p = np.stack([_numbers(path, c, columns[c]) for _, c in scores], axis=1) if scores else None
    return _streams(path, columns[names.client], columns[names.time], x, columns.get(names.label), p, names)


def _of_lines(path: Path, names: Names) -> list[ClientStream]:
    rows = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: JSON was expected; got {text[:40]!r}.") from error
        if not isinstance(row, dict) or "x" not in row:
            raise InputError(f'{path}, line {number}: {{"client": ..., "time": ..., "x": [...]}} was expected.')
        rows.append(row)
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    _has(path, columns, names)
    x, scores = _stacked(path, "x", columns["x"]), columns.get("scores")
    p = None if scores is None else _stacked(path, "scores", scores)
    return _streams(path, columns[names.client], columns[names.time], x, columns.get(names.label), p, names)


def _of_arrays(path: Path, names: Names) -> list[ClientStream]:
    try:
        with np.load(path, allow_pickle=False) as held:
            columns = {key: held[key] for key in held.files}
    except (ValueError, OSError) as error:
        raise InputError(f"{path} was expected to hold arrays without objects; it cannot be read ({error}).") from error
    _has(path, columns, names)
    if "x" not in columns:
        raise InputError(f"{path} lacks the array 'x' with the rows that were asked.")
    x, label, p = columns["x"], columns.get(names.label), columns.get("scores")
    lists = [columns[names.client].tolist(), columns[names.time].tolist(), None if label is None else label.tolist()]
    if any(part is not None and len(part) != len(x) for part in (*lists, p)):
        raise InputError(f"{path}: every array must have one entry for each of the {len(x)} rows of x.")
    scores = None if p is None else p.astype(np.float64)
    return _streams(path, lists[0] or [], lists[1] or [], x.astype(np.float64), lists[2], scores, names)


def _has(path: Path, columns: Mapping[str, Any], names: Names) -> None:
    """InputError unless clients, times and answers are there."""
    for name, option in ((names.client, "--client-column"), (names.time, "--time-column")):
        if name not in columns:
            raise InputError(f"{path} has no column {name!r}; say what it is called with {option}.")
    scores = "scores" in columns or any(SCORE.fullmatch(name) for name in columns)
    if names.label not in columns and not scores:
        raise InputError(
            f"{path} has no column {names.label!r}: detectors read what the model answered. Add its class, or its "
            "scores (see docs/gateway/calibrating.md)."
        )


def _streams(
    path: Path, clients: Sequence[Any], times: Sequence[Any], x: Array, labels: Sequence[Any] | None,
    scores: Array | None, names: Names,
) -> list[ClientStream]:  # fmt: skip
    if not len(x):
        raise InputError(f"{path} holds no rows.")
    if any(value is None for value in (*clients, *(labels or ()))):
        raise InputError(f"{path}: every row needs {names.client!r} and {names.label!r}; some lack one.")
    at = np.array([seconds_of(str(path), value) for value in times])
    if scores is not None and names.classes and scores.shape[1] != len(names.classes):
        raise InputError(
            f"{path}: {scores.shape[1]} scores a row; the policy's model has {len(names.classes)} classes."
        )
    if labels is None:
        assert scores is not None  # `_has` has seen to it
        codes: Labels = scores.argmax(axis=1)
    else:
        codes = _codes(path, [str(value) for value in labels], [str(c) for c in names.classes])
    rows: dict[str, list[int]] = defaultdict(list)
    for i, client in enumerate(clients):
        rows[str(client)].append(i)
    streams = []
    for client, held in rows.items():
        order = np.array(held)[np.argsort(at[held], kind="stable")]
        answer = Answer(codes[order], None if scores is None else scores[order])
        streams.append(ClientStream(client, x[order], at[order], answer))
    return streams


def _codes(path: Path, words: list[str], classes: list[str]) -> Labels:
    """Classes as codes, in the order of the policy's names; whole numbers without names are codes already."""
    if not classes and all(word.removesuffix(".0").isdigit() for word in words):
        return np.array([int(float(word)) for word in words], np.int64)
    known = {name: code for code, name in enumerate(classes or sorted(set(words)))}
    strange = sorted(set(words) - set(known))
    if strange:
        raise InputError(f"{path} holds the class {strange[0]!r}, which the policy's [model] classes do not name.")
    return np.array([known[word] for word in words], np.int64)


def _numbers(path: Path, name: str, cells: Sequence[str], values: Sequence[str] = ()) -> Array:
    """A column as numbers; words by their place among the categories that the policy names."""
    if values:
        codes = {word: float(code) for code, word in enumerate(values)}
        return np.array([codes.get(cell, np.nan) for cell in cells])
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError as error:
        raise InputError(
            f"{path}: column {name!r} was expected to hold numbers ({error}). Leave it out, or give --policy with a "
            "[model] whose features name its categories."
        ) from None


def _stacked(path: Path, name: str, rows: Sequence[Any]) -> Array:
    try:
        return np.array(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {name!r} must hold as many numbers in every line ({error}).") from None
