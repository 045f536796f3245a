"""Softmax regression in numpy: the model that equation solving returns, without any framework."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import log_softmax, softmax

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array

__all__ = ["SoftmaxRegression"]


class SoftmaxRegression:
    """p(x) = softmax(w x + b), with w (c, d) and b (c,); rows of another shape than (d,) are flattened.

    A binary logistic regression has two rows, the first of them zero. Adding one vector to every row changes nothing.
    """

    def __init__(self, w: Array, b: Array, *, input_shape: tuple[int, ...] | None = None) -> None:
        self.w = np.array(w, np.float64)
        self.b = np.array(b, np.float64)
        if self.w.ndim != 2 or self.b.shape != (len(self.w),) or len(self.w) < 2:
            raise InputError(
                f"Softmax regression needs w (c, d) and b (c,) with c of at least 2; got {self.w.shape} and "
                f"{self.b.shape}. A binary model has two rows, the first of them zero."
            )
        if not (np.isfinite(self.w).all() and np.isfinite(self.b).all()):
            raise InputError("The weights of a softmax regression must be finite; got NaN or infinity.")
        self.n_classes, width = self.w.shape
        self.input_shape = (width,) if input_shape is None else tuple(input_shape)
        if np.prod(self.input_shape) != width:
            raise InputError(f"w takes {width} inputs; an input_shape of {self.input_shape} holds another number.")

    def logits(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, c)."""
        return np.asarray(x, np.float64).reshape(len(x), -1) @ self.w.T + self.b

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, c) probabilities."""
        return np.asarray(softmax(self.logits(x), axis=1))

    def input_gradient(self, x: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        """(n, *input_shape): the gradient of sum_j weights[:, j] * of_j(x) with respect to x."""
        if of not in ("logits", "log_probs"):
            raise ParameterError("of", "'logits' or 'log_probs'", of)
        weights = np.asarray(weights, np.float64)
        if of == "log_probs":
            weights = weights - weights.sum(axis=1, keepdims=True) * np.exp(log_softmax(self.logits(x), axis=1))
        return (weights @ self.w).reshape(len(x), *self.input_shape)

    def save(self, path: str | Path) -> Path:
        """The weights as an .npz file."""
        with open(path, "wb") as file:
            np.savez(file, w=self.w, b=self.b, input_shape=np.array(self.input_shape))
        return Path(path)
