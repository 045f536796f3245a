"""Keras 3 models in .keras files, and TensorFlow's SavedModel folders, read by their own libraries.

A .keras file is read in Keras' safe mode, which runs no code of the file; a release in which that mode could be got
round is refused. A SavedModel is a program: one whose graph names operators that run Python or touch files is refused.
Either is taken from whom you trust.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array
from portcullis_ml.models.whole import whole_numbers

__all__ = ["ask_keras", "is_keras", "is_saved_model", "read_keras", "read_saved_model"]

SAFE_SINCE = (3, 11, 3)  # of Keras: CVE-2025-1550, CVE-2025-8747 and CVE-2025-9906 get round earlier safe modes
BATCH = 512
DANGEROUS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles", "LoadLibrary"}
SIGNATURE = "serving_default"

Ask = Callable[[Array], Any]


def is_keras(found: Any) -> bool:
    """Whether an object is a Keras model, of whatever backend."""
    return any(kind.__module__.startswith("keras.") and kind.__name__ == "Model" for kind in type(found).__mro__)


def read_keras(path: Path) -> Ask:
    """The model in a .keras file, as `ask_keras`. InputError where it runs code, or cannot be read."""
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} was expected to be a .keras archive; it is none. Write it with "
            "model.save('model.keras') in Keras 3."
        )
    keras = _keras(path)
    try:
        return ask_keras(keras.saving.load_model(path, compile=False, safe_mode=True), str(path))
    except InputError:
        raise
    except Exception as error:  # layers of somebody's own, lambdas and other versions fail in many ways
        told = "holds code (a lambda)" if "safe_mode" in str(error) or "ambda" in str(error) else "cannot be read"
        raise InputError(
            f"{path} was expected to be made of Keras' own layers; it {told} ({type(error).__name__} in the safe mode "
            f"of Keras {keras.__version__}). Load it yourself, if you trust it, and name the model as module:object."
        ) from error


def _keras(path: Path) -> Any:
    """The module keras, on PyTorch where TensorFlow is not installed and nobody chose."""
    if importlib.util.find_spec("keras") is None:
        raise InputError(
            f"{path} is read by keras, which is not installed. Install it: pip install keras (it runs on PyTorch). "
            "Or export the model: model.export('model.onnx', format='onnx')."
        )
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    numbers = tuple(int(part) for part in keras.__version__.split(".")[:3] if part.isdecimal())
    if numbers < SAFE_SINCE:
        raise InputError(
            f"{path} is not read by Keras {keras.__version__}, whose safe mode can be got round. Install 3.11.3 or "
            "newer: pip install -U keras."
        )
    return keras


def ask_keras(model: Any, name: str) -> Ask:
    """A Keras model as a function of arrays (n, *input_shape): one array of answers, or a mapping of several."""
    inputs = model.inputs or []
    if len(inputs) > 1:
        raise InputError(f"{name} takes {len(inputs)} inputs; one array of rows was expected. Name a function instead.")
    dtype = str(inputs[0].dtype) if inputs else "float32"
    whole = not dtype.startswith(("float", "bfloat"))

    def ask(x: Array) -> Any:
        rows = whole_numbers(x, dtype) if whole else np.asarray(x, np.float32)
        return _together([model.predict_on_batch(rows[i : i + BATCH]) for i in range(0, max(len(rows), 1), BATCH)])

    return ask


def is_saved_model(folder: str | Path) -> bool:
    return (Path(folder) / "saved_model.pb").is_file()


def read_saved_model(folder: Path) -> Ask:
    """The serving signature of a SavedModel as a function of arrays. InputError."""
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"{folder} is a SavedModel, which only tensorflow reads, and that is not installed. Install it: pip "
            "install tensorflow-cpu. Or convert it: python -m tf2onnx.convert --saved-model FOLDER --output model.onnx."
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    try:
        if found := sorted(DANGEROUS & set(_operators(folder))):
            raise InputError(
                f"{folder} runs Python or touches files ({', '.join(found)}), and is not run. Load it yourself, if you "
                "trust it, and name a function as module:object."
            )
        loaded = tf.saved_model.load(str(folder))
    except InputError:
        raise
    except Exception as error:  # TensorFlow's errors share no class but Exception
        raise InputError(
            f"{folder} was expected to be a SavedModel; TensorFlow {tf.__version__} cannot read it "
            f"({type(error).__name__}). It may be cut short: write it again with model.export(folder)."
        ) from error
    return _ask_signature(loaded, folder, tf)


def _ask_signature(loaded: Any, folder: Path, tf: Any) -> Ask:
    """The function that a server of this SavedModel would call."""
    names = list(loaded.signatures)
    if SIGNATURE not in names and len(names) != 1:
        raise InputError(
            f"{folder} was expected to have a signature {SIGNATURE}; it has {', '.join(names) or 'none'}. Write it "
            "with model.export(folder), or name a function as module:object."
        )
    asked = SIGNATURE if SIGNATURE in names else names[0]
    given = loaded.signatures[asked].structured_input_signature[1]
    if len(given) != 1:
        raise InputError(
            f"{folder} takes {len(given)} inputs; one array of rows was expected. Name a function as module:object."
        )
    ((name, spec),) = given.items()

    def ask(x: Array) -> Any:
        dtype = spec.dtype.as_numpy_dtype
        rows = x.astype(dtype) if spec.dtype.is_floating else whole_numbers(x, dtype)
        answer = loaded.signatures[asked]  # which needs `loaded` to stay alive
        parts = [answer(**{name: tf.constant(rows[i : i + BATCH])}) for i in range(0, max(len(rows), 1), BATCH)]
        found = _together([{k: v.numpy() for k, v in part.items()} for part in parts])
        return next(iter(found.values())) if len(found) == 1 else found

    return ask


def _operators(folder: Path) -> Iterator[str]:
    """The operators of a SavedModel's graph and of its functions."""
    from tensorflow.core.protobuf import saved_model_pb2

    held = saved_model_pb2.SavedModel()
    held.ParseFromString((folder / "saved_model.pb").read_bytes())
    for meta in held.meta_graphs:
        yield from (node.op for node in meta.graph_def.node)
        yield from (node.op for function in meta.graph_def.library.function for node in function.node_def)


def _together(parts: list[Any]) -> Any:
    """The answers of all batches: one array, or a mapping or a tuple of arrays."""
    if isinstance(parts[0], dict):
        return {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}
    if isinstance(parts[0], list | tuple):
        return tuple(np.concatenate([np.asarray(p) for p in column]) for column in zip(*parts, strict=True))
    return np.concatenate([np.asarray(part) for part in parts])
