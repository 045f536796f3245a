"""Softmax regression from answers that are known up to an interval: what was rounded lies half a unit to either side.

An answer p_j, shown with an error of at most h, says that log p_j - log p_t lies between log(p_j - h) - log(p_t + h)
and log(p_j + h) - log(p_t - h), where t is its likeliest class; a rounded 0 gives an upper end only. The log-ratios of
the model are linear in its weights, and their place in these intervals is what is fitted: the loss is convex, and no
logarithm of a zero is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from portcullis_ml.core.types import Array

__all__ = ["fit_intervals"]

OPEN = 0.5  # the width that an interval without a lower end is taken to have, and the most of any
ITERATIONS = 600


def fit_intervals(
    z: Array, scores: Array, *, unit: float, penalty: Array, misfit: float, iterations: int = ITERATIONS
) -> Array:
    """theta (width, c), whose softmax(z theta) is nearest to the answers.

    z (n, width) has a column of ones where an intercept is wanted, scores (n, c) are multiples of `unit`, penalty
    (width,) weighs squared weights. Log-ratios nearer to each other than `misfit` count as nearly the same.
    """
    n, c = scores.shape
    top = scores.argmax(axis=1)
    low, high, width, other = _intervals(scores, unit, misfit, top)
    has_low, has_high = other & np.isfinite(low), other & np.isfinite(high)
    low, high = np.where(has_low, low, 0.0), np.where(has_high, high, 0.0)

    def objective(flat: Array) -> tuple[float, Array]:
        theta = flat.reshape(-1, c - 1)
        logits = np.column_stack([np.zeros(n), z @ theta])
        ratio = logits - logits[np.arange(n), top][:, None]
        below, above = (ratio - low) / width, (high - ratio) / width
        loss = -(log_expit(below) * has_low + log_expit(above) * has_high).sum()
        error = (expit(-above) * has_high - expit(-below) * has_low) / width
        error[np.arange(n), top] -= error.sum(axis=1)
        weighed = penalty[:, None] * theta
        return float(loss + (weighed * theta).sum() / 2), (z.T @ error[:, 1:] + weighed).ravel()

    first = np.zeros(z.shape[1] * (c - 1))
    options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 30, "ftol": 1e-11, "gtol": 1e-6}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    theta = found.x.reshape(-1, c - 1)
    return np.column_stack([np.zeros(len(theta)), theta])


def _intervals(
    scores: Array, unit: float, misfit: float, top: NDArray[np.int64]
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """(n, c) the ends of every log-ratio to the likeliest class, how softly they hold, and which classes are others."""
    low, high = np.clip(scores - unit / 2, 0, 1), np.clip(scores + unit / 2, 1e-300, 1)
    rows = np.arange(len(scores))
    with np.errstate(divide="ignore"):
        low_logs, high_logs = np.log(low), np.log(high)
    at_least = low_logs - high_logs[rows, top][:, None]
    at_most = high_logs - low_logs[rows, top][:, None]
    half = np.where(np.isfinite(at_most - at_least), (at_most - at_least) / 2, OPEN)
    other = np.ones(scores.shape, bool)
    other[rows, top] = False
    return at_least, at_most, np.minimum(half, OPEN) / 2 + misfit, other
