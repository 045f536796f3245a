"""Whether a rebuilt input shows its class: judged by a classifier trained apart, and beside the class means.

Fredrikson, Jha, Ristenpart. "Model Inversion Attacks that Exploit Confidence Information and Basic Countermeasures",
ACM CCS 2015, had people pick the person out of a row of photographs. The inverted model's own opinion is worth nothing
here: what was made to please it does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Estimate, Labels
from portcullis_ml.measures.statistics import clopper_pearson, mean_of

__all__ = ["inversion_measures", "likeness", "means_and_nearest"]


def inversion_measures(
    recovered: Array, classes: Labels, x: Array, y: Labels, judged: Labels | None
) -> dict[str, Estimate]:
    """Measures of rebuilt rows (m, ...) of these classes (m,); x (n, ...) and y (n,) are training rows.

    nearest_mean  the share of them that resemble (by correlation) the mean of their own class more than any other's
    recognized    the share that a classifier trained apart gives their class; `judged` (m,) is what it says
    """
    known = np.unique(y)
    means = np.stack([x[y == c].reshape(int((y == c).sum()), -1).mean(axis=0) for c in known])
    nearest = known[_correlation(recovered, means).argmax(axis=1)]
    found = {"nearest_mean": clopper_pearson(int((nearest == classes).sum()), len(classes), unit="classes")}
    if judged is not None:
        found["recognized"] = clopper_pearson(int((judged == classes).sum()), len(classes), unit="classes")
    return found


def likeness(recovered: Array, classes: Labels, x: Array, y: Labels) -> dict[str, Estimate]:
    """How much rebuilt rows (m, ...) of these classes (m,) look like the training rows x (n, ...) of classes y (n,).

    nearest_row  the share whose most similar training row is of their class
    own_mean     the correlation with the mean of their own class;  other_means: the average over the other classes.
                 Two faces resemble each other whoever they are: the first says nothing without the second
    """
    known = np.unique(y)
    means = np.stack([x[y == c].mean(axis=0) for c in known])
    alike = _correlation(recovered, means)
    own = known[None, :] == classes[:, None]
    others = np.where(own, 0.0, alike).sum(axis=1) / np.maximum((~own).sum(axis=1), 1)
    nearest = y[_correlation(recovered, x).argmax(axis=1)]
    return {
        "nearest_row": clopper_pearson(int((nearest == classes).sum()), len(classes), unit="classes"),
        "own_mean": mean_of(alike[own], unit="classes", within=(-1, 1)),
        "other_means": mean_of(others, unit="classes", within=(-1, 1)),
    }


def means_and_nearest(recovered: Array, classes: Labels, x: Array, y: Labels) -> tuple[Array, NDArray[np.int64]]:
    """(m, ...) the mean of each rebuilt row's class, and (m,) the place of the training row that it resembles most."""
    means = np.stack([x[y == c].mean(axis=0) if (y == c).any() else np.zeros(x.shape[1:]) for c in classes])
    return means, _correlation(recovered, x).argmax(axis=1)


def _correlation(a: Array, b: Array) -> Array:
    """(len(a), len(b)) Pearson's correlation of every pair; a row that does not vary has none with anything."""
    flat = [rows.reshape(len(rows), -1) for rows in (a, b)]
    centred = [rows - rows.mean(axis=1, keepdims=True) for rows in flat]
    norms = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in centred]
    unit = [rows / np.where(norm > 0, norm, np.inf) for rows, norm in zip(centred, norms, strict=True)]
    return np.asarray(unit[0] @ unit[1].T)
