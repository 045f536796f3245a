"""A model that gives every input the same scores."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.types import Array

__all__ = ["ConstantModel"]


class ConstantModel:
    """The scores (n_classes,), or one number (1,), as the answer to every row.

    What a learner returns that has nothing to choose by.
    """

    chosen: ClassVar[dict[str, Any]] = {"fitted": {"constant": 1.0}}

    def __init__(self, input_shape: tuple[int, ...], scores: Array) -> None:
        self.input_shape = input_shape
        self.n_classes = len(scores) if len(scores) > 1 else 0  # one number is a regression's
        self._scores = scores

    def scores(self, x: Array) -> Array:
        return np.tile(self._scores, (len(x), 1))
