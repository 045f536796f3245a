"""Forests and boosted trees as victims, and how many thresholds they have: no attack can ask fewer questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.models.sklearn import SklearnModel

__all__ = ["boosting", "distinct_thresholds", "forest", "histogram"]

Spec = Mapping[str, Any]


def forest(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestRegressor if interface.task == "regression" else RandomForestClassifier
    return _fitted(kind(spec.get("trees", 50), **_settings(spec, rng)), x, y, interface)


def boosting(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    kind = GradientBoostingRegressor if interface.task == "regression" else GradientBoostingClassifier
    return _fitted(kind(n_estimators=spec.get("trees", 50), **_settings(spec, rng)), x, y, interface)


def histogram(x: Array, y: Any, interface: Interface, spec: Spec, rng: np.random.Generator) -> Model:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if interface.task == "regression" else HistGradientBoostingClassifier
    return _fitted(kind(max_iter=spec.get("trees", 50), **_settings(spec, rng)), x, y, interface)


def _settings(spec: Spec, rng: np.random.Generator) -> dict[str, Any]:
    return {"max_depth": spec.get("max_depth", 4), "random_state": int(rng.integers(2**31))}


def _fitted(estimator: Any, x: Array, y: Any, interface: Interface) -> Model:
    return SklearnModel(estimator.fit(x, y), n_classes=interface.n_classes)


def distinct_thresholds(model: Model) -> int | None:
    """Different (input, threshold) pairs of all trees, every one of which must be met; None without trees."""
    estimator: Any = getattr(model, "estimator", None)
    if hasattr(estimator, "estimators_"):
        trees = [tree.tree_ for tree in np.ravel(estimator.estimators_) if hasattr(tree, "tree_")]
        pairs = [(t.feature[t.feature >= 0], t.threshold[t.feature >= 0]) for t in trees]
    elif hasattr(estimator, "_predictors"):
        nodes = [p.nodes[p.nodes["is_leaf"] == 0] for p in np.ravel(estimator._predictors)]
        pairs = [(n["feature_idx"], n["num_threshold"]) for n in nodes]
    else:
        return None
    return len(np.unique(np.concatenate([np.column_stack(p) for p in pairs]), axis=0)) if pairs else None
