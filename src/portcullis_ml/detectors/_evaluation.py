"""The owner's evaluation set, as the recipe `evaluation_set` writes it: read, and held against the API."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.recipes import prepared
from portcullis_ml.core.types import Array, Interface, Labels
from portcullis_ml.models.artifacts import unpack_arrays

__all__ = ["Singles", "evaluation_rows", "flat"]

FILE = "set.safetensors"
Singles = NDArray[np.float32]


def evaluation_rows(unit: Any, interface: Interface) -> tuple[Singles, Labels]:
    """Rows (n, d) and the victim's labels (n,), from a unit's setting `evaluation`. NotApplicable or InputError."""
    if interface.task != "classification":
        raise NotApplicable(f"{unit.name} needs an API that predicts classes; this one does regression. Leave it out.")
    if interface.missing:
        raise NotApplicable(f"{unit.name} needs whole rows; this API takes rows with inputs left out.")
    files = prepared(unit, "evaluation").files
    if FILE not in files:
        raise InputError(f"{unit.name}.evaluation must hold {FILE}, as evaluation_set writes it; it does not.")
    arrays = unpack_arrays(files[FILE], f"{unit.name}.evaluation: {FILE}")
    x, labels = arrays.get("x", np.empty(0)), arrays.get("labels", np.empty(0))
    if x.shape[1:] != interface.input_shape or labels.shape != x.shape[:1] or len(np.unique(labels)) < 2:
        raise InputError(
            f"{unit.name}.evaluation must hold rows {interface.input_shape} with labels of 2 classes at least; it "
            f"holds rows {x.shape[1:]} with {len(np.unique(labels))}. Prepare one for this model."
        )
    return flat(x), labels.astype(np.int64)


def flat(x: Array) -> Singles:
    """(n, d) in single precision, as trees compare; what that cannot hold is cut, and NaN is 0."""
    rows = np.nan_to_num(np.asarray(x, np.float64).reshape(len(x), math.prod(x.shape[1:])))
    return np.clip(rows, -1e30, 1e30).astype(np.float32)
