"""Boosted trees of LightGBM and XGBoost, for whoever has them installed; Portcullis needs neither.

With the settings of scikit-learn's histogram boosting in `families.py`, in one thread. `installed` says which is there;
the package is imported when a model is made.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Labels

__all__ = ["PACKAGES", "installed", "lightgbm", "needed", "xgboost"]

PACKAGES = ("lightgbm", "xgboost")  # families that are called like their package, the one to take first


def installed() -> tuple[str, ...]:
    """Of `PACKAGES`, those that can be imported here."""
    return tuple(name for name in PACKAGES if importlib.util.find_spec(name))


def needed(families: tuple[str, ...]) -> None:
    """Raise InputError where one of these families is of a package that is not installed."""
    for name in families:
        if name in PACKAGES and name not in installed():
            raise InputError(f"The family {name} needs its package; it is not installed. Try: pip install {name}")


def lightgbm(n: int, seed: int, *, classifier: bool) -> Any:
    """An unfitted LightGBM estimator for n rows."""
    import lightgbm as package

    kind = package.LGBMClassifier if classifier else package.LGBMRegressor
    return _Plain(kind(num_leaves=8, min_child_samples=_leaf(n), verbose=-1, **_settings(seed, classifier)))


def xgboost(n: int, seed: int, *, classifier: bool) -> Any:
    """An unfitted XGBoost estimator for n rows."""
    import xgboost as package

    kind = package.XGBClassifier if classifier else package.XGBRegressor
    shape = {"tree_method": "hist", "grow_policy": "lossguide", "max_leaves": 8, "max_depth": 0}
    return _Plain(kind(min_child_weight=_leaf(n) if not classifier else 1, **shape, **_settings(seed, classifier)))


def _settings(seed: int, classifier: bool) -> dict[str, Any]:
    trees = 150 if classifier else 300
    return {"n_estimators": trees, "learning_rate": 0.08, "max_bin": 128, "n_jobs": 1, "random_state": seed}


def _leaf(n: int) -> int:
    """Rows that a leaf holds at least."""
    return 5 if n >= 200 else 2


class _Plain:
    """The estimator behind numbers 0 to k - 1 for the k classes that were seen, which is all that XGBoost takes."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        if hasattr(estimator, "predict_proba"):
            self.predict_proba = self._probabilities

    def fit(self, x: Array, y: Array | Labels) -> _Plain:
        if hasattr(self._estimator, "predict_proba"):
            self.classes_, y = np.unique(y, return_inverse=True)
        self._estimator.fit(x, y)
        return self

    def predict(self, x: Array) -> Array:
        """(n,) values of a regression."""
        return np.asarray(self._estimator.predict(x), np.float64)

    def _probabilities(self, x: Array) -> Array:
        return np.asarray(self._estimator.predict_proba(x), np.float64)
