"""Models from files and from Python, and surrogates to files.

    FILE.onnx                               ONNX Runtime
    FILE.skops                              a scikit-learn estimator
    FILE.safetensors                        a surrogate that `save_model` wrote
    FILE.safetensors@module:factory         weights of your own module; also @NAME for a network of ours
    FILE.npz                                a softmax regression, or a network of one hidden layer that
                                            `functional_equivalence` rebuilt, that `save_model` wrote
    FOLDER                                  a model that `portcullis prepare` wrote; also FOLDER@sha256:HEX
    module:object                           a Model, a scikit-learn estimator, a torch module, a callable

A pickle runs code when it is read, so pickles (and joblib files, and whole objects written by torch.save) are refused
whatever they are called. A file is no larger than `limit` bytes.
"""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.catalog import absent, resolve
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.types import Array, Feature, Model
from portcullis_ml.models.function import FunctionModel
from portcullis_ml.models.npz import load_npz
from portcullis_ml.models.outputs import one_output, reading_of
from portcullis_ml.models.relu import ReluNetwork
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.trusted import TRUSTED, inspect_trees

__all__ = ["inspect_file", "load_model", "model_folder", "peek", "save_model"]

LIMIT = 2 * 2**30  # bytes
PICKLED = {".bin", ".ckpt", ".dill", ".joblib", ".p", ".pickle", ".pkl", ".pt", ".pth"}
INSTEAD = (
    "Reading one runs whatever code it holds. Save a scikit-learn model with skops.io.dump(model, 'model.skops'), "
    "torch weights with safetensors.torch.save_file(module.state_dict(), 'model.safetensors'), any model as .onnx; "
    "or name a Python object as module:object."
)

IN_FOLDER = ("model.safetensors", "model.skops", "model.npz", "model.onnx")  # the first that can be read here is taken

PROBED = 16  # random rows that show whether a module gives logits or probabilities

Shape = tuple[int, ...] | None


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
    """The model that `spec` names (see the head of this file). `softmax` says that an ONNX file gives logits, `output`
    which of several outputs to read; `found` is what `peek` gave, where it was asked.

    `features` are the columns of a table: a scikit-learn pipeline, or an export of one, then takes rows of them, and
    says in its own `features` which, in which order and with which categories.
    """
    if (folder := model_folder(spec)) is not None:
        return _from_folder(folder, input_shape=input_shape, n_classes=n_classes, features=features, limit=limit)
    path, _, factory = spec.partition("@")
    suffix = Path(path).suffix.lower()
    if suffix in PICKLED:
        raise InputError(f"{path} is a pickle or may hide one, and is not read. {INSTEAD}")
    if suffix in (".onnx", ".skops", ".safetensors", ".npz"):
        inspect_file(Path(path), limit)
    if suffix == ".onnx":
        from portcullis_ml.models.onnx import OnnxModel, takes_columns

        if features is not None and takes_columns(path):
            from portcullis_ml.models.table import TableOnnx

            return TableOnnx(path, features, softmax=softmax, output=output)
        return OnnxModel(path, input_shape=input_shape, n_classes=n_classes, softmax=softmax, output=output)
    if suffix == ".skops":
        return _of_skops(found or _read_skops(Path(path)), input_shape, n_classes, features)
    if suffix == ".safetensors":
        return _from_safetensors(Path(path), factory, input_shape, n_classes, output)
    if suffix == ".npz":
        return load_npz(Path(path))
    if ":" in spec:
        held = resolve(spec) if found is None else found
        return _from_object(spec, held, input_shape, n_classes, features, output)
    raise InputError(
        f"{spec!r} was expected to be FILE.onnx, FILE.skops, FILE.safetensors@module:factory, a folder that "
        "`portcullis prepare` wrote, or module:object. "
        "Rename the file to what it is, or name a Python object."
    )


def peek(spec: str) -> Any:
    """The estimator in a .skops file, or the object that module:object names (of a factory, what it makes); None for
    any other model. What it says of itself may be needed before rows can be read for it."""
    if model_folder(spec) is not None:
        return None
    path = spec.partition("@")[0]
    suffix = Path(path).suffix.lower()
    if suffix == ".skops":
        inspect_file(Path(path))
        return _read_skops(Path(path))
    if ":" not in spec or suffix in (".onnx", ".safetensors", ".npz", *PICKLED):
        return None
    found = resolve(spec)
    known = any(hasattr(found, name) for name in ("scores", "predict", "forward"))
    if callable(found) and (isinstance(found, type) or not known) and not _required(found):
        return _made(spec, found)
    return found


def model_folder(spec: str) -> Artifact | None:
    """The folder that `spec` names ("FOLDER" or "FOLDER@sha256:HEX"), or None. InputError for other content."""
    return Artifact.at(spec) if Path(spec.partition("@sha256:")[0]).is_dir() else None


def _from_folder(folder: Artifact, **known: Any) -> Model:
    """The model in a folder: in its own format, or as ONNX where the library of that format is absent."""
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
        "Write it with `portcullis prepare` and a hardening."
    )


def save_model(model: Model, path: str | Path) -> Path:
    """Write a surrogate: .safetensors (torch), .npz (softmax regression, network of one hidden layer) or .skops
    (scikit-learn, and what `auto` fitted); the suffix is put right by itself. Returns the path, for `load_model`."""
    from portcullis_ml.models.auto import AutoModel

    if isinstance(model, SoftmaxRegression | ReluNetwork):
        return model.save(Path(path).with_suffix(".npz"))
    if hasattr(model, "module") and hasattr(model, "save"):
        return Path(model.save(Path(path).with_suffix(".safetensors")))
    if isinstance(model, AutoModel) or hasattr(model, "estimator"):
        path = Path(path).with_suffix(".skops")
        path.write_bytes(_skops().dumps(model if isinstance(model, AutoModel) else model.estimator))
        return path
    raise InputError(
        f"A torch, scikit-learn or softmax model can be saved; got {type(model).__name__}. Keep it in your own format."
    )


def inspect_file(path: Path, limit: int = LIMIT) -> None:
    """Refuse what is absent, too large, empty, or a pickle under another name, before anything parses it."""
    if not path.is_file():
        raise InputError(f"There is no file {path}. Check the path; it is taken from the current directory.")
    size = path.stat().st_size
    if size > limit:
        raise InputError(f"{path} has {size:,} bytes; at most {limit:,} are read. Raise the limit if you trust it.")
    if size == 0:
        raise InputError(f"{path} was expected to hold a model; it is empty. Write it again.")
    with path.open("rb") as file:
        head = file.read(8)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and path.suffix.lower() != ".safetensors":
        raise InputError(f"{path} is a pickle under another name, and is not read. {INSTEAD}")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".pkl") for name in archive.namelist()):
                raise InputError(f"{path} holds a pickle (torch.save writes one), and is not read. {INSTEAD}")


def _skops() -> Any:
    try:
        import skops.io
    except ModuleNotFoundError as error:
        raise MissingExtra("A .skops file", "skops") from error
    return skops.io


def _read_skops(path: Path) -> Any:
    """The object in a .skops file, of trusted types only."""
    skops = _skops()
    try:
        unknown = [t for t in skops.get_untrusted_types(file=path) if t not in TRUSTED]
        estimator = None if unknown else skops.load(path, trusted=sorted(TRUSTED))
    except Exception as error:  # a damaged archive fails in many ways
        raise InputError(
            f"{path} was expected to be written by skops; it cannot be read ({type(error).__name__}). "
            "It may be cut short: write it again with skops.io.dump."
        ) from error
    if unknown:
        raise InputError(
            f"{path} needs {', '.join(unknown[:3])}, which skops does not trust. "
            "Load it yourself and name it as module:object."
        )
    inspect_trees(estimator, str(path))
    return estimator


def _of_skops(estimator: Any, input_shape: Shape, n_classes: int | None, features: Sequence[Feature] | None) -> Model:
    from portcullis_ml.models.auto import AutoModel

    if isinstance(estimator, AutoModel):
        return estimator
    return _estimator(estimator, input_shape, n_classes, features)


def _estimator(estimator: Any, input_shape: Shape, n_classes: int | None, features: Sequence[Feature] | None) -> Model:
    """A scikit-learn estimator over arrays, or over the columns of a table."""
    from portcullis_ml.models.sklearn import SklearnModel
    from portcullis_ml.models.table import TableModel

    if features is not None:
        return TableModel(estimator, features)
    return SklearnModel(estimator, input_shape=input_shape, n_classes=n_classes)


def _from_safetensors(
    path: Path, factory: str, input_shape: Shape, n_classes: int | None, output: str | None = None
) -> Model:
    from portcullis_ml.models.torch import TorchModel

    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingExtra("A .safetensors file", "safetensors") from error
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("portcullis", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"{path} was expected to hold safetensors; it cannot be read ({error}). "
            "It may be cut short: write it again."
        ) from error
    network = factory or about.get("network")
    shape = input_shape or (tuple(about["input_shape"]) if "input_shape" in about else None)
    classes = n_classes or about.get("n_classes")
    if not network or shape is None:
        raise InputError(
            f"{path} holds weights and does not say of what. Write {path}@module:factory, with the function that makes "
            "the module, and give rows that it takes."
        )
    module = _module(network, shape, classes)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"The weights in {path} do not fit the module that {network} makes. Name the right one."
        ) from error
    if factory:  # a module of the user's own may end in a softmax, and its columns say how many classes it knows
        return _of_module(str(path), module, shape, classes if classes == 2 else None, output, network=network)
    assert classes is not None
    return TorchModel(module, shape, classes, network=network)


def _module(network: str, shape: tuple[int, ...], classes: int | None) -> Any:
    """A network of ours by name, or what a factory makes: called with (input_shape, n_classes), or with nothing."""
    from portcullis_ml.models.networks import NETWORKS, build_network

    ours = network.startswith("pretrained {")  # and JSON, which has colons of its own
    if not ours and ":" in network and not _required(factory := resolve(network)):
        return factory()
    if classes is None:
        raise InputError(
            f"{network} is made for a number of classes, and nobody says how many. Give test rows with named classes "
            "(.csv), or a factory without arguments."
        )
    if ours:
        from portcullis_ml.models.pretrained import pretrained_network

        return pretrained_network(network, shape, classes)
    if network in NETWORKS or ":" not in network:
        return build_network(network, shape, classes)
    return resolve(network)(shape, classes)


def _required(function: Any) -> int:
    """How many arguments must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _from_object(
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
            return _estimator(found, input_shape, n_classes, features)
        if hasattr(found, "state_dict") and hasattr(found, "forward"):
            if input_shape is None:
                raise InputError(f"{spec} is a torch module and does not say its shape; give input_shape.")
            return _of_module(spec, found, input_shape, n_classes, output)
    if callable(found) and input_shape is not None and _required(found):
        columns = _columns(spec, found, input_shape, output) if n_classes is None else n_classes
        return FunctionModel(found, input_shape, columns, output=output)
    if callable(found) and not _required(found):
        return _from_object(f"{spec}()", _made(spec, found), input_shape, n_classes, features, output)
    raise InputError(
        f"{spec} was expected to be a Model, a fitted scikit-learn estimator, a torch module or a callable; it is a "
        f"{type(found).__name__}. For a callable give input_shape."
    )


def _of_module(
    spec: str, module: Any, shape: tuple[int, ...], n_classes: int | None, output: str | None, **known: Any
) -> Model:
    """A torch module, its answers read as what they are: logits, or probabilities."""
    from portcullis_ml.models.torch import TorchModel

    ask = _of_arrays(module, n_classes, output)
    classes = n_classes or _columns(spec, ask, shape)
    rows = np.random.default_rng(0).uniform(size=(PROBED, *shape))
    return TorchModel(module, shape, classes, reading=reading_of(ask(rows)), output=output, **known)


def _made(spec: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except ModuleNotFoundError as error:
        raise absent(spec, error) from error


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
