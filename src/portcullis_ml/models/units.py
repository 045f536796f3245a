"""Units: models and APIs with every number on a scale from 0 to 1, so that one small change means the same for each.

A change of 0.25 is much for a pixel from 0 to 1 and nothing for a year of birth. Categories keep their codes, and are
read as the nearest one: whoever moves an input by less than half a code leaves them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from portcullis_ml.core.oracle import Oracle
from portcullis_ml.core.types import Answer, Array, Differentiable, Interface, Model

__all__ = ["InUnits", "OracleInUnits", "Units"]


@dataclass(frozen=True)
class Units:
    """The scales of an interface's inputs."""

    interface: Interface

    @property
    def bounds(self) -> tuple[Array, Array]:
        """(n_inputs,) the least and greatest value of every input on its scale."""
        top = [f.categories - 1.0 if f.categorical else 1.0 for f in self.interface.features or ()]
        high = np.array(top or [1.0] * self.interface.n_inputs)
        return np.zeros_like(high), high

    def of(self, x: Array) -> Array:
        """(n, *input_shape) rows on their scales."""
        low, width = self._scale()
        return np.asarray((x - low) / width)

    def rows(self, u: Array) -> Array:
        """(n, *input_shape) the rows that these stand for."""
        low, width = self._scale()
        x = low + u * width
        fixed = [j for j, feature in enumerate(self.interface.features or ()) if feature.categorical]
        x[:, fixed] = np.rint(x[:, fixed])
        return np.asarray(x)

    def slopes(self, gradient: Array) -> Array:
        """(n, *input_shape) gradients by rows as gradients by units."""
        return np.asarray(gradient * self._scale()[1])

    def _scale(self) -> tuple[Array, Array]:
        """(*input_shape) where every scale begins, and how wide it is; of categories 0 and 1."""
        low, high = self.interface.low, self.interface.high
        codes = np.array([f.categorical for f in self.interface.features or ()] or [False] * len(low))
        width = np.where(codes | (high == low), 1.0, high - low)
        return low.reshape(self.interface.input_shape), width.reshape(self.interface.input_shape)


class InUnits:
    """A model that is asked in units."""

    def __init__(self, model: Model, units: Units) -> None:
        self.input_shape, self.n_classes = tuple(model.input_shape), model.n_classes
        self._model, self._units = model, units

    def scores(self, u: Array) -> Array:
        return self._model.scores(self._units.rows(u))

    def input_gradient(self, u: Array, weights: Array, *, of: Literal["logits", "log_probs"]) -> Array:
        """See `Differentiable`; only of a model that can be differentiated."""
        assert isinstance(self._model, Differentiable)
        return self._units.slopes(self._model.input_gradient(self._units.rows(u), weights, of=of))


class OracleInUnits:
    """An API that is asked in units, and paid as ever."""

    def __init__(self, oracle: Oracle, units: Units) -> None:
        self.interface = oracle.interface
        self._oracle, self._units = oracle, units

    @property
    def left(self) -> int:
        return self._oracle.left

    def query(self, u: Array) -> Answer:
        return self._oracle.query(self._units.rows(u))
