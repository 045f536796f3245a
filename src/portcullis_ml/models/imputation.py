"""Imputation: what a column of a table is, from its other columns and the class, without anybody's model."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.types import Array, Rows

__all__ = ["imputed"]

TREES = 200
LEAF = 3  # rows in a leaf, at least
DOUBT = 1e-3  # the weight of "any value": no value is impossible because a forest never saw it


def imputed(known: Rows, rows: Rows, column: int, values: int, *, rng: np.random.Generator) -> Array:
    """(n, values) how likely each code of that column is for each row, by a forest fitted to the known rows.

    What `rows` hold in the column is not looked at. Classes count as a column where both sides have them.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    seed = int(rng.integers(2**31))
    truth = np.rint(known.x[:, column]).astype(np.int64)
    both = known.y is not None and rows.y is not None
    inputs = [_others(part, column, with_class=both) for part in (known, rows)]
    forest = ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, random_state=seed).fit(inputs[0], truth)
    p = np.full((len(rows), values), DOUBT / values)
    if len(rows):
        p[:, forest.classes_] += (1 - DOUBT) * forest.predict_proba(inputs[1])
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def _others(rows: Rows, column: int, *, with_class: bool) -> Array:
    x = np.delete(rows.x, column, axis=1)
    return np.column_stack([x, np.asarray(rows.y, np.float64)]) if with_class else x
