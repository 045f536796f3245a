"""Boosted trees on cells: a number is replaced by how many known thresholds lie below it, then trees are fitted.

What is split between two thresholds of the victim cannot matter, so nothing else is left to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from portcullis_ml.core.types import Array, Labels

__all__ = ["RankedLabels", "RankedSums", "Ranks", "fit_labels", "fit_sums"]

LEAVES = 63
BINS = 255


@dataclass(frozen=True, eq=False)
class Ranks:
    """thresholds: one rising array a column; None leaves the column as it is (a category)."""

    thresholds: tuple[Array | None, ...]

    def __call__(self, rows: Array) -> Array:
        """(n, d) -> (n, d)"""
        columns = [
            rows[:, j] if t is None else np.searchsorted(t, rows[:, j], side="left")
            for j, t in enumerate(self.thresholds)
        ]
        return np.column_stack(columns).astype(np.float64)


@dataclass(frozen=True, eq=False)
class RankedSums:
    """Rows (n, d) -> (n, k) real numbers, one fitted regressor each."""

    ranks: Ranks
    fitted: tuple[Any, ...]

    def __call__(self, rows: Array) -> Array:
        ranked = self.ranks(rows)
        return np.column_stack([estimator.predict(ranked) for estimator in self.fitted])


class RankedLabels:
    """A classifier of ranked rows as a model."""

    def __init__(self, ranks: Ranks, estimator: Any, *, input_shape: tuple[int, ...], n_classes: int) -> None:
        self.ranks, self.estimator = ranks, estimator
        self.input_shape, self.n_classes = tuple(input_shape), n_classes

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes)"""
        rows = np.asarray(x, np.float64).reshape(len(x), -1)
        scores = np.zeros((len(x), self.n_classes))
        if len(x):
            scores[:, self.estimator.classes_] = self.estimator.predict_proba(self.ranks(rows))
        return scores


def fit_sums(ranks: Ranks, rows: Array, targets: Array, *, trees: int, seed: int) -> RankedSums:
    """rows (n, d), targets (n, k)"""
    from sklearn.ensemble import HistGradientBoostingRegressor

    ranked = ranks(rows)
    settings: dict[str, Any] = {"max_iter": trees, "max_leaf_nodes": LEAVES, "max_bins": BINS, "early_stopping": False}
    return RankedSums(
        ranks, tuple(HistGradientBoostingRegressor(random_state=seed, **settings).fit(ranked, t) for t in targets.T)
    )


def fit_labels(
    ranks: Ranks, x: Array, labels: Labels, *, input_shape: tuple[int, ...], n_classes: int, trees: int, seed: int
) -> RankedLabels:
    """x (n, *input_shape), labels (n,). One class is a constant."""
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier

    estimator: Any = DummyClassifier()
    if trees and len(np.unique(labels)) > 1:
        estimator = HistGradientBoostingClassifier(
            max_iter=trees, max_leaf_nodes=LEAVES, max_bins=BINS, early_stopping=False, random_state=seed
        )
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    estimator.fit(ranks(rows), labels)
    return RankedLabels(ranks, estimator, input_shape=input_shape, n_classes=n_classes)
