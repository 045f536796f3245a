"""Models from Python objects: estimators, torch modules, functions, and functions that make one of these."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from portcullis_ml.catalog import absent
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Feature, Model
from portcullis_ml.models.function import FunctionModel
from portcullis_ml.models.outputs import one_output, reading_of

__all__ = ["Shape", "from_estimator", "from_module", "from_object", "made", "required"]

PROBED = 16  # random rows that show whether a module gives logits or probabilities

Shape = tuple[int, ...] | None


def from_object(
    spec: str,
    found: Any,
    input_shape: Shape,
    n_classes: int | None,
    features: Sequence[Feature] | None = None,
    output: str | None = None,
) -> Model:
    """Adapt a Python object. A callable is a model when its shape is given, else a factory to be called once."""
    if not isinstance(found, type):
        if all(hasattr(found, name) for name in ("scores", "input_shape", "n_classes")):
            return found  # type: ignore[no-any-return]
        if hasattr(found, "predict") and (hasattr(found, "n_features_in_") or input_shape):
            return from_estimator(found, input_shape, n_classes, features)
        if hasattr(found, "state_dict") and hasattr(found, "forward"):
            if input_shape is None:
                raise InputError(f"{spec} is a torch module and does not say its shape; give input_shape.")
            return from_module(spec, found, input_shape, n_classes, output)
    if callable(found) and input_shape is not None and required(found):
        columns = _columns(spec, found, input_shape, output) if n_classes is None else n_classes
        return FunctionModel(found, input_shape, columns, output=output)
    if callable(found) and not required(found):
        return from_object(f"{spec}()", made(spec, found), input_shape, n_classes, features, output)
    raise InputError(
        f"{spec} was expected to be a Model, a fitted scikit-learn estimator, a torch module or a callable; it is a "
        f"{type(found).__name__}. For a callable give input_shape."
    )


def from_estimator(
    estimator: Any, input_shape: Shape, n_classes: int | None, features: Sequence[Feature] | None
) -> Model:
    """A scikit-learn estimator over arrays, or over the columns of a table."""
    from portcullis_ml.models.sklearn import SklearnModel
    from portcullis_ml.models.table import TableModel

    if features is not None:
        return TableModel(estimator, features)
    return SklearnModel(estimator, input_shape=input_shape, n_classes=n_classes)


def from_module(
    spec: str, module: Any, shape: tuple[int, ...], n_classes: int | None, output: str | None, **known: Any
) -> Model:
    """A torch module, its answers read as what they are: logits, or probabilities."""
    from portcullis_ml.models.torch import TorchModel

    ask = _of_arrays(module, n_classes, output)
    classes = n_classes or _columns(spec, ask, shape)
    rows = np.random.default_rng(0).uniform(size=(PROBED, *shape))
    return TorchModel(module, shape, classes, reading=reading_of(ask(rows)), output=output, **known)


def made(spec: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except ModuleNotFoundError as error:
        raise absent(spec, error) from error


def required(function: Any) -> int:
    """How many arguments must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _columns(spec: str, ask: Callable[[Array], Any], input_shape: tuple[int, ...], output: str | None = None) -> int:
    """How many scores a row gets, seen by asking about a row of zeros; 0 for a single number (regression)."""
    try:
        found = np.asarray(one_output(ask(np.zeros((1, *input_shape))), 1, None, output), np.float64)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{spec} was expected to answer a row of {input_shape}; it raised {type(error).__name__}: {error}. "
            "Let it take an array with one row for each question."
        ) from error
    if found.ndim not in (1, 2) or len(found) != 1:
        raise InputError(
            f"{spec} was expected to give one row of scores for one row asked; it gave an array of {found.shape}."
        )
    return found.shape[1] if found.ndim == 2 and found.shape[1] > 1 else 0


def _of_arrays(module: Any, n_classes: int | None, output: str | None) -> Callable[[Array], Any]:
    """A torch module as a function of arrays, asked in eval mode without gradients."""
    import torch

    def ask(x: Array) -> Any:
        with torch.inference_mode():
            out = module.eval()(torch.tensor(x, dtype=torch.float32))
            return one_output(out, len(x), n_classes, output).numpy()

    return ask
