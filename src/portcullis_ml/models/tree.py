"""Decision trees as an API serves them: what a leaf shows, incomplete rows, categories, single-precision inputs.

A row walks down from the root and stops at a leaf, or at the first split whose input is omitted (NaN), and the answer
is what that node shows. Inputs are compared in single precision, as scikit-learn does. What a node shows is

    shares       the share of every class among its training rows (scikit-learn's predict_proba), or the mean target
    confidence   of the most frequent class only, the lower end of Wilson's 95 % interval for its share, which tells
                 nodes of different size apart. It is spread over [1 / c, 1], and the other classes share the rest, so
                 that the answer stays a distribution whose greatest entry is the class served.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array, Feature

__all__ = ["TreeModel", "grow_tree"]

LEAF = -1
Z = 1.96  # of Wilson's interval
Source = tuple[int, int | None]  # input column; the category that an indicator stands for, None for a number


class TreeModel:
    """feature (n,) is LEAF in a leaf; threshold (n,): at most this goes left; left, right (n,); value (n, c) scores.

    goes_left {node: codes} says which codes of a categorical column go left, instead of a threshold. Node 0 is the
    root. `n_classes` is 0 for regression.
    """

    def __init__(
        self,
        feature: NDArray[np.int64],
        threshold: Array,
        left: NDArray[np.int64],
        right: NDArray[np.int64],
        value: Array,
        *,
        input_shape: tuple[int, ...],
        n_classes: int,
        goes_left: dict[int, tuple[int, ...]] | None = None,
    ) -> None:
        self.feature = np.asarray(feature, np.int64)
        self.threshold = np.asarray(threshold, np.float64)
        self.left, self.right = np.asarray(left, np.int64), np.asarray(right, np.int64)
        self.value = np.asarray(value, np.float64)
        self.input_shape, self.n_classes = tuple(input_shape), n_classes
        self.goes_left = dict(goes_left or {})
        n = len(self.feature)
        if any(len(a) != n for a in (self.threshold, self.left, self.right, self.value)) or n == 0:
            raise InputError(f"A tree needs one entry a node in each of its arrays; the first has {n}.")
        if self.value.shape[1:] != (max(n_classes, 1),):
            raise InputError(f"A tree of {n_classes} classes needs values (n, {max(n_classes, 1)}).")

    @classmethod
    def of(
        cls,
        estimator: Any,
        *,
        shows: Literal["shares", "confidence"] = "shares",
        sources: Sequence[Source] | None = None,
        input_shape: tuple[int, ...] | None = None,
    ) -> TreeModel:
        """A fitted scikit-learn tree. `sources` says what each of its columns is, where some are indicators."""
        if not hasattr(estimator, "tree_"):
            raise InputError(
                f"A fitted scikit-learn decision tree was expected; {type(estimator).__name__} has no tree_. "
                "Fit it, or take the last step of the pipeline."
            )
        if shows not in ("shares", "confidence"):
            raise ParameterError("shows", "'shares' or 'confidence'", shows)
        tree, n_classes = estimator.tree_, len(getattr(estimator, "classes_", ()))
        columns: Sequence[Source] = sources or [(j, None) for j in range(estimator.n_features_in_)]
        inner = np.flatnonzero(tree.children_left != LEAF)
        coded = {int(n): columns[tree.feature[n]] for n in inner if columns[tree.feature[n]][1] is not None}
        top = {j: max(code for i, code in columns if i == j and code is not None) for j, _ in coded.values()}
        feature = np.full(tree.node_count, LEAF)
        feature[inner] = [columns[c][0] for c in tree.feature[inner]]
        value = tree.value[:, 0, :]
        if shows == "confidence" and n_classes:
            value = _confidence(value, tree.n_node_samples)
        return cls(
            feature,
            tree.threshold,
            tree.children_left,
            tree.children_right,
            value,
            input_shape=input_shape or (1 + max(j for j, _ in columns),),
            n_classes=n_classes,
            goes_left={n: tuple(c for c in range(top[j] + 1) if c != code) for n, (j, code) in coded.items()},
        )

    @property
    def leaves(self) -> int:
        return int((self.feature == LEAF).sum())

    def scores(self, x: Array) -> Array:
        """(n, *input_shape), NaN where omitted -> (n, n_classes), or (n, 1) for regression."""
        return self.value[self.apply(x)]

    def apply(self, x: Array) -> NDArray[np.int64]:
        """(n,) the node at which every row stops."""
        rows = np.asarray(x, np.float64).reshape(len(x), math.prod(self.input_shape)).astype(np.float32)
        node = np.zeros(len(rows), np.int64)
        walking = np.arange(len(rows))
        while True:
            at = node[walking]
            seen = rows[walking, self.feature[at]]
            going = (self.feature[at] != LEAF) & ~np.isnan(seen)
            if not going.any():
                return node
            walking, at, seen = walking[going], at[going], seen[going]
            to_left = seen.astype(np.float64) <= self.threshold[at]
            for split in set(at.tolist()) & self.goes_left.keys():
                here = at == split
                to_left[here] = np.isin(seen[here], self.goes_left[split])
            node[walking] = np.where(to_left, self.left[at], self.right[at])


def _confidence(shares: Array, rows: NDArray[np.int64]) -> Array:
    """(n, c) shares of n nodes of so many training rows -> (n, c) what their confidence leaves to every class."""
    c, p, n = shares.shape[1], shares.max(axis=1), rows
    centre, spread = p + Z**2 / (2 * n), Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    lower = np.maximum((centre - spread) / (1 + Z**2 / n), 0)
    top = 1 / c + (1 - 1 / c) * lower
    shown = np.repeat(((1 - top) / max(c - 1, 1))[:, None], c, axis=1)
    shown[np.arange(len(p)), shares.argmax(axis=1)] = top
    return np.asarray(shown)


def grow_tree(
    x: Array,
    y: NDArray[Any],
    features: Sequence[Feature] | None = None,
    *,
    rng: np.random.Generator,
    regression: bool = False,
    shows: Literal["shares", "confidence"] = "shares",
    **settings: Any,
) -> TreeModel:
    """A tree for rows (n, d) of a table: numbers as they are, every category split off its column one at a time.

    `settings` go to scikit-learn's tree: max_leaf_nodes, max_depth, min_samples_leaf, ...
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    categories = [f.categories for f in features] if features else [0] * rows.shape[1]
    sources: list[Source] = []
    for j, k in enumerate(categories):
        sources += [(j, code) for code in range(k)] if k else [(j, None)]
    columns = [rows[:, j] if code is None else rows[:, j] == code for j, code in sources]
    estimator = (DecisionTreeRegressor if regression else DecisionTreeClassifier)(
        random_state=int(rng.integers(2**31)), **settings
    )
    estimator.fit(np.column_stack(columns), y)
    return TreeModel.of(estimator, shows=shows, sources=sources, input_shape=np.shape(x)[1:])
