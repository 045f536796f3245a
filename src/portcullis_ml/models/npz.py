"""Models of which an .npz file holds all there is: what `save` of these classes wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.relu import WEIGHTS, ReluNetwork
from portcullis_ml.models.softmax import SoftmaxRegression

__all__ = ["load_npz"]


def load_npz(path: Path) -> SoftmaxRegression | ReluNetwork:
    """The model in the file, told by the names of its arrays. InputError where it holds neither."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            shape = tuple(file["input_shape"].tolist())
            if "v" in file.files:
                weights = {name: file[name].astype(np.float64) for name in WEIGHTS}
                return ReluNetwork(**weights, n_classes=int(file["n_classes"]), input_shape=shape)
            return SoftmaxRegression(file["w"], file["b"], input_shape=shape)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} was expected to hold w, b and input_shape of a softmax regression, or v, skip, a and n_classes "
            f"beside them ({error}). Write it with save_model."
        ) from error
