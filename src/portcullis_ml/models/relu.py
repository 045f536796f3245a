"""A network of one hidden layer of rectifiers in numpy, with a linear path beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import log_softmax

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array

__all__ = ["ReluNetwork", "fit_outputs", "hidden"]

WEIGHTS = ("w", "b", "v", "skip", "a")
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
    relu(-u) = relu(u) - u. Rows of another shape than (d,) are flattened. InputError for weights of other shapes.
    """

    w: Array
    b: Array
    v: Array
    skip: Array
    a: Array
    n_classes: int
    input_shape: tuple[int, ...] = ()  # (d,) where nothing is given

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in WEIGHTS}
        (h, d), k = self.w.shape if self.w.ndim == 2 else (0, 0), max(self.n_classes - 1, 1)
        shapes = {"w": (h, d), "b": (h,), "v": (k, h), "skip": (k, d), "a": (k,)}
        self.input_shape = tuple(self.input_shape) or (d,)
        fits = {name: w.shape for name, w in weights.items()} == shapes and math.prod(self.input_shape) == d
        if not fits or self.n_classes == 1 or not all(np.isfinite(w).all() for w in weights.values()):
            raise InputError(
                "A network of one hidden layer needs finite w (h, d), b (h,), v (k, h), skip (k, d), a (k,) and "
                "n_classes = k + 1, or 0 for a value; got "
                f"{', '.join(f'{name} {w.shape}' for name, w in weights.items())}, n_classes {self.n_classes} and "
                f"an input_shape of {self.input_shape}. Write the file again with save_model."
            )

    def outputs(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, k)."""
        x = _flat(x)
        return np.asarray(hidden(x, self.w, self.b) @ self.v.T + x @ self.skip.T + self.a)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities, or (n, 1) values."""
        outputs = self.outputs(x)
        return outputs if self.n_classes == 0 else np.exp(_log_probs(outputs))

    def input_gradient(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        """(n, *input_shape): the gradient of sum_j weights[:, j] * of_j(x), weights (n, n_classes)."""
        if of == "log_probs":
            weights = weights - weights.sum(axis=1, keepdims=True) * self.scores(x)
        inner = weights[:, 1:] if self.n_classes else weights  # the first class has a logit of 0 everywhere
        active = _flat(x) @ self.w.T + self.b > 0
        return np.asarray(((inner @ self.v) * active) @ self.w + inner @ self.skip).reshape(len(x), *self.input_shape)

    def save(self, path: str | Path) -> Path:
        """The weights as an .npz file."""
        weights = {name: getattr(self, name) for name in WEIGHTS}
        with open(path, "wb") as file:
            np.savez(file, **weights, n_classes=np.array(self.n_classes), input_shape=np.array(self.input_shape))
        return Path(path)


def _flat(x: Array) -> Array:
    return np.asarray(x, np.float64).reshape(len(x), -1)


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
