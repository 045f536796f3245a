"""One-vs-rest regression: one sigmoid a class, divided by their sum (scikit-learn's and BigML's convention)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, softmax

from portcullis_ml.core.types import Array
from portcullis_ml.models.lbfgs import minimise

__all__ = ["OneVsRest", "fit_one_vs_rest"]


@dataclass(eq=False)
class OneVsRest:
    """w (c, d), b (c,): p_i(x) = s(w_i.x + b_i) / sum_j s(w_j.x + b_j), s the logistic function."""

    w: Array
    b: Array

    def __post_init__(self) -> None:
        self.input_shape: tuple[int, ...] = (self.w.shape[1],)
        self.n_classes = len(self.b)

    def scores(self, x: Array) -> Array:
        """(n, d) -> (n, c). Through logarithms, so that a row of tiny sigmoids still sums to one."""
        return np.asarray(softmax(log_expit(x @ self.w.T + self.b), axis=1))


def fit_one_vs_rest(x: Array, targets: Array, *, iterations: int = 20_000, start: OneVsRest | None = None) -> OneVsRest:
    """The one-vs-rest regression nearest to targets (n, c); x (n, d) should be scaled to about [-1, 1].

    With g = log s(z), p = softmax(g) and dKL/dz_i = (p_i - y_i) s(-z_i).
    """
    n, classes = targets.shape
    design = np.column_stack([x, np.ones(n)])
    shape = (design.shape[1], classes)

    def objective(flat: Array) -> tuple[float, Array]:
        z = design @ flat.reshape(shape)
        log_s = log_expit(z)
        log_sum = np.logaddexp.reduce(log_s, axis=1, keepdims=True)
        p = np.exp(log_s - log_sum)
        terms = np.where(targets > 0, targets * (np.log(np.where(targets > 0, targets, 1.0)) - log_s + log_sum), 0.0)
        gradient = design.T @ ((p - targets) * expit(-z)) / n
        return float((terms - targets + p).sum() / n), gradient.ravel()

    theta = np.zeros(shape) if start is None else np.vstack([start.w.T, start.b])
    flat, _ = minimise(objective, theta.ravel(), iterations=iterations)
    theta = flat.reshape(shape)
    return OneVsRest(theta[:-1].T.copy(), theta[-1].copy())
