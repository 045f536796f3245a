"""Any Python function as a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import softmax as softmax_of

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array
from portcullis_ml.models.outputs import Reading, one_output

__all__ = ["FunctionModel"]


class FunctionModel:
    """A function of (n, *input_shape) that gives (n, n_classes) probabilities, or (n,) or (n, 1) numbers when
    n_classes is 0 (regression). It must be deterministic and leave its argument alone.

    Of two classes, one column is enough: the probability of class 1. `output` says which of several outputs to read,
    `reading` whether the numbers are probabilities or logits; `kind` is what to call it.
    """

    def __init__(
        self,
        function: Callable[[Array], Any],
        input_shape: tuple[int, ...],
        n_classes: int,
        *,
        output: str | None = None,
        reading: Reading = "probabilities",
        kind: str = "function",
    ) -> None:
        self.output = output
        self.reading = reading
        self.kind = kind
        self.function = function
        self.input_shape = tuple(input_shape)
        self.n_classes = n_classes

    def raw(self, x: Array) -> Array:
        """The function's own numbers."""
        return np.asarray(one_output(self.function(x), len(x), self.n_classes or None, self.output), np.float64)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes), or (n, 1) for regression."""
        scores = np.asarray(one_output(self.function(x), len(x), self.n_classes or None, self.output), np.float64)
        if self.n_classes in (0, 2) and scores.ndim == 1:
            scores = scores[:, None]
        if self.n_classes == 2 and scores.shape == (len(x), 1):
            other = 1 - scores if self.reading == "probabilities" else np.zeros_like(scores)
            scores = np.hstack([other, scores])
        expected = (len(x), max(self.n_classes, 1))
        if scores.shape != expected:
            raise InputError(
                f"The {self.kind} was expected to give scores of shape {expected}; it gave {scores.shape}. "
                "Return one row for each row asked and one column for each class."
            )
        return scores if self.reading == "probabilities" or not self.n_classes else softmax_of(scores, axis=1)
