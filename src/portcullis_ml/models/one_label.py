"""One label of several: a column that says yes or no by itself, read as a model of two classes.

A multi-label victim gives one score a label, and the scores of a row do not sum to 1. scikit-learn's say that they are
such (`MultiOutputClassifier`, one-vs-rest and networks on indicators, forests or neighbours of several outputs), others
show it by numbers from 0 to 1 that are no distributions.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy.special import expit

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.outputs import Reading, are_probabilities

__all__ = ["LabelOf", "OneLabel", "labels_of", "shows_labels"]

PROBED = 256  # rows that show whether a column is a probability or its logit


def labels_of(estimator: Any) -> int:
    """How many labels, or numbers, an estimator of scikit-learn's kind answers at once; 0 where it answers one."""
    if estimator is None or not hasattr(estimator, "predict"):
        return 0
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    classes = getattr(last, "classes_", None)
    if isinstance(classes, list):
        return len(classes) if len(classes) > 1 else 0
    if getattr(last, "multilabel_", False):
        return len(classes)  # type: ignore[arg-type]  # one-vs-rest on indicators has them
    if classes is None:
        return _numbers_of(last)
    several = getattr(last, "out_activation_", "") == "logistic" and getattr(last, "n_outputs_", 1) > 1
    return int(last.n_outputs_) if several else 0


def _numbers_of(regressor: Any) -> int:
    """How many numbers a regressor gives a row, 0 for one, as far as it says so."""
    coefficients = getattr(regressor, "coef_", None)
    found = getattr(regressor, "n_outputs_", 1)
    if isinstance(coefficients, np.ndarray) and coefficients.ndim == 2:
        found = len(coefficients)
    elif type(regressor).__name__ == "MultiOutputRegressor":
        found = len(regressor.estimators_)
    elif getattr(getattr(regressor, "_y", None), "ndim", 1) == 2:  # of neighbours
        found = regressor._y.shape[1]
    return int(found) if found > 1 else 0


def shows_labels(model: Model, x: Array) -> int:
    """How many labels the model's own numbers for rows x are; 0 where they are no labels: shares of 1, logits, one."""
    if not hasattr(model, "raw"):
        return 0
    raw = model.raw(x)
    if raw.ndim != 2 or raw.shape[1] < 2 or not ((raw >= 0).all() and (raw <= 1).all()):
        return 0
    return 0 if are_probabilities(raw) or not np.isfinite(raw).all() else int(raw.shape[1])


class LabelOf:
    """An estimator of several labels, or numbers, that answers the one at `column`; otherwise what it was."""

    def __init__(self, estimator: Any, column: int) -> None:
        self.estimator = estimator
        self.column = column
        classes = getattr(estimator, "classes_", None)
        if isinstance(classes, list):
            self.classes_ = classes[column]
        elif classes is not None:
            self.classes_ = np.array([0, 1])
        if classes is not None and hasattr(estimator, "predict_proba"):
            self.predict_proba = self._shares

    def __getattr__(self, name: str) -> Any:
        if name in ("n_features_in_", "feature_names_in_", "steps", "transformers_", "best_estimator_"):
            return getattr(self.estimator, name)
        raise AttributeError(name)

    def predict(self, x: Any) -> Any:
        """(n,) the answers in that column."""
        return np.asarray(self.estimator.predict(x))[:, self.column]

    def _shares(self, x: Any) -> Array:
        """(n, 2) or one column for each class of this label."""
        found = self.estimator.predict_proba(x)
        if isinstance(found, list):
            return np.asarray(found[self.column])
        yes = np.asarray(found)[:, self.column]
        return np.column_stack([1 - yes, yes])


class OneLabel:
    """One column of a model's own numbers: the probability, or the logit, of yes; or a number, of a regression."""

    def __init__(self, model: Model, column: int, like: Array, *, numbers: bool = False, logits: bool = False) -> None:
        raw = _raw(model, like[:PROBED])
        if not 0 <= column < raw.shape[1]:
            raise InputError(f"--label names the label of a column from 0 to {raw.shape[1] - 1}; got {column}.")
        inside = bool((raw[:, column] >= 0).all() and (raw[:, column] <= 1).all())
        self.model = model
        self.column, self.labels = column, raw.shape[1]
        self.input_shape = model.input_shape
        self.n_classes = 0 if numbers else 2
        self.precision: Literal["float64", "float32"] = getattr(model, "precision", "float64")
        self.reading: Reading = "probabilities" if inside and not logits else "logits"

    @property
    def said(self) -> str:
        """What is read, for a person."""
        read = "a number" if not self.n_classes else "yes or no" + (" from its logit" * (self.reading == "logits"))
        return f"column {self.column} of {self.labels}, {read}; {self.precision}"

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, 2) probabilities of no and yes, or (n, 1) numbers."""
        if len(x) == 0:
            return np.empty((0, max(self.n_classes, 1)))
        yes = _raw(self.model, x)[:, self.column]
        if not self.n_classes:
            return yes[:, None]
        yes = expit(yes) if self.reading == "logits" else yes
        return np.column_stack([1 - yes, yes])


def _raw(model: Model, x: Array) -> Array:
    """(n, labels) the model's own numbers. InputError where there is no more than one column to choose from."""
    raw = np.asarray(model.raw(x), np.float64) if hasattr(model, "raw") else np.empty((len(x), 0))
    if raw.ndim != 2 or raw.shape[1] < 2:
        raise InputError(
            "--label reads one of several columns of an estimator, an ONNX graph, a PyTorch module or a function; this "
            "victim shows one. Leave it out."
        )
    return raw
