"""Which pool rows to ask next, judged by the copy so far: the most uncertain, the most spread, the nearest to a change.

Pal et al., "ActiveThief", AAAI 2020, section 4.2; DeepFool: Moosavi-Dezfooli et al., CVPR 2016, algorithm 2;
k-centre: Sener and Savarese, ICLR 2018, algorithm 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from portcullis_ml.core.types import Array, Differentiable

__all__ = ["deepfool_distance", "entropy", "k_centre", "margin"]

RIVALS = 9  # classes beside its own that DeepFool tries for a row: the most probable
TINY = 1e-12


def entropy(p: Array) -> Array:
    """(n,) from probabilities (n, c); a probability of 0 adds nothing."""
    return np.asarray(entr(p).sum(axis=1))


def margin(p: Array) -> Array:
    """(n,) how far the most probable class is ahead of the second."""
    best = np.partition(p, -2, axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def k_centre(points: Array, centres: Array, k: int) -> NDArray[np.int64]:
    """(k,) rows of `points` (n, d), each the farthest from all centres (m, d) and from those picked before.

    Ties go to the lowest index, and no row is picked twice. Takes O((m + k) n d) time and O(n) memory beside the rows.
    """
    left = np.full(len(points), np.inf)
    for centre in centres:
        np.minimum(left, _squares(points, centre), out=left)
    picked = np.empty(min(k, len(points)), np.int64)
    for i in range(len(picked)):
        picked[i] = left.argmax()
        np.minimum(left, _squares(points, points[picked[i]]), out=left)
        left[picked[: i + 1]] = -np.inf
    return picked


def _squares(points: Array, centre: Array) -> Array:
    away = points - centre
    return np.asarray(np.einsum("ij,ij->i", away, away))


def deepfool_distance(
    model: Differentiable, x: Array, low: Array, high: Array, *, steps: int = 20, overshoot: float = 0.01
) -> Array:
    """(n,) squared distance that each row of x travels within the box until the model's class changes.

    A row stops as soon as its class has changed, and after `steps` at the latest. Inputs are as the model takes them;
    distances are in units of the box, which is [0, 1] in every coordinate after scaling.
    """
    width = np.where(high > low, high - low, 1.0)
    start = (x - low) / width
    moved, own = start.copy(), model.scores(x).argmax(axis=1)
    going = np.arange(len(x))
    for _ in range(steps):
        logs = np.log(np.maximum(model.scores(low + width * moved[going]), TINY))
        same = logs.argmax(axis=1) == own[going]
        going, logs = going[same], logs[same]
        if len(going) == 0:
            break
        step = _step(model, low + width * moved[going], logs, own[going], width)
        moved[going] = np.clip(moved[going] + (1 + overshoot) * step, 0, 1)
    away = (moved - start).reshape(len(x), -1)
    return np.asarray(np.einsum("ij,ij->i", away, away))


def _step(model: Differentiable, x: Array, logs: Array, own: NDArray[np.int64], width: Array) -> Array:
    """The shortest step that a linear model would need to another class, for each row; inputs scaled by the width."""
    n, c = logs.shape
    each = np.arange(n)
    rivals = np.argsort(-np.where(np.arange(c) == own[:, None], -np.inf, logs), axis=1)[:, : min(RIVALS, c - 1)]
    nearest, best = np.full(n, np.inf), np.zeros_like(x)
    for rival in rivals.T:
        weights = np.zeros((n, c))
        weights[each, rival], weights[each, own] = 1, -1
        w = model.input_gradient(x, weights, of="log_probs") * width
        norm = np.maximum((w.reshape(n, -1) ** 2).sum(axis=1), TINY)
        gap = np.abs(logs[each, rival] - logs[each, own]) + TINY
        nearer = gap / np.sqrt(norm) < nearest
        nearest = np.where(nearer, gap / np.sqrt(norm), nearest)
        best[nearer] = (w * (gap / norm).reshape(n, *[1] * (x.ndim - 1)))[nearer]
    return best
