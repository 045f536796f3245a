"""Models from Python objects: estimators, torch modules, functions, and functions that make one of these."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from portcullis_ml.catalog import absent
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Feature, Model
from portcullis_ml.models.function import FunctionModel
from portcullis_ml.models.keras_files import ask_keras, is_keras
from portcullis_ml.models.module_values import ModuleValues
from portcullis_ml.models.outputs import Reading, one_output, reading_of

__all__ = ["Shape", "from_estimator", "from_function", "from_module", "from_object", "made", "required"]

PROBED = 16  # random rows that show whether a module gives logits or probabilities

Shape = tuple[int, ...] | None


def from_object(
    spec: str,
    found: Any,
    input_shape: Shape,
    n_classes: int | None,
    features: Sequence[Feature] | None = None,
    output: str | None = None,
    softmax: bool = False,
) -> Model:
    """Adapt a Python object. A callable is a model when its shape is given, else a factory to be called once."""
    if not isinstance(found, type):
        if all(hasattr(found, name) for name in ("scores", "input_shape", "n_classes")):
            return found  # type: ignore[no-any-return]
        if is_keras(found) and input_shape is not None:
            ask = ask_keras(found, spec)
            return from_function(spec, ask, input_shape, n_classes, output, softmax=softmax, guess=True, kind="model")
        if hasattr(found, "predict") and (hasattr(found, "n_features_in_") or input_shape):
            return from_estimator(found, input_shape, n_classes, features)
        if hasattr(found, "state_dict") and hasattr(found, "forward"):
            if input_shape is None:
                raise InputError(
                    f"{spec} is a torch module and does not say its shape; give input_shape, or test rows."
                )
            return from_module(spec, found, input_shape, n_classes, output, softmax=softmax)
    if callable(found) and input_shape is not None and required(found):
        return from_function(spec, found, input_shape, n_classes, output, softmax=softmax)
    if callable(found) and not required(found):
        return from_object(f"{spec}()", made(spec, found), input_shape, n_classes, features, output, softmax)
    raise InputError(
        f"{spec} was expected to be a Model, a fitted scikit-learn estimator, a torch module or a callable; it is a "
        f"{type(found).__name__}. For a callable give input_shape, or test rows."
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


def from_function(
    spec: str,
    ask: Callable[[Array], Any],
    shape: tuple[int, ...],
    n_classes: int | None,
    output: str | None,
    *,
    softmax: bool,
    guess: bool = False,
    kind: str = "function",
) -> FunctionModel:
    """A function as a model. It gives probabilities, or logits where `softmax` says so, or where its answers to random
    rows show it and they may (`guess`)."""
    classes = _classes(spec, ask, shape, n_classes, output)
    reading: Reading = "probabilities"
    if classes and (softmax or guess):
        rows = np.random.default_rng(0).uniform(size=(PROBED, *shape))
        reading = reading_of(_asked(spec, ask, rows, classes, output), softmax=softmax)
    return FunctionModel(ask, shape, classes, output=output, reading=reading, kind=kind)


def from_module(
    spec: str,
    module: Any,
    shape: tuple[int, ...],
    n_classes: int | None,
    output: str | None,
    *,
    softmax: bool = False,
    **known: Any,
) -> Model:
    """A torch module, its answers read as what they are: logits, or probabilities."""
    from portcullis_ml.models.torch_model import TorchModel, evaluated, input_type

    dtype = input_type(evaluated(module), shape)
    ask = _of_arrays(module, dtype)
    classes = _classes(spec, ask, shape, n_classes, output)
    if not classes:
        return ModuleValues(module, ask, shape, output=output)
    rows = np.random.default_rng(0).uniform(size=(PROBED, *shape))
    reading = reading_of(_asked(spec, ask, rows, classes, output), softmax=softmax)
    return TorchModel(module, shape, classes, reading=reading, output=output, dtype=dtype, **known)


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


def _classes(
    spec: str, ask: Callable[[Array], Any], shape: tuple[int, ...], n_classes: int | None, output: str | None
) -> int:
    """How many classes a model knows. Two labels in a table say two where there is one column, and not more."""
    if n_classes is None:
        return _columns(spec, ask, shape, output)
    if n_classes == 2:
        try:
            found = np.asarray(ask(np.zeros((1, *shape))))
        except Exception:  # several outputs, or an error that the next question meets again and says
            return 2
        if found.dtype.kind == "f" and found.ndim == 2:
            return max(int(found.shape[1]), 2)
    return n_classes


def _columns(spec: str, ask: Callable[[Array], Any], input_shape: tuple[int, ...], output: str | None = None) -> int:
    """How many scores a row gets, seen by asking about a row of zeros; 0 for a single number (regression)."""
    found = _asked(spec, ask, np.zeros((1, *input_shape)), None, output)
    if found.ndim not in (1, 2) or len(found) != 1:
        raise InputError(
            f"{spec} was expected to give one row of scores for one row asked; it gave an array of {found.shape}."
        )
    return found.shape[1] if found.ndim == 2 and found.shape[1] > 1 else 0


def _asked(spec: str, ask: Callable[[Array], Any], rows: Array, n_classes: int | None, output: str | None) -> Array:
    """The scores of these rows; what the model raises becomes a sentence."""
    try:
        return np.asarray(one_output(ask(rows), len(rows), n_classes or None, output), np.float64)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{spec} was expected to answer a row of {rows.shape[1:]}; it raised {type(error).__name__}: "
            f"{_last_line(error)}. Let it take an array with one row for each question."
        ) from error


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:200].rstrip(".") if lines else "nothing more is known"


def _of_arrays(module: Any, dtype: Any) -> Callable[[Array], Any]:
    """A torch module as a function of arrays, asked without gradients."""
    import torch

    from portcullis_ml.models.torch_model import as_tensor

    def ask(x: Array) -> Any:
        with torch.inference_mode():
            return _numpy(module(as_tensor(x, dtype)))

    return ask


def _numpy(out: Any) -> Any:
    """One tensor, or several, as arrays; floats of 16 bits in 64, which NumPy can hold."""
    if isinstance(out, Mapping):
        return {name: _numpy(value) for name, value in out.items()}
    if isinstance(out, tuple | list):
        return tuple(map(_numpy, out))
    if not hasattr(out, "is_floating_point"):
        return out
    return (out.double() if out.is_floating_point() else out).numpy()
