"""What is let through when a scikit-learn file is read: types that skops does not vouch for and that cannot run code.

skops refuses trees, since a forged one makes scikit-learn read outside its arrays. They are let in and inspected
before anything is predicted: every child comes after its parent and every split names a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError

__all__ = ["TRUSTED", "inspect_trees"]

TREES = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree")
OURS = (  # a copy that `auto` has made: plain data around scikit-learn's own models
    "portcullis_ml.models.auto.AutoModel",
    "portcullis_ml.models.families._OfLabels",
    "portcullis_ml.models.families._OfScores",
    "portcullis_ml.models.families._Scale",
    "portcullis_ml.models.gaussian.GaussianProcess",
    "portcullis_ml.models.quantiles.QuantileEncoding",
)
TRUSTED = frozenset(
    {
        *TREES,
        *OURS,
        "numpy.dtype",
        "numpy.number",
        "numpy.object_",
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    }
)
DEPTH = 30  # estimators within estimators


def inspect_trees(estimator: Any, name: str) -> None:
    """Raise InputError if a tree anywhere in the estimator points outside itself."""
    for tree in _trees(estimator, DEPTH):
        if hasattr(tree, "nodes"):
            leaf, width = tree.nodes["is_leaf"].astype(bool), np.iinfo(np.int64).max
            left, right = (np.where(leaf, -1, tree.nodes[side].astype(np.int64)) for side in ("left", "right"))
            feature = np.where(leaf, 0, tree.nodes["feature_idx"].astype(np.int64))
        else:
            left, right, width = tree.children_left, tree.children_right, tree.n_features
            leaf, feature = left < 0, np.where(left < 0, 0, tree.feature)
        own = np.arange(len(left))
        inside = (left > own) & (right > own) & (left < len(left)) & (right < len(left))
        if not len(left) or not (leaf | inside).all() or (feature < 0).any() or (feature >= width).any():
            raise InputError(
                f"{name} holds a tree that points outside itself. Write the file again from the estimator."
            )


def _trees(thing: Any, depth: int) -> Iterator[Any]:
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if kind in TREES:
        yield thing
    elif depth and isinstance(thing, list | tuple):
        for item in thing:
            yield from _trees(item, depth - 1)
    elif depth and isinstance(thing, np.ndarray) and thing.dtype.kind == "O":
        for item in thing.ravel():
            yield from _trees(item, depth - 1)
    elif depth and (kind.startswith("sklearn.") or kind in OURS) and hasattr(thing, "__dict__"):
        for item in vars(thing).values():
            yield from _trees(item, depth - 1)
    elif depth and isinstance(thing, dict):
        for item in thing.values():
            yield from _trees(item, depth - 1)
