"""Models from files and from Python, and surrogates to files.

    FILE.onnx                               ONNX Runtime
    FILE.skops                              a scikit-learn estimator
    FILE.safetensors                        a surrogate that `save_model` wrote
    FILE.safetensors@module:factory         weights of your own module; also @NAME for a network of ours
    FILE.pt, FILE.pt2                       TorchScript, and what torch.export wrote
    FILE.json, .ubj, .txt, .model, .cbm     boosted trees of XGBoost, LightGBM and CatBoost
    FILE.keras                              a Keras 3 model, in safe mode
    FILE.npz                                a softmax regression, or a network of one hidden layer that
                                            `functional_equivalence` rebuilt, that `save_model` wrote
    FOLDER                                  a model of `portcullis prepare` (also FOLDER@sha256:HEX), or a SavedModel
    module:object                           a Model, a scikit-learn estimator, a torch module, a callable

A pickle runs code when it is read, so pickles (and joblib files, and whole objects written by torch.save) are refused
whatever they are called. A file is no larger than `limit` bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portcullis_ml.catalog import resolve
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.types import Feature, Model
from portcullis_ml.models.booster_files import BOOSTERS, read_booster
from portcullis_ml.models.files import INSTEAD, LIMIT, PICKLED, inspect_file
from portcullis_ml.models.keras_files import is_saved_model, read_keras, read_saved_model
from portcullis_ml.models.npz import load_npz
from portcullis_ml.models.objects import Shape, from_estimator, from_function, from_module, from_object, made, required
from portcullis_ml.models.relu import ReluNetwork
from portcullis_ml.models.skops_files import read_skops, skops_io
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.torch_files import PROGRAMS, is_program, read_program
from portcullis_ml.models.weight_files import from_safetensors

__all__ = ["load_model", "model_folder", "peek", "save_model"]

IN_FOLDER = ("model.safetensors", "model.skops", "model.npz", "model.onnx")  # the first that can be read here is taken


def load_model(
    spec: str,
    *,
    input_shape: Shape = None,
    n_classes: int | None = None,
    features: Sequence[Feature] | None = None,
    softmax: bool = False,
    output: str | None = None,
    found: Any = None,
    limit: int = LIMIT,
) -> Model:
    """The model that `spec` names (see the head of this file). `softmax` says that it gives logits, `output`
    which of several outputs to read; `found` is what `peek` gave, where it was asked.

    `features` are the columns of a table: a scikit-learn pipeline, or an export of one, then takes rows of them, and
    says in its own `features` which, in which order and with which categories.
    """
    if (folder := model_folder(spec)) is not None:
        given = {"input_shape": input_shape, "n_classes": n_classes, "softmax": softmax, "output": output}
        return _from_folder(folder, features=features, limit=limit, **given)
    path, _, factory = spec.partition("@")
    suffix = Path(path).suffix.lower()
    if is_program(Path(path)):
        module = read_program(Path(path), limit)
        return from_module(path, module, _known(input_shape, path), n_classes, output, softmax=softmax)
    if suffix == ".keras":
        inspect_file(Path(path), limit)
        return _of_keras(path, read_keras(Path(path)), _known(input_shape, path), n_classes, output, softmax)
    if suffix in (".h5", ".hdf5"):
        raise InputError(
            f"{path} is of Keras' former format, whose reader runs code that the file holds, and is not read. Load it "
            "yourself, and write it with model.save('model.keras')."
        )
    if suffix in PICKLED:
        raise InputError(f"{path} is a pickle or may hide one, and is not read. {INSTEAD}")
    if suffix in (".onnx", ".skops", ".safetensors", ".npz", *BOOSTERS):
        inspect_file(Path(path), limit)
    if suffix == ".onnx":
        from portcullis_ml.models.onnx import OnnxModel, takes_columns

        if features is not None and takes_columns(path):
            from portcullis_ml.models.table import TableOnnx

            return TableOnnx(path, features, softmax=softmax, output=output)
        return OnnxModel(path, input_shape=input_shape, n_classes=n_classes, softmax=softmax, output=output)
    if suffix in BOOSTERS:
        booster = read_booster(Path(path)) if found is None else found
        return from_estimator(booster.answering(softmax=softmax), input_shape, n_classes, features)
    if suffix == ".skops":
        return _of_skops(found or read_skops(Path(path)), input_shape, n_classes, features)
    if suffix == ".safetensors":
        return from_safetensors(Path(path), factory, input_shape, n_classes, output, softmax)
    if suffix == ".npz":
        return load_npz(Path(path))
    if ":" in spec:
        held = resolve(spec) if found is None else found
        return from_object(spec, held, input_shape, n_classes, features, output, softmax)
    raise InputError(
        f"{spec!r} was expected to be FILE.onnx, FILE.skops, FILE.safetensors@module:factory, FILE.pt, FILE.pt2, "
        "FILE.keras, a booster's FILE.json, .ubj, .txt or .cbm, a folder that `portcullis prepare` wrote, or "
        "module:object. "
        "Rename the file to what it is, or name a Python object."
    )


def peek(spec: str) -> Any:
    """The estimator in a file of scikit-learn or of boosted trees, or the object that module:object names (of a
    factory, what it makes); None for any other model. It may be needed to know how rows are to be read for it."""
    if model_folder(spec) is not None:
        return None
    path = spec.partition("@")[0]
    suffix = Path(path).suffix.lower()
    if suffix == ".skops":
        inspect_file(Path(path))
        return read_skops(Path(path))
    if suffix in BOOSTERS:
        inspect_file(Path(path))
        return read_booster(Path(path))
    if ":" not in spec or suffix in (".onnx", ".safetensors", ".npz", ".keras", *PICKLED, *PROGRAMS):
        return None
    found = resolve(spec)
    known = any(hasattr(found, name) for name in ("scores", "predict", "forward"))
    if callable(found) and (isinstance(found, type) or not known) and not required(found):
        return made(spec, found)
    return found


def model_folder(spec: str) -> Artifact | None:
    """The folder that `spec` names ("FOLDER" or "FOLDER@sha256:HEX"), or None. InputError for other content."""
    return Artifact.at(spec) if Path(spec.partition("@sha256:")[0]).is_dir() else None


def _from_folder(folder: Artifact, **known: Any) -> Model:
    """The model in a folder: in its own format, or as ONNX where the library of that format is absent."""
    if is_saved_model(folder.path):
        shape = _known(known["input_shape"], folder.path)
        ask = read_saved_model(Path(folder.path))
        return _of_keras(folder.path, ask, shape, known["n_classes"], known["output"], known["softmax"])
    missing: Exception | None = None
    for name in IN_FOLDER:
        path = Path(folder.path) / name
        if path.is_file():
            try:
                return load_model(str(path), **known)
            except MissingExtra as error:
                missing = missing or error
    raise missing or InputError(
        f"{folder.path} was expected to hold one of {', '.join(IN_FOLDER)}; it holds none. "
        "Write it with `portcullis prepare` and a hardening; TensorFlow's model.export writes a saved_model.pb."
    )


def _known(shape: Shape, path: str) -> tuple[int, ...]:
    """The shape of a row, which must be given: the file does not say it."""
    if shape is None:
        raise InputError(f"{path} does not say the shape of a row; give input_shape, or test rows.")
    return shape


def _of_keras(
    name: str, ask: Any, shape: tuple[int, ...], n_classes: int | None, output: str | None, softmax: bool
) -> Model:
    return from_function(name, ask, shape, n_classes, output, softmax=softmax, guess=True, kind="model")


def save_model(model: Model, path: str | Path) -> Path:
    """Write a surrogate: .safetensors (torch), .npz (softmax regression, network of one hidden layer) or .skops
    (scikit-learn, and what `auto` fitted); the suffix is put right by itself. Returns the path, for `load_model`."""
    from portcullis_ml.models.auto import AutoModel
    from portcullis_ml.models.auto_numbers import NumbersModel

    if isinstance(model, SoftmaxRegression | ReluNetwork):
        return model.save(Path(path).with_suffix(".npz"))
    if hasattr(model, "module") and hasattr(model, "save"):
        return Path(model.save(Path(path).with_suffix(".safetensors")))
    ours = isinstance(model, AutoModel | NumbersModel)
    if ours or hasattr(model, "estimator"):
        path = Path(path).with_suffix(".skops")
        path.write_bytes(skops_io().dumps(model if ours else model.estimator))  # type: ignore[attr-defined]
        return path
    raise InputError(
        f"A torch, scikit-learn or softmax model can be saved; got {type(model).__name__}. Keep it in your own format."
    )


def _of_skops(estimator: Any, input_shape: Shape, n_classes: int | None, features: Sequence[Feature] | None) -> Model:
    from portcullis_ml.models.auto import AutoModel
    from portcullis_ml.models.auto_numbers import NumbersModel

    if isinstance(estimator, AutoModel | NumbersModel):
        return estimator
    return from_estimator(estimator, input_shape, n_classes, features)
