"""MinGD: how far a row lies from the nearest other class, by gradient, under three norms (Maini et al., ICLR 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from portcullis_ml.core.types import Array, Differentiable, Labels, Rows

__all__ = ["distances", "margins"]

PUBLISHED = {"linf": 0.001, "l2": 0.01, "l1": 1.0}  # the length of a step, of 500
AT_ONCE = 100  # coordinates that a step moves under the L1 norm


def margins(model: Differentiable, rows: Rows, bounds: tuple[float, float], steps: int, classes: int) -> Array:
    """(n,) in (0, 1]: the mean rank of each row's distance among those of all rows, over the three norms.

    A row that the model gets wrong has no distance left, and the lowest rank.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(distances(model, rows, norm, bounds, steps, classes)) / len(rows) for norm in PUBLISHED]
    return np.asarray(np.mean(ranks, axis=0))


def distances(
    model: Differentiable, rows: Rows, norm: str, bounds: tuple[float, float], steps: int, classes: int
) -> Array:
    """(n,) the least distance under the norm at which a row becomes one of the model's most likely other classes.

    Twice the reach of all steps where none is reached, 0 where the row is not of its own class to begin with.
    """
    assert rows.y is not None
    scores = model.scores(rows.x)
    right = scores.argmax(axis=1) == rows.y
    scores[np.arange(len(rows)), rows.y] = -np.inf
    targets = np.argsort(-scores, axis=1, kind="stable")[:, : min(classes, scores.shape[1] - 1)]
    step = PUBLISHED[norm] * (bounds[1] - bounds[0]) * 500 / steps
    found = np.full(len(rows), 2 * step * steps)
    for target in targets.T:
        reached = _reach(model, rows.x[right], target[right], norm, bounds, steps, step)
        found[right] = np.minimum(found[right], reached)
    return np.where(right, found, 0.0)


def _reach(
    model: Differentiable, x: Array, target: Labels, norm: str, bounds: tuple[float, float], steps: int, step: float
) -> Array:
    """(n,) how far each row has gone when the model first calls it its target class; infinity where it never does."""
    at, found, left = x.copy(), np.full(len(x), np.inf), np.arange(len(x))
    size = math.prod(x.shape[1:])
    for _ in range(steps):
        if not len(left):
            break
        top = model.scores(at[left]).argmax(axis=1)
        weights = np.zeros((len(left), model.n_classes))
        weights[np.arange(len(left)), target[left]] += 1.0
        weights[np.arange(len(left)), top] -= 1.0
        slope = model.input_gradient(at[left], weights, of="logits").reshape(len(left), size)
        ahead = STEP[norm](slope).reshape(-1, *x.shape[1:])
        at[left] = np.clip(at[left] + step * ahead, *bounds)
        there = model.scores(at[left]).argmax(axis=1) == target[left]
        done = left[there]
        found[done] = NORM[norm]((at[done] - x[done]).reshape(len(done), size))
        left = left[~there]
    return found


def _largest(slope: Array) -> Array:
    """Equal steps in the coordinates of greatest slope."""
    n = min(AT_ONCE, slope.shape[1])
    ahead, top = np.zeros_like(slope), np.argpartition(-np.abs(slope), n - 1, axis=1)[:, :n]
    np.put_along_axis(ahead, top, np.sign(np.take_along_axis(slope, top, axis=1)) / n, axis=1)
    return ahead


STEP: dict[str, Callable[[Array], Array]] = {
    "linf": np.sign,
    "l2": lambda slope: slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12),
    "l1": _largest,
}
NORM: dict[str, Callable[[Array], Array]] = {
    "linf": lambda d: np.abs(d).max(axis=1),
    "l2": lambda d: np.linalg.norm(d, axis=1),
    "l1": lambda d: np.abs(d).sum(axis=1),
}
