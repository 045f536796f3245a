"""What can be told without the model: whether members and non-members differ by themselves.

Das, Zhang, Tramèr. "Blind Baselines Beat Membership Inference Attacks for Foundation Models", 2024. A classifier that
sees the candidates and never the model tells them apart where they were chosen from different sources. An attack that
does no better than it has shown nothing about the model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Rows

__all__ = ["blind_suspicion", "classes_differ"]

FOLDS = 5
TREES = 100
SURE = 1e-3  # p-value below which the classes of members and non-members are said to differ


def blind_suspicion(rows: Rows, member: NDArray[np.bool_], *, rng: np.random.Generator) -> Array:
    """(n,) how much each candidate looks like a member to a forest that was fitted to the other candidates.

    The forest sees inputs and true class. Each fifth of the candidates is judged by what was fitted to the rest.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    x = rows.x.reshape(len(rows), -1)
    if rows.y is not None:
        x = np.column_stack([x, rows.y])
    fold = np.empty(len(rows), np.int64)
    for kind in (member, ~member):
        fold[kind] = rng.permutation(int(kind.sum())) % FOLDS
    suspicion = np.zeros(len(rows))
    for k in range(FOLDS):
        held, fitted = fold == k, fold != k
        if not held.any() or len(np.unique(member[fitted])) < 2:
            continue
        forest = ExtraTreesClassifier(TREES, min_samples_leaf=3, random_state=int(rng.integers(2**31)))
        suspicion[held] = forest.fit(x[fitted], member[fitted]).predict_proba(x[held])[:, 1]
    return suspicion


def classes_differ(y: NDArray[np.int64], member: NDArray[np.bool_]) -> float | None:
    """The p-value of a chi-squared test that members and non-members have the same classes; None where it is no
    evidence that they differ."""
    from scipy.stats import chi2_contingency

    classes = np.unique(y)
    counts = np.array([[int((kind & (y == c)).sum()) for c in classes] for kind in (member, ~member)])
    if len(classes) < 2 or (counts.sum(axis=1) == 0).any():
        return None
    p = float(chi2_contingency(counts).pvalue)
    return p if p < SURE else None
