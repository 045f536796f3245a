"""A model that takes its inputs in other units than the rows are kept in: pixels of 0 to 255, say."""

from __future__ import annotations

from portcullis_ml.core.types import Array, Model

__all__ = ["ScaledModel"]


class ScaledModel:
    """`model`, given `factor` times the rows."""

    def __init__(self, model: Model, factor: float) -> None:
        self.model = model
        self.factor = factor
        self.input_shape = model.input_shape
        self.n_classes = model.n_classes
        self.precision = getattr(model, "precision", "float64")

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> what the model answers for factor * x."""
        return self.model.scores(x * self.factor)
