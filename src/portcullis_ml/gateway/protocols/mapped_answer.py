"""The answer of a home-made JSON server: scores, classes and explanations at their places.

One row's scores are a list, an object by the classes' names, one number (of two classes the probability of the
second, or the value of a regression), or the score of the named class alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Array
from portcullis_ml.gateway.protocols.answers import answer_from, class_values, top_answer
from portcullis_ml.gateway.protocols.described import Schema, const, object_of, some
from portcullis_ml.gateway.protocols.json_paths import NOWHERE, Place, found_at, put
from portcullis_ml.gateway.protocols.mapped_pairs import described_pairs, read_pairs, written_pairs
from portcullis_ml.gateway.protocols.mapping_table import MappingTable
from portcullis_ml.gateway.protocols.wire import ModelSpec, one_hot_where_withheld, shown_scores

__all__ = ["described_answer", "read_answer", "written_answer"]


def read_answer(table: MappingTable, served: ModelSpec, n: int, tree: Any) -> Answer:
    """The answer for n rows in what a server sent; Unreachable if there is none."""
    scores = _at(table, tree, table.scores) if served.scores else None
    labels = _at(table, tree, table.labels)
    if scores is None and labels is None:
        wanted = table.scores if table.scores and served.scores else table.labels
        raise Unreachable(f"The model server must answer {wanted}; it sent none.")
    if table.scores_as == "pairs":
        return read_pairs(table, served, n, scores)
    explanation = _at(table, tree, table.explanation) if served.explanation else None
    if scores is not None and "labels" not in table.given and not served.class_names and not _numbers(labels):
        labels = None  # nobody asked for them, and what they mean is not known
    if table.scores_as == "top" and scores is not None:
        return top_answer(served, n, scores, labels, explanation)
    if table.scores_as == "object" and scores is not None:
        scores = _columns(served, scores)
    return answer_from(served, n, scores, labels, explanation)


def _at(table: MappingTable, tree: Any, where: Place | None) -> Any:
    """What stands at a place; None where nothing does. A single row's null is a value that is withheld."""
    found = NOWHERE if where is None else found_at(tree, where)
    if found is NOWHERE:
        return None
    return [None] if found is None and not table.batch else found


def _numbers(labels: Any) -> bool:
    while isinstance(labels, list) and labels:
        labels = labels[0]
    return isinstance(labels, int | float)


def _names(served: ModelSpec) -> list[str]:
    """What the classes are called where they are keys."""
    known = served.class_names or range(served.interface.n_classes)
    return [str(name).lower() if isinstance(name, bool) else str(name) for name in known]


def _columns(served: ModelSpec, found: Any) -> list[list[Any]]:
    """Lists of scores from objects by the classes' names, each of which must name every class."""
    names = _names(served)
    rows = found if isinstance(found, list) else [found]
    for row in rows:
        if not isinstance(row, dict) or row.keys() != set(names):
            sent = list(row)[:5] if isinstance(row, dict) else type(row).__name__
            raise Unreachable(f"The model server must answer a score for each class by its name; it sent {sent}.")
    return [[row[name] for name in names] for row in rows]


def written_answer(table: MappingTable, served: ModelSpec, answer: Answer) -> Any:
    """The answer as a client gets it, as `orjson` takes it."""
    scores = shown_scores(served, answer)
    if table.scores_as == "pairs" and table.scores is not None:
        return _put(table, {}, table.scores, written_pairs(table, served, scores, answer.labels))
    if table.scores is not None and table.labels is None and answer.labels is not None:
        shape = (len(answer), served.interface.n_classes)  # the class shows in the scores alone
        scores = one_hot_where_withheld(np.full(shape, np.nan) if scores is None else scores, answer)
    tree: Any = {}
    if scores is not None and table.scores is not None:
        tree = _put(table, tree, table.scores, _shown(table, served, scores, answer))
    if answer.labels is not None and table.labels is not None:
        tree = _put(table, tree, table.labels, class_values(served, answer.labels))
    if answer.explanation is not None and served.explanation and table.explanation is not None:
        tree = _put(table, tree, table.explanation, np.ascontiguousarray(answer.explanation))
    return tree


def _shown(table: MappingTable, served: ModelSpec, scores: Array, answer: Answer) -> Any:
    """The scores as this table writes them, one value a row."""
    if table.scores_as == "object":
        names = _names(served)
        return [dict(zip(names, row, strict=True)) for row in scores.tolist()]
    if table.scores_as == "number":
        return np.ascontiguousarray(scores[:, -1])
    if table.scores_as == "top" and answer.labels is not None:
        labels = answer.labels
        return np.where(labels >= 0, scores[np.arange(len(labels)), np.maximum(labels, 0)], np.nan)
    return np.ascontiguousarray(scores)


def _put(table: MappingTable, tree: Any, where: Place, values: Any) -> Any:
    return put(tree, where, values if table.batch or where.each is not None else values[0])


def described_answer(table: MappingTable, served: ModelSpec) -> Schema:
    """What an answer holds, in which what is not shown is null or not there."""
    columns, value = served.interface.columns, {"type": ["number", "null"]}
    one: Any = some(value, columns, columns)
    if table.scores_as == "object":
        one = object_of((), **dict.fromkeys(_names(served), value))
    elif table.scores_as == "pairs":
        one = described_pairs(table, served)
    elif table.scores_as in ("number", "top"):
        one = value
    labels = const(*served.class_names, None) if served.class_names else value
    parts = [(table.scores, one)]
    if served.interface.n_classes:
        parts.append((table.labels, labels))
    if served.explanation:
        parts.append((table.explanation, {}))
    tree: Any = {}
    for where, schema in parts:
        if where is not None:
            many = some(schema) if table.batch and where.each is None else schema
            tree = put(tree, where, [_Described(many)] if where.each is not None else _Described(many))
    return _described(tree)


class _Described(tuple[Any, ...]):
    """A schema at its place, told from the objects around it."""

    def __new__(cls, schema: Any) -> _Described:
        return super().__new__(cls, (schema,))


def _described(tree: Any) -> dict[str, Any]:
    if isinstance(tree, _Described):
        return tree[0]  # type: ignore[no-any-return]
    if isinstance(tree, list):
        return some(_described(tree[0]))
    return object_of((), **{key: _described(value) for key, value in tree.items()})
