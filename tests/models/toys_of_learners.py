"""Learners for tests of whoever takes a learner by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.sklearn import SklearnLearner

__all__ = ["WrongClasses"]


@dataclass(frozen=True)
class WrongClasses:
    """Trains models that know one class more than they were given."""

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        return SklearnLearner(estimator="tree").fit(x, np.pad(targets, ((0, 0), (0, 1))), rng=rng)
