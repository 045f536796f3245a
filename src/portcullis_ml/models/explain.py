"""Explainers by name, and a victim that is wrapped so that it explains its answers.

An explainer is settings as data; called with a victim it gives the same model with an explanation beside its scores,
as an explaining API shows it. An author writes `prepare`. Rows are explained in `Blocks`, so a row's explanation is the
same bits in whatever request it comes. Their probe explains about 7,000 rows when the victim is loaded.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

import numpy as np

from portcullis_ml.catalog import Catalog
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array, Labels, Model
from portcullis_ml.models.blocks import Blocks

__all__ = ["EXPLAINERS", "ExplainedModel", "Explainer", "Explanation", "explainer_named"]

Explanation = Callable[[Array, Labels], Array]  # x (n, *input_shape), classes (n,) -> (n, ...)

EXPLAINERS = Catalog(
    "explainers",
    {
        "grad_cam": "portcullis_ml.models.grad_cam:GradCam",
        "gradient_x_input": "portcullis_ml.models.gradient_x_input:GradientXInput",
        "relevance_cam": "portcullis_ml.models.relevance_cam:RelevanceCam",
        "tree_contributions": "portcullis_ml.models.tree_contributions:TreeContributions",
    },
)


class ExplainedModel:
    """A model that explains: the victim's own scores, and an explanation of a class.

    like               (m, *input_shape) rows of the real kind for the probe, see `Blocks`
    explanation_shape  the shape of one row's explanation
    """

    def __init__(self, model: Model, explanation: Explanation, like: Array | None = None) -> None:
        self.input_shape = tuple(model.input_shape)
        self.n_classes = model.n_classes
        self._model = model
        self._explanation = explanation
        rows = None if like is None else self._rows(like, np.arange(len(like)) % self.n_classes)
        self._blocks = Blocks(self._of_rows, (math.prod(self.input_shape) + 1,), like=rows)
        self.explanation_shape = self.explain(np.empty((0, *self.input_shape)), np.empty(0, np.int64)).shape[1:]

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes), as the victim gives them."""
        return self._model.scores(x)

    def explain(self, x: Array, classes: Labels) -> Array:
        """x (n, *input_shape), classes (n,) in 0..n_classes-1 -> (n, *explanation_shape) float64."""
        classes = np.asarray(classes)
        if classes.shape != (len(x),) or not ((classes >= 0) & (classes < self.n_classes)).all():
            raise InputError(
                f"An explanation of {len(x)} rows needs a class in 0..{self.n_classes - 1} for each of them; got "
                f"{classes.tolist()[:5]}."
            )
        return self._blocks(self._rows(x, classes))

    def _rows(self, x: Array, classes: Labels) -> Array:
        """Flat rows with their class in a last column, since a block must hold all that an explanation depends on."""
        flat = np.asarray(x, np.float64).reshape(len(x), math.prod(self.input_shape))
        return np.column_stack([flat, classes])

    def _of_rows(self, rows: Array) -> Array:
        """The probe also sends rows of NaN and of huge numbers, whose class is as good as any other."""
        classes = np.clip(np.nan_to_num(rows[:, -1]), 0, self.n_classes - 1).astype(np.int64)
        return np.asarray(self._explanation(rows[:, :-1].reshape(len(rows), *self.input_shape), classes), np.float64)


class Explainer(ABC):
    """A way to explain. Settings are fields; `prepare` says how, for one victim."""

    name: ClassVar[str] = ""

    @abstractmethod
    def prepare(self, model: Model) -> Explanation:
        """What explains this model's rows. InputError or MissingExtra say in one sentence why nothing can."""

    @final
    def __call__(self, model: Model, like: Array | None = None) -> ExplainedModel:
        """The victim with explanations; `like` (m, *input_shape) are rows of the real kind to probe it with."""
        if model.n_classes < 2:
            raise InputError(f"{self.name or type(self).__name__} explains a class; this victim does regression.")
        return ExplainedModel(model, self.prepare(model), like)


def explainer_named(word: str) -> Explainer:
    """The explainer "grad_cam", "grad_cam(upsample=True)" or "my_package.module:Class"."""
    unit = EXPLAINERS.build(word)
    if not isinstance(unit, Explainer):
        raise ParameterError("an explainer", "an Explainer", type(unit).__name__)
    return unit
