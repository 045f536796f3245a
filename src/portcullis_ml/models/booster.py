"""A boosted model from a file of its own library, with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array
from portcullis_ml.models.words import word_of

__all__ = ["BoosterEstimator", "Numbers"]

Numbers = Literal["probabilities", "margins", "values", "unknown"]  # what a booster's own predict gives


@dataclass(frozen=True, kw_only=True)
class BoosterEstimator:
    """Rows as people have them, turned into what the library takes: an array of numbers, a category as its code.

    name        of the file, for sentences
    ask         (n, n_features_in_) codes and numbers, NaN where a value is missing -> (n,) or (n, k)
    numbers     what `ask` gives: probabilities, margins before a sigmoid or a softmax, values of a regression, or
                numbers of an objective that the file does not name
    columns     how many `ask` gives for a row
    classes     as the file names them; whole numbers from 0 where it names none
    names       of the columns, or None
    categories  column -> its categories in the order of their codes; None where any word is one
    booster_    the library's own model
    """

    name: str
    ask: Callable[[NDArray[Any]], Array]
    numbers: Numbers
    columns: int
    width: int
    booster_: Any
    classes: Sequence[Any] | None = None
    names: Sequence[str] | None = None
    categories: Mapping[int, Sequence[Any] | None] = field(default_factory=dict)

    @property
    def n_features_in_(self) -> int:
        return self.width

    def __getattr__(self, name: str) -> Any:
        """What scikit-learn's estimators have in some cases only."""
        if name == "feature_names_in_" and self.names is not None:
            return np.array(self.names, object)
        if name == "classes_" and self.numbers in ("probabilities", "margins"):
            return np.arange(max(self.columns, 2)) if self.classes is None else np.asarray(self.classes)
        if name == "predict_proba" and self.numbers in ("probabilities", "margins"):
            return self._probabilities
        raise AttributeError(name)

    def answering(self, *, softmax: bool) -> BoosterEstimator:
        """The same, with its numbers taken for margins where nobody knows and somebody says so (`softmax`)."""
        if self.numbers != "unknown":
            return self
        if not softmax:
            raise InputError(
                f"{self.name} was trained by an objective of its own, so it does not say what its numbers are. If "
                "they are logits, say --softmax; else name a function that returns probabilities as module:object."
            )
        return replace(self, numbers="margins")

    def predict(self, rows: Any) -> NDArray[Any]:
        """(n,) classes, or values of a regression."""
        if self.numbers == "values":
            return np.asarray(self.ask(self._coded(rows)), np.float64).reshape(len(rows))
        return np.asarray(self.classes_[self._probabilities(rows).argmax(axis=1)])

    def _probabilities(self, rows: Any) -> Array:
        """(n, k); what is one against the rest is shared out so that rows sum to 1."""
        z = np.asarray(self.ask(self._coded(rows)), np.float64).reshape(len(rows), -1)
        if z.shape[1] == 1:
            p = expit(z) if self.numbers == "margins" else z
            return np.hstack([1 - p, p])
        return np.asarray(softmax(z, axis=1)) if self.numbers == "margins" else z / z.sum(axis=1, keepdims=True)

    def _coded(self, rows: Any) -> NDArray[Any]:
        """(n, width): words as codes, and words still where any word is a category."""
        columns = [_column(rows, j) for j in range(self.width)]
        if None in self.categories.values():
            made = np.empty((len(rows), self.width), object)
            for j, column in enumerate(columns):
                made[:, j] = [word_of(v) for v in column.tolist()] if j in self.categories else column
            return made
        return np.column_stack([self._codes(j, column) for j, column in enumerate(columns)]).astype(np.float64)

    def _codes(self, j: int, column: NDArray[Any]) -> NDArray[Any]:
        """A column's codes, NaN for what is unknown; numbers stand for themselves, or for codes of words."""
        known = self.categories.get(j)
        if known is None or (column.dtype.kind in "fiub" and any(isinstance(v, str) for v in known)):
            return column
        place = {word_of(v): code for code, v in enumerate(known)}
        return np.array([place.get(word_of(v), np.nan) for v in column.tolist()], np.float64)


def _column(rows: Any, j: int) -> NDArray[Any]:
    return np.asarray(rows.iloc[:, j] if hasattr(rows, "iloc") else np.asarray(rows)[:, j])
