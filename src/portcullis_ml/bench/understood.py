"""What was understood of a victim and its rows, before the first query: each point with the option that changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portcullis_ml.bench.endpoint import is_address
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.targets import closeness
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Interface
from portcullis_ml.data.pictures import layout_of
from portcullis_ml.models.keras_files import is_saved_model
from portcullis_ml.models.outputs import output_names
from portcullis_ml.models.texts import TextInterface

__all__ = ["Point", "understood"]

JUDGED = 1000  # test rows that are asked for the accuracy
NAMED = 12  # classes that are named

KINDS = {
    ".onnx": "an ONNX graph",
    ".skops": "a scikit-learn estimator from a skops file",
    ".safetensors": "a network that Portcullis saved",
    ".npz": "a softmax regression that Portcullis saved",
    ".json": "an XGBoost model",
    ".ubj": "an XGBoost model",
    ".txt": "a LightGBM model",
    ".model": "a LightGBM model",
    ".cbm": "a CatBoost model",
    ".keras": "a Keras model",
    ".pt": "TorchScript",
    ".pth": "TorchScript",
    ".ts": "TorchScript",
    ".pt2": "a program of torch.export",
}


class Point(NamedTuple):
    """One thing that was understood: what it is about, what was taken, and what changes it ("" where nothing does)."""

    about: str
    taken: str
    change: str


def understood(spec: ExperimentSpec, experiment: Experiment) -> list[Point]:
    """The points of this victim and these rows, in the order in which they are decided."""
    interface, model = experiment.interface, experiment.model
    brought = spec.victim is not None
    rows = (
        "--text"
        if interface.text
        else "--schema"
        if brought and interface.features is not None
        else "--test"
        if spec.test
        else "--data"
    )
    points = {
        "victim": (f"{experiment.names['victim']['name']}: {_kind(spec, model)}", "--victim"),
        "inputs": (_inputs(interface), rows),
        "values": (_values(interface, model), rows),
        "classes": (_classes(experiment), _of_classes(experiment) if brought else ""),
        "answers": (_answers(model, interface), _of_answers(spec, model)),
        "test rows": (_judged(experiment), "--test" if brought else "--data"),
        "pool": (_held(experiment), "--pool" if brought else "--data"),
        "training rows": (_trained(experiment), "--train" if brought else "--data"),
    }
    return [Point(about, taken, change) for about, (taken, change) in points.items()]


def _of_classes(experiment: Experiment) -> str:
    return "--regression, where it cannot be told" if experiment.numbers else "--classes"


def _of_answers(spec: ExperimentSpec, model: Any) -> str:
    """The options that change how answers are read; estimators and what Portcullis saved say it themselves."""
    if spec.victim is None:
        return ""
    known = spec.endpoint is not None or hasattr(_inner(model), "estimator") or getattr(model, "network", None)
    return "--output-name" if known else "--output-name, --softmax"


def _kind(spec: ExperimentSpec, model: Any) -> str:
    if spec.victim is None:
        return "trained here, since no --victim was given"
    if is_address(spec.victim):
        return "the API at that address"
    file, _, factory = spec.victim.partition("@")
    if Path(file).is_dir():
        return "a SavedModel of TensorFlow" if is_saved_model(file) else "a model that `portcullis prepare` wrote"
    suffix = Path(file).suffix.lower()
    if suffix == ".safetensors" and factory:
        return f"weights of {factory}"
    if suffix in KINDS:
        return KINDS[suffix]
    inner = _inner(model)
    held = next((v for k in ("estimator", "module", "function") if (v := getattr(inner, k, None)) is not None), inner)
    return f"a Python object ({type(held).__name__})"


def _inner(model: Any) -> Any:
    """The model below those that only scale or explain."""
    while hasattr(model, "model"):
        model = model.model
    return model


def _inputs(interface: Interface) -> str:
    if interface.text:
        return "texts"
    shape, features = interface.input_shape, interface.features
    if features is not None:
        words = sum(f.categorical for f in features)
        columns = f"a table of {len(features)} columns"
        return columns + (f", {words} of words and {len(features) - words} of numbers" if words else ", all numbers")
    if len(shape) == 1:
        return f"rows of {shape[0]} numbers"
    try:
        height, width, channels, first = layout_of(shape)
    except InputError:
        return f"arrays of {' x '.join(map(str, shape))}"
    where = "" if len(shape) == 2 else f", channels {'first' if first else 'last'}"
    return f"pictures of {height} x {width}, {'gray' if channels == 1 else f'{channels} colours'}{where}"


def _values(interface: Interface, model: Any) -> str:
    low, high = interface.bounds
    if isinstance(interface, TextInterface):
        return f"{len(interface.texts):,} different texts; a random one is made of the pool's words"
    said = "each column's own range" if interface.features is not None else f"{low:g} to {high:g}"
    factor = getattr(model, "factor", None)
    if factor is not None:
        said += f"; the victim gets them times {factor:g}"
    inner = _inner(model)
    dtype = getattr(getattr(inner, "_input", None), "type", "") or getattr(inner, "dtype", "")
    return said + (f"; sent as {dtype}" if dtype else "")


def _classes(experiment: Experiment) -> str:
    n, words = experiment.interface.n_classes, experiment.classes
    if experiment.numbers:
        return "none: it answers numbers (a regression)"
    if not words:
        return f"{n}, by their numbers: 0 to {n - 1}"
    return f"{n}, in this order: {', '.join(map(str, words[:NAMED]))}{', ...' if n > NAMED else ''}"


def _answers(model: Any, interface: Interface) -> str:
    inner = _inner(model)
    if said := getattr(model, "said", ""):
        return str(said)
    if not interface.n_classes:
        return f"one number a row; {interface.precision}"
    reading = getattr(inner, "reading", "")
    said = "logits, made probabilities by a softmax" if reading == "logits" else "probabilities"
    names = output_names(inner)
    output = getattr(inner, "output", None)
    if output is not None:
        said += f", read from {output}" + (f" (of {', '.join(names)})" if len(names) > 1 else "")
    return f"{said}; {interface.precision}"


def _judged(experiment: Experiment) -> str:
    x, y = experiment.test_x, experiment.test_y
    if y is None:
        return f"{len(x):,}, without labels"
    if experiment.numbers:
        r2, off = closeness(y[:JUDGED], experiment.model.scores(x[:JUDGED])[:, 0])
        return f"{len(x):,}; the victim explains {r2:.1%} of the variance of their targets, off by {off:.4g} on average"
    right = experiment.model.scores(x[:JUDGED]).argmax(axis=1) == y[:JUDGED]
    seen = "" if len(x) <= JUDGED else f" of the first {JUDGED:,}"
    rarest = np.bincount(y, minlength=experiment.interface.n_classes).min()
    return f"{len(x):,}; {right.mean():.1%}{seen} answered as labelled; the rarest class has {rarest:,}"


def _held(experiment: Experiment) -> str:
    if experiment.pool is None:
        return "none: attacks that need inputs of the thief's own are left out"
    kind = "targets" if experiment.numbers else "labels of the victim's classes"
    labels = f"with {kind}" if experiment.pool_labels is not None else f"without {kind.partition(' ')[0]}"
    return f"{len(experiment.pool):,} rows, {labels}"


def _trained(experiment: Experiment) -> str:
    if experiment.train is None:
        return "not given: what a defense trains, it trains on other rows, and nobody checks the pool against them"
    return f"{len(experiment.train):,} rows; {experiment.overlap or 0:,} of the pool are among them"
