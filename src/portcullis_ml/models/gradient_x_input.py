"""Gradient x input: how much each input adds to a class's logit, were the network linear.

Shrikumar, Greenside, Shcherbina, Kundaje. "Not Just a Black Box: Learning Important Features Through Propagating
Activation Differences", arXiv 1605.01713 (2016), section 2; compared with others in Shrikumar, Greenside, Kundaje.
"Learning Important Features Through Propagating Activation Differences", ICML 2017, section 2.

The explanation of class c is x * dz_c/dx, with z_c the logit: it has the shape of a row. In a linear model it is
w_c * x, so a client who divides by the inputs reads off the weights; in a ReLU network, those of the linear piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Differentiable, Labels, Model
from portcullis_ml.models.explain import Explainer, Explanation

__all__ = ["GradientXInput"]


@dataclass(frozen=True, kw_only=True)
class GradientXInput(Explainer):
    name: ClassVar[str] = "gradient_x_input"

    def prepare(self, model: Model) -> Explanation:
        if not isinstance(model, Differentiable):
            raise InputError(
                f"gradient_x_input explains a model with gradients, such as a PyTorch network; this victim is a "
                f"{type(model).__name__}. Choose another: portcullis list explainers."
            )
        return partial(_product, model)


def _product(model: Differentiable, x: Array, classes: Labels) -> Array:
    """x (n, *input_shape), classes (n,) -> (n, *input_shape)."""
    return x * model.input_gradient(x, np.eye(model.n_classes)[classes], of="logits")
