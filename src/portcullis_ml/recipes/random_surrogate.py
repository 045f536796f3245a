"""Random surrogate: a stand-in for the thief's model, with random weights, kept so that answers stay what they are.

Orekondy, Schiele, Fritz. "Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks", ICLR 2020, the
section on the stand-in: one that is far from convergence works best, and theirs is not trained at all.

Threat model   none: it is made without knowing the thief.
Cost           nothing is trained. Serving it is one pass of a network with one hidden layer, without torch.

The published stand-in has the victim's architecture. Only its answers matter to the defense, so this one has a hidden
layer of `hidden` units with weights as He et al. draw them (normal, variance 2 / inputs), inputs brought to one scale
by the owner's rows: a table's columns each to its own, all pixels to one. A pixel that hardly varies there, as on a
border, would else be so large in foreign pictures that the stand-in is certain of one class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Model, Rows
from portcullis_ml.models.artifacts import pack_arrays

__all__ = ["RandomSurrogate"]


@dataclass(frozen=True, kw_only=True)
class RandomSurrogate(Recipe):
    hidden: int = 128  # units of the hidden layer

    name: ClassVar[str] = "random_surrogate"
    needs_outside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, "hidden", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def fit(
        self,
        given: Model,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Contents:
        """surrogate.safetensors: the arrays of a `models.dense.DenseModel` with the victim's classes."""
        deviation = rows.x.std(axis=0)
        if rows.x.ndim > 2:  # pixels share a unit, the columns of a table do not
            deviation = np.full_like(deviation, np.sqrt((deviation**2).mean()))
        width, classes = int(np.prod(given.input_shape)), given.n_classes
        arrays = {
            "mean": rows.x.mean(axis=0),
            "deviation": np.where(deviation > 1e-3, deviation, 1.0),
            "w0": rng.normal(scale=np.sqrt(2 / width), size=(self.hidden, width)),
            "b0": np.zeros(self.hidden),
            "w1": rng.normal(scale=np.sqrt(2 / self.hidden), size=(classes, self.hidden)),
            "b1": np.zeros(classes),
        }
        watch(1, 1)
        return Contents({"surrogate.safetensors": pack_arrays(arrays)}, {"hidden": self.hidden})
