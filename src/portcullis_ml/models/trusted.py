"""What is let through when a scikit-learn file is read: types that skops does not vouch for and that cannot run code.

skops refuses trees, since a forged one makes scikit-learn read outside its arrays. They are let in and inspected
before anything is predicted: every child comes after its parent and every split names a column; of the trees of
neighbours, every row and every node is one that is there. A partial function is let in where it is the one with which
histogram boosting checks its columns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError

__all__ = ["TRUSTED", "inspect_trees"]

TREES = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree")
NEIGHBOURS = ("sklearn.neighbors._ball_tree.BallTree", "sklearn.neighbors._kd_tree.KDTree")
CHECK = "sklearn.utils.validation.check_array"
KERNELS = ("ConstantKernel", "DotProduct", "Matern", "Product", "RBF", "RationalQuadratic", "Sum", "WhiteKernel")
OURS = (  # a copy that `auto` has made: plain data around scikit-learn's own models
    "portcullis_ml.models.auto.AutoModel",
    "portcullis_ml.models.auto_numbers.NumbersModel",
    "portcullis_ml.models.families._OfLabels",
    "portcullis_ml.models.families._OfScores",
    "portcullis_ml.models.families._OfValues",
    "portcullis_ml.models.families._Scale",
    "portcullis_ml.models.gaussian.GaussianProcess",
    "portcullis_ml.models.quantiles.QuantileEncoding",
)
TRUSTED = frozenset(
    {
        *TREES,
        *NEIGHBOURS,
        *OURS,
        CHECK,
        "functools.partial",
        "numpy.dtype",
        "numpy.number",
        "numpy.object_",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        *(f"sklearn.gaussian_process.kernels.{name}" for name in KERNELS),
        *(f"sklearn.metrics._dist_metrics.{name}Distance64" for name in ("Chebyshev", "Euclidean", "Manhattan")),
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.utils._bunch.Bunch",
    }
)
DEPTH = 30  # estimators within estimators


def inspect_trees(estimator: Any, name: str) -> None:
    """Raise InputError if a tree anywhere in the estimator points outside itself, or it holds a function of its own."""
    for tree in _trees(estimator, DEPTH):
        if isinstance(tree, functools.partial):
            if f"{tree.func.__module__}.{tree.func.__qualname__}" != CHECK:
                raise InputError(f"{name} holds a function, {tree.func!r}. Load it yourself; name it as module:object.")
            continue
        if _name(tree) in NEIGHBOURS:
            if not _neighbours_inside(tree):
                raise InputError(f"{name} holds a tree of neighbours that points outside itself. Write the file again.")
            continue
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


def _neighbours_inside(tree: Any) -> bool:
    """Whether every row that a KDTree or a BallTree names is one of its rows, and every child one of its nodes."""
    data, order, nodes, bounds = (np.asarray(part) for part in tree.get_arrays())
    n, many = len(data), len(nodes)
    start, end, leaf = nodes["idx_start"], nodes["idx_end"], nodes["is_leaf"].astype(bool)
    rows = len(order) == n and bool((order >= 0).all() and (order < n).all())
    spans = bool((start >= 0).all() and (start <= end).all() and (end <= n).all())
    return rows and spans and bounds.shape[1] == many > 0 and bool((leaf | (2 * np.arange(many) + 2 < many)).all())


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _trees(thing: Any, depth: int) -> Iterator[Any]:
    kind = _name(thing)
    if kind in (*TREES, *NEIGHBOURS) or isinstance(thing, functools.partial):
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
