"""Which pool rows to ask next, judged by the copy so far: the most uncertain, the most spread, the nearest to a change.

Pal et al., "ActiveThief", AAAI 2020, section 4.2; DeepFool: Moosavi-Dezfooli et al., CVPR 2016, algorithm 2;
k-centre: Sener and Savarese, ICLR 2018, algorithm 1.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from portcullis_ml.core.types import Array, Differentiable

__all__ = ["deepfool_distance", "entropy", "k_centre", "margin"]

RIVALS = 9  # classes beside its own that DeepFool tries for a row: the most probable
TOGETHER = 128  # rows whose gradients DeepFool holds at once
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
    parts = [x[start : start + TOGETHER] for start in range(0, len(x), TOGETHER)]
    return np.concatenate([np.empty(0), *(_distances(model, part, low, high, steps, overshoot) for part in parts)])


def _distances(model: Differentiable, x: Array, low: Array, high: Array, steps: int, overshoot: float) -> Array:
    """`deepfool_distance` of a few rows, whose gradients fit in memory."""
    width = np.where(high > low, high - low, 1.0)
    start = (x - low) / width
    moved, scores = start.copy(), model.scores(x)
    own, going = scores.argmax(axis=1), np.arange(len(x))
    for _ in range(steps):
        logs = np.log(np.maximum(scores, TINY))
        step = _step(model, low + width * moved[going], logs, own[going], width)
        moved[going] = np.clip(moved[going] + (1 + overshoot) * step, 0, 1)
        scores = model.scores(low + width * moved[going])
        same = scores.argmax(axis=1) == own[going]
        going, scores = going[same], scores[same]
        if len(going) == 0:
            break
    away = (moved - start).reshape(len(x), -1)
    return np.asarray(np.einsum("ij,ij->i", away, away))


def _step(model: Differentiable, x: Array, logs: Array, own: NDArray[np.int64], width: Array) -> Array:
    """The shortest step that a linear model would need to another class, for each row; inputs scaled by the width."""
    n, c = logs.shape
    each = np.arange(n)
    rivals = np.argsort(-np.where(np.arange(c) == own[:, None], -np.inf, logs), axis=1)[:, : min(RIVALS, c - 1)]
    weights = np.zeros((n, rivals.shape[1], c))
    np.put_along_axis(weights, rivals[:, :, None], 1, axis=2)
    weights[each, :, own] = -1
    w = _gradients(model, x, weights) * width
    flat = w.reshape(*rivals.shape, -1)
    squares = np.maximum(np.einsum("nki,nki->nk", flat, flat), TINY)
    gap = np.abs(np.take_along_axis(logs, rivals, axis=1) - logs[each, own][:, None]) + TINY
    nearest = (gap / np.sqrt(squares)).argmin(axis=1)
    length = gap[each, nearest] / squares[each, nearest]
    return np.asarray(w[each, nearest] * length.reshape(n, *[1] * (x.ndim - 1)))


@runtime_checkable
class _ByOneForwardPass(Differentiable, Protocol):
    """A model that gives several gradients of a row together, as a `TorchModel` does."""

    def input_gradients(self, x: Array, weights: Array, *, of: Literal["log_probs"]) -> Array: ...


def _gradients(model: Differentiable, x: Array, weights: Array) -> Array:
    """(n, k, *input_shape) of the log probabilities, for k weightings (n, k, classes) of each row."""
    if isinstance(model, _ByOneForwardPass):
        return model.input_gradients(x, weights, of="log_probs")
    return np.stack([model.input_gradient(x, each, of="log_probs") for each in weights.swapaxes(0, 1)], axis=1)
