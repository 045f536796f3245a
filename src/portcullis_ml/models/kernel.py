"""Kernel models in numpy: RBF kernel logistic regression, whose representers are training points, and the quadric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import expit, softmax

from portcullis_ml.core.types import Array
from portcullis_ml.models.lbfgs import Divergence, minimise

__all__ = ["KernelRegression", "Quadric", "fit_kernel", "match_representers", "rbf"]


def rbf(x: Array, centres: Array, gamma: float) -> Array:
    """(n, d), (s, d) -> (n, s): exp(-gamma |x - centre|^2)."""
    squares = (x**2).sum(axis=1)[:, None] - 2 * x @ centres.T + (centres**2).sum(axis=1)
    return np.asarray(np.exp(-gamma * np.maximum(squares, 0.0)))


@dataclass(eq=False)
class KernelRegression:
    """representers (s, d), weights (s, c), b (c,), gamma: softmax(sum_r weights_r K(x, representer_r) + b)."""

    representers: Array
    weights: Array
    b: Array
    gamma: float

    def __post_init__(self) -> None:
        self.input_shape: tuple[int, ...] = (self.representers.shape[1],)
        self.n_classes = len(self.b)

    def scores(self, x: Array) -> Array:
        return np.asarray(softmax(rbf(x, self.representers, self.gamma) @ self.weights + self.b, axis=1))


def fit_kernel(
    x: Array, targets: Array, start: KernelRegression, *, learn_gamma: bool = False, iterations: int = 4000
) -> tuple[KernelRegression, float]:
    """The kernel regression nearest to targets (n, c) that descent finds from `start`, and its loss.

    Representers, weights and intercept move together; so does gamma (by its logarithm) where it is not known.
    """
    s, d = start.representers.shape
    c = targets.shape[1]
    divergence = Divergence(targets)
    squares = (x**2).sum(axis=1)[:, None]

    def model(flat: Array) -> KernelRegression:
        centres, weights, b, log_gamma = np.split(flat, np.cumsum([s * d, s * c, c]))
        gamma = float(np.exp(log_gamma[0])) if learn_gamma else start.gamma
        return KernelRegression(centres.reshape(s, d), weights.reshape(s, c), b, gamma)

    def objective(flat: Array) -> tuple[float, Array]:
        at = model(flat)
        centres = at.representers
        distance = np.maximum(squares - 2 * x @ centres.T + (centres**2).sum(axis=1), 0.0)
        kernel = np.exp(-at.gamma * distance)
        loss, error = divergence(kernel @ at.weights + at.b)
        pull = (error @ at.weights.T) * kernel
        to_centres = 2 * at.gamma * (pull.T @ x - pull.sum(axis=0)[:, None] * centres)
        to_gamma = -at.gamma * float((pull * distance).sum()) if learn_gamma else 0.0
        gradient = [to_centres.ravel(), (kernel.T @ error).ravel(), error.sum(axis=0), np.array([to_gamma])]
        return loss, np.concatenate(gradient)

    parts = [start.representers.ravel(), start.weights.ravel(), start.b, np.log([start.gamma])]
    flat, loss = minimise(objective, np.concatenate(parts), iterations=iterations)
    return model(flat), loss


def match_representers(found: Array, true: Array) -> tuple[NDArray[np.intp], Array]:
    """(min(s, t),) rows of `true` and mean |difference| per coordinate of every matched pair, in the order of `found`.

    found (s, d), true (t, d). Matched one to one at the least total distance, so that one lucky
    representer cannot stand for many training points.
    """
    distance = cdist(found, true, "cityblock") / found.shape[1]
    rows, matched = linear_sum_assignment(distance)
    return matched, np.asarray(distance[rows, matched])


@dataclass(eq=False)
class Quadric:
    """A polynomial of degree 2 whose sign is the class: v (D,) over `Quadric.features`, D = (d + 1)(d + 2) / 2."""

    v: Array
    d: int

    def __post_init__(self) -> None:
        self.input_shape: tuple[int, ...] = (self.d,)
        self.n_classes = 2

    @staticmethod
    def features(x: Array) -> Array:
        """(n, d) -> (n, D): 1, x_i, x_i x_j for i <= j, with the weights of the kernel (x . x' + 1)^2."""
        i, j = np.triu_indices(x.shape[1])
        products = x[:, i] * x[:, j] * np.where(i == j, 1.0, np.sqrt(2.0))
        return np.column_stack([np.ones(len(x)), np.sqrt(2.0) * x, products])

    def scores(self, x: Array) -> Array:
        p = expit(self.features(x) @ self.v)
        return np.column_stack([1 - p, p])
