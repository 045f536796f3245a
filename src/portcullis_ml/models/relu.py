"""A network of one hidden layer of rectifiers in numpy, with a linear path beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import log_softmax

from portcullis_ml.core.types import Array

__all__ = ["ReluNetwork", "fit_outputs", "hidden"]

ROUNDING = 1e-9  # of the greatest output: rows nearer than this are explained
ROUNDS = 10


def hidden(x: Array, w: Array, b: Array) -> Array:
    """(n, d), (h, d), (h,) -> (n, h) what the hidden units give."""
    return np.asarray(np.maximum(x @ w.T + b, 0.0))


@dataclass(eq=False)
class ReluNetwork:
    """w (h, d), b (h,), then v (k, h), skip (k, d), a (k,): outputs v relu(w x + b) + skip x + a.

    With `n_classes` 0 the outputs are the answer (regression, k = 1). Otherwise k = n_classes - 1, and they are the
    logits of all classes but the first, whose logit is 0. The linear path makes the sign of a unit a matter of taste:
    relu(-u) = relu(u) - u.
    """

    w: Array
    b: Array
    v: Array
    skip: Array
    a: Array
    n_classes: int

    def __post_init__(self) -> None:
        self.input_shape: tuple[int, ...] = (self.w.shape[1],)

    def outputs(self, x: Array) -> Array:
        """(n, d) -> (n, k)."""
        return np.asarray(hidden(x, self.w, self.b) @ self.v.T + x @ self.skip.T + self.a)

    def scores(self, x: Array) -> Array:
        """(n, d) -> (n, n_classes) probabilities, or (n, 1) values."""
        outputs = self.outputs(x)
        return outputs if self.n_classes == 0 else np.exp(_log_probs(outputs))

    def input_gradient(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        """(n, d): the gradient of sum_j weights[:, j] * of_j(x), weights (n, n_classes)."""
        if of == "log_probs":
            weights = weights - weights.sum(axis=1, keepdims=True) * self.scores(x)
        inner = weights[:, 1:] if self.n_classes else weights  # the first class has a logit of 0 everywhere
        active = x @ self.w.T + self.b > 0
        return np.asarray(((inner @ self.v) * active) @ self.w + inner @ self.skip)


def fit_outputs(x: Array, outputs: Array, w: Array, b: Array, n_classes: int) -> ReluNetwork:
    """The network on known hidden units nearest to outputs (n, k): exact on most rows, if it can be.

    Least squares, and again with every row weighted by 1 / its error, which tends to the least sum of errors: a few
    rows where a unit that is not known is in another state do not spoil the fit on the others.
    """
    design = np.column_stack([hidden(x, w, b), x, np.ones(len(x))])
    scale = np.maximum(np.abs(design).max(axis=0), np.finfo(float).tiny)
    design, weights = design / scale, np.ones(len(x))
    floor = ROUNDING * max(1.0, float(np.abs(outputs).max()))
    for _ in range(ROUNDS):
        solution = np.linalg.lstsq(design * weights[:, None], outputs * weights[:, None])[0]
        errors = np.abs(design @ solution - outputs).max(axis=1)
        if errors.max() <= floor:
            break
        weights = np.sqrt(floor / np.maximum(errors, floor))
    solution = (solution / scale[:, None]).T
    return ReluNetwork(w, b, solution[:, : len(b)], solution[:, len(b) : -1], solution[:, -1], n_classes)


def _log_probs(outputs: Array) -> Array:
    return np.asarray(log_softmax(np.column_stack([np.zeros(len(outputs)), outputs]), axis=1))
