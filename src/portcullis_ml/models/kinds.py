"""Kinds of models that an audit treats differently."""

from __future__ import annotations

from pathlib import Path

from portcullis_ml.core.types import Model
from portcullis_ml.models.sklearn import SklearnModel

__all__ = ["are_trees", "is_tree"]

SUMS = ("RandomForest", "ExtraTrees", "GradientBoosting", "HistGradientBoosting")  # how scikit-learn's classes begin
OPERATOR = b"TreeEnsemble"  # how the operators of ONNX begin that sum trees


def are_trees(model: Model, source: str | None = None) -> bool:
    """Whether a model is a sum of trees: a forest or boosted trees.

    Of scikit-learn, XGBoost or LightGBM, also as the last step of a pipeline, or the ONNX file at `source` with an
    operator for them.
    """
    if isinstance(model, SklearnModel):
        predictor = model.predictor
        boosted = hasattr(predictor, "get_booster") or hasattr(predictor, "booster_")
        return boosted or type(predictor).__name__.startswith(SUMS)
    if source is None or not source.endswith(".onnx") or not Path(source).is_file():
        return False
    return OPERATOR in Path(source).read_bytes()


def is_tree(model: Model) -> bool:
    """Whether a model is a single decision tree of scikit-learn, also as the last step of a pipeline."""
    return isinstance(model, SklearnModel) and type(model.predictor).__name__.startswith(("DecisionTree", "ExtraTreeR"))
