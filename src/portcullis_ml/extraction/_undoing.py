"""Two ways back from the answers that a defense shows to those that the model gave, which train nothing."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from portcullis_ml.core.types import Array

__all__ = ["looked_up", "subtracted"]

NEAR = 0.01  # the L1 distance up to which rehearsed answers count as the same
BATCH = 256  # answers that are looked up at a time
SLACK = 0.01  # by how much a class may hold less than what was added to it, so that rounding rules none out
TINY = 1e-12


def looked_up(asked: Array, shown: Array, true: Array) -> Array:
    """(n, c) for each answer `asked` the mean of the true answers of those pairs (m, c) whose shown answer is near
    it; where none is near, that of the nearest pair."""
    found = []
    for part in np.split(asked, range(BATCH, len(asked), BATCH)):
        distance = cdist(part, shown, "cityblock")
        near = distance <= NEAR
        near[np.arange(len(part)), distance.argmin(axis=1)] = True
        found.append(near @ true / near.sum(axis=1, keepdims=True))
    return np.concatenate(found)


def subtracted(asked: Array, guess: Array, added: float) -> Array:
    """(n, c) the answers `asked` without the probability `added` that a defense moved to one class of each.

    Which class that was is not known. Few classes hold so much; of these the one is taken whose answer without it comes
    nearest in L1 to what a copy guesses (n, c). The other classes keep their ratios. An answer in which no class holds
    so much stays as it is.
    """
    best, least = asked.copy(), np.full(len(asked), np.inf)
    for k in range(asked.shape[1]):
        left = np.maximum(asked[:, k] - added, 0.0)
        others = np.delete(asked, k, axis=1).sum(axis=1)
        without = asked * ((1 - left) / np.maximum(others, TINY))[:, None]
        without[:, k] = left
        distance = np.abs(without - guess).sum(axis=1)
        nearer = (asked[:, k] >= added - SLACK) & (others > TINY) & (distance < least)
        best[nearer], least[nearer] = without[nearer], distance[nearer]
    return best
