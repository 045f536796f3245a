"""A model as the files of a folder: in its own format, and as ONNX where an ordinary model server takes over."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.load import save_model

__all__ = ["model_files"]

APART = 1e-4  # how far a probability of the ONNX file may be from the model's own


def model_files(model: Model, rows: Array) -> tuple[dict[str, bytes], str]:
    """({"model.safetensors" or the like: bytes, "model.onnx": bytes}, a sentence about the ONNX file).

    The ONNX file is left out where no library here writes it, or where its answers to `rows` (n, *input_shape) are
    not the model's own. Raises InputError for a model of a kind that has no file format.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(model, Path(folder) / "model")
        files = {path.name: path.read_bytes()}
    try:
        onnx = _to_onnx(model, rows)
        worst = _distance(onnx, model, rows)
    except (ImportError, RuntimeError, InputError, ValueError, TypeError) as error:
        return files, f"There is no ONNX file: {type(error).__name__}: {str(error).splitlines()[0][:160]}."
    if not worst <= APART:
        return files, f"There is no ONNX file: its probabilities differ by up to {worst:.2g} from the model's own."
    files["model.onnx"] = onnx
    return files, f"The ONNX file gives the model's own probabilities within {worst:.1g} on {len(rows):,} rows."


def _to_onnx(model: Any, rows: Array) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both exporters speak of their own future
        if hasattr(model, "module"):
            return _from_torch(model)
        import skl2onnx

        flat = np.asarray(rows[:1], np.float32).reshape(1, -1)
        graph = skl2onnx.to_onnx(model.estimator, flat, options={"zipmap": False})
        return bytes(graph.SerializeToString())


def _from_torch(model: Any) -> bytes:
    """The network with a softmax behind it, for any number of rows."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            torch.nn.Sequential(model.module, torch.nn.Softmax(1)).cpu().eval(),
            (torch.zeros(1, *model.input_shape),),
            str(path),
            input_names=["input"],
            output_names=["probabilities"],
            dynamic_axes={"input": {0: "n"}, "probabilities": {0: "n"}},
            dynamo=False,
        )
        model.module.to(model.device)
        return path.read_bytes()


def _distance(onnx: bytes, model: Any, rows: Array) -> float:
    """The largest difference of a probability, as ONNX Runtime works it out."""
    from portcullis_ml.models.onnx import OnnxModel

    asked = rows if hasattr(model, "module") else rows.reshape(len(rows), -1)  # scikit-learn takes flat rows
    scores = OnnxModel(onnx, input_shape=asked.shape[1:]).scores(asked)
    if scores.shape != (len(rows), model.n_classes):
        return float("inf")
    return float(abs(scores - model.scores(rows)).max())
