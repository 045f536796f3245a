"""Tree contributions: what each column adds to a tree ensemble's margin, as SHAP values.

Lundberg, Erion, Lee. "Consistent Individualized Feature Attribution for Tree Ensembles", arXiv 1802.03888 (2018),
section 3; Lundberg et al. "From local explanations to global understanding with explainable AI for trees", Nature
Machine Intelligence 2 (2020).

XGBoost and LightGBM compute them themselves (`pred_contribs`, `pred_contrib`); for scikit-learn's trees the package
shap does. A row's contributions and the bias, which is the same for all rows, add up to its margin (for scikit-learn's
forests, to the probability), so they give the undefended score away whatever is done to the scores. A binary margin
stands for class 1; its contributions to class 0 are the opposite numbers. In a pipeline, the columns are those that
its last step is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Labels, Model
from portcullis_ml.models.explain import Explainer, Explanation
from portcullis_ml.models.sklearn import SklearnModel

__all__ = ["TreeContributions"]

Contributions = Callable[[Any], Array]  # rows -> (n, margins, columns + 1), the bias last
TREES = ("sklearn.ensemble", "sklearn.tree")


@dataclass(frozen=True, kw_only=True)
class TreeContributions(Explainer):
    bias: bool = False  # show the bias too, in a last column, so that a row adds up to its margin

    name: ClassVar[str] = "tree_contributions"

    def __post_init__(self) -> None:
        check(self, "bias", "True or False", lambda v: isinstance(v, bool))

    def prepare(self, model: Model) -> Explanation:
        if not isinstance(model, SklearnModel):
            raise _no_trees(model)
        estimator = model.predictor
        if hasattr(estimator, "get_booster"):
            contributions = _xgboost(estimator)
        elif hasattr(estimator, "booster_"):
            contributions = partial(_lightgbm, estimator)
        elif type(estimator).__module__.startswith(TREES):
            contributions = _shap(estimator)
        else:
            raise _no_trees(estimator)
        return partial(_explained, model, contributions, self.bias)


def _explained(model: SklearnModel, contributions: Contributions, bias: bool, x: Array, classes: Labels) -> Array:
    """x (n, *input_shape), classes (n,) -> (n, columns), or (n, columns + 1) with the bias."""
    rows = model.prepared(x)
    found = np.asarray(contributions(rows.toarray() if hasattr(rows, "toarray") else rows), np.float64)
    if found.shape[1] == 1 and model.n_classes == 2:
        chosen = found[:, 0] * np.where(classes == 1, 1.0, -1.0)[:, None]
    elif found.shape[1] == model.n_classes:
        chosen = found[np.arange(len(x)), classes]
    else:
        raise InputError(
            f"tree_contributions needs a margin for each of {model.n_classes} classes; the trees give {found.shape[1]}."
        )
    return chosen if bias else chosen[:, :-1]


def _xgboost(estimator: Any) -> Contributions:
    import xgboost  # type: ignore[import-not-found, unused-ignore]  # the victim is one of its models, so it is here

    booster = estimator.get_booster()
    best = booster.attr("best_iteration")  # with early stopping, predictions end there
    trees = (0, 0 if best is None else int(best) + 1)

    def contributions(rows: Any) -> Array:
        matrix = xgboost.DMatrix(rows, missing=estimator.missing, feature_names=booster.feature_names)
        return booster.predict(matrix, pred_contribs=True, strict_shape=True, iteration_range=trees)  # type: ignore[no-any-return]

    return contributions


def _lightgbm(estimator: Any, rows: Any) -> Array:
    """The library gives the margins side by side."""
    margins = 1 if len(estimator.classes_) == 2 else len(estimator.classes_)
    return np.asarray(estimator.predict_proba(rows, pred_contrib=True)).reshape(len(rows), margins, -1)


def _shap(estimator: Any) -> Contributions:
    kind = type(estimator).__name__
    try:
        import shap  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        raise InputError(
            f"tree_contributions of a {kind} needs the package shap, which is not installed. Install it: "
            "pip install shap."
        ) from error
    try:
        explainer = shap.TreeExplainer(estimator)
    except Exception as error:  # the library has its own error for a model that it does not take
        raise InputError(f"tree_contributions needs trees that shap takes; a {kind} is none of them.") from error

    def contributions(rows: Any) -> Array:
        values = explainer.shap_values(rows, check_additivity=False)
        values = np.stack(values, axis=-1) if isinstance(values, list) else values  # a list of classes until shap 0.44
        values = np.moveaxis(values, 2, 1) if values.ndim == 3 else values[:, None]
        bias = np.broadcast_to(np.reshape(explainer.expected_value, (1, -1, 1)), (*values.shape[:2], 1))
        return np.concatenate([values, bias], axis=2)

    return contributions


def _no_trees(found: Any) -> InputError:
    return InputError(
        f"tree_contributions explains trees of XGBoost, LightGBM or scikit-learn; this victim is a "
        f"{type(found).__name__}. Choose another: portcullis list explainers."
    )
