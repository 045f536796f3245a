"""The plain stranger where rows are texts: TF-IDF and logistic regression of scikit-learn as they come."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from portcullis_ml.core.types import Array
from portcullis_ml.models.texts import SHAPE, TextInterface

__all__ = ["StockText"]


class StockText:
    """Fitted to the answered labels; a constant where there is one label only, or no word in any text."""

    def __init__(self, rows: Array, p: Array, interface: TextInterface) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        self.input_shape, self.n_classes, self._interface = SHAPE, interface.n_classes, interface
        self._constant, labels = p.mean(axis=0), p.argmax(axis=1)
        self._fitted: Any = None
        if len(np.unique(labels)) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
                    self._fitted = pipeline.fit(interface.texts.of(rows), labels)
                except ValueError:  # no word in any text
                    pass

    def scores(self, x: Array) -> Array:
        """(n, 3) rows that stand for texts -> (n, n_classes)."""
        if self._fitted is None or len(x) == 0:
            return np.tile(self._constant, (len(x), 1))
        scores = np.zeros((len(x), self.n_classes))
        scores[:, self._fitted.classes_] = self._fitted.predict_proba(self._interface.texts.of(x))
        return scores
