"""Scores as ranked pairs, `[{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}]`: how pipelines of Hugging
Face and most services of pictures answer. Where the server tells its best classes only, the others are withheld."""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Array, Labels
from portcullis_ml.gateway.protocols.answers import class_values, named_classes
from portcullis_ml.gateway.protocols.described import Schema, object_of, some
from portcullis_ml.gateway.protocols.mapping_table import MappingTable
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["described_pairs", "read_pairs", "written_pairs"]


def read_pairs(table: MappingTable, served: ModelSpec, n: int, found: Any) -> Answer:
    """The answer in one list of pairs a row: the class of the best score, and NaN for classes that are not told. Raises
    Unreachable."""
    rows = found if table.batch or (table.scores and table.scores.each is not None) else [found]
    if not isinstance(rows, list) or len(rows) != n or not all(isinstance(row, list) for row in rows):
        raise Unreachable(f"The model server must answer a list of pairs for each of {n} rows; it sent something else.")
    labels, scores = np.full(n, -1, np.int64), np.full((n, served.interface.n_classes), np.nan)
    for i, row in enumerate(rows):
        if row:
            labels[i] = _row(table, served, row, scores[i])
    most = table.best or served.interface.n_classes
    if (np.isfinite(scores).sum(axis=1) > most).any():
        raise Unreachable(f"The model server must answer {most} pairs a row at most: see best in the policy.")
    return Answer(labels, scores)


def _row(table: MappingTable, served: ModelSpec, row: list[Any], scores: Array) -> int:
    """The best class of a row, whose scores are filled in."""
    name, value = table.pair
    if not all(isinstance(pair, dict) and pair.keys() >= {name, value} for pair in row):
        raise Unreachable(f"The model server must answer pairs of {name!r} and {value!r}; it sent something else.")
    classes = named_classes(served, [pair[name] for pair in row])
    if len(set(classes)) < len(row) or min(classes) < 0 or max(classes) >= len(scores):
        raise Unreachable("The model server must name each class of a row once; it names one twice, or one too many.")
    told = [pair[value] for pair in row]
    if not all(value is None or type(value) in (int, float) for value in told):
        raise Unreachable("The model server must answer scores as numbers; it sent something else.")
    scores[classes] = [np.nan if value is None else value for value in told]
    known = [(-value, place) for place, value in enumerate(told) if value is not None]
    return int(classes[min(known)[1] if known else 0])


def written_pairs(table: MappingTable, served: ModelSpec, scores: Array | None, labels: Labels | None) -> list[Any]:
    """One list of pairs a row, the answered class first and the others by their scores; only what is shown."""
    assert labels is not None  # such a model has classes
    names = class_values(served, np.arange(served.interface.n_classes))
    words = names.tolist() if isinstance(names, np.ndarray) else names
    held = np.full((len(labels), len(words)), np.nan) if scores is None else scores
    return [_pairs(table, words, row, label) for row, label in zip(held.tolist(), labels.tolist(), strict=True)]


def _pairs(table: MappingTable, words: list[Any], row: list[float], label: int) -> list[dict[str, Any]]:
    if label < 0:
        return []
    others = sorted((-p, k) for k, p in enumerate(row) if p == p and k != label)
    ranked = [label, *(k for _, k in others)]
    name, value = table.pair
    return [{name: words[k], value: row[k] if row[k] == row[k] else None} for k in ranked]


def described_pairs(table: MappingTable, served: ModelSpec) -> Schema:
    """One row's pairs."""
    name, value = table.pair
    label: dict[str, Any] = {"type": "string"} if served.class_names and isinstance(served.class_names[0], str) else {}
    return some(object_of((name, value), **{name: label, value: {"type": ["number", "null"]}}), 0)
