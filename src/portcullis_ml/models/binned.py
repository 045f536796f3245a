"""A linear model on features that the service makes itself: indicators of categories and of quantile bins.

Stands for services that take a table, bin its numbers, and fit a softmax regression on the indicators (as Amazon's did
in 2016, after Tramèr et al., USENIX Security 2016, section 4.3). An omitted input (NaN) leaves its whole block at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Feature

__all__ = ["BinnedLinear", "Block", "fit_binned"]


@dataclass(frozen=True, eq=False)
class Block:
    """What one input adds to the logits.

    edges (k,) with weights (k + 1, c): a bin reaches up to and including its right edge. slope (c,) instead: the
    input as it is, `weights` (1, c) at zero. A category has edges halfway between its codes.
    """

    weights: Array
    edges: Array
    slope: Array | None = None

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.edges) + 1 or (np.diff(self.edges) <= 0).any():
            raise InputError(
                "A block needs rising edges and one row of weights more; "
                f"got {len(self.edges)} and {len(self.weights)}."
            )

    def __call__(self, x: Array) -> Array:
        """(n,) values, NaN where omitted -> (n, c)."""
        out = self.weights[np.searchsorted(self.edges, x, side="left") if len(self.edges) else np.zeros(len(x), int)]
        if self.slope is not None:
            out = out + x[:, None] * self.slope
        return np.where(np.isnan(x)[:, None], 0.0, out)

    @classmethod
    def of_category(cls, weights: Array) -> Block:
        """weights (k, c) of the codes 0 .. k - 1."""
        return cls(weights, np.asarray(np.arange(len(weights) - 1) + 0.5, np.float64))


class BinnedLinear:
    """p(x) = softmax(b + sum of the blocks); b (c,)."""

    def __init__(self, blocks: Sequence[Block], b: Array, *, input_shape: tuple[int, ...] | None = None) -> None:
        self.blocks = tuple(blocks)
        self.b = np.asarray(b, np.float64)
        self.n_classes = len(self.b)
        self.input_shape = (len(self.blocks),) if input_shape is None else tuple(input_shape)
        if np.prod(self.input_shape) != len(self.blocks):
            raise InputError(f"{len(self.blocks)} blocks do not fit an input_shape of {self.input_shape}.")

    def logits(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, c)."""
        rows = np.asarray(x, np.float64).reshape(len(x), -1)
        return np.asarray(self.b + sum((block(rows[:, j]) for j, block in enumerate(self.blocks)), np.zeros(())))

    def scores(self, x: Array) -> Array:
        """(n, *input_shape), NaN where omitted -> (n, c) probabilities."""
        return np.asarray(softmax(self.logits(x), axis=1)).reshape(len(x), self.n_classes)


def fit_binned(
    x: Array,
    y: NDArray[np.int64],
    features: Sequence[Feature] | None = None,
    *,
    bins: int = 10,
    c: float = 1.0,
) -> BinnedLinear:
    """A softmax regression on indicators: `bins` quantile bins for every number (0 leaves numbers as they are)."""
    from sklearn.linear_model import LogisticRegression

    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    edges = [_edges(rows[:, j], features[j].categories if features else 0, bins) for j in range(rows.shape[1])]
    columns = [_columns(rows[:, j], e) for j, e in enumerate(edges)]
    fitted = LogisticRegression(C=c, max_iter=2000).fit(np.column_stack(columns), y)
    w, b = fitted.coef_, fitted.intercept_
    if len(w) == 1:
        w, b = np.vstack([0 * w, w]), np.append(0.0, b)
    parts = np.split(w.T, np.cumsum([part.shape[1] for part in columns])[:-1])
    blocks = [
        Block(np.zeros((1, len(b))), np.empty(0), part[0]) if e is None else Block(part, e)
        for part, e in zip(parts, edges, strict=True)
    ]
    return BinnedLinear(blocks, b, input_shape=np.shape(x)[1:])


def _edges(column: Array, categories: int, bins: int) -> Array | None:
    """None for a number left as it is."""
    if categories:
        return np.asarray(np.arange(categories - 1) + 0.5, np.float64)
    if bins < 2:
        return None
    edges = np.unique(np.quantile(column, np.arange(1, bins) / bins))
    return np.asarray(edges[(edges >= column.min()) & (edges < column.max())], np.float64)


def _columns(column: Array, edges: Array | None) -> Array:
    """(n, k) indicators, or (n, 1) the number."""
    if edges is None:
        return column[:, None]
    return np.asarray(np.eye(len(edges) + 1)[np.searchsorted(edges, column, side="left")])
