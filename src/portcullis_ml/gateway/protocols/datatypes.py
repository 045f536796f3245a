"""The datatypes of the Open Inference Protocol, as numpy has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.core.types import Floats
from portcullis_ml.gateway.protocols.strict import BadRequest

__all__ = ["DTYPE", "DTYPES", "whole"]

DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
DTYPE = {name: np.dtype(code) for name, code in DTYPES.items()}


def whole(x: Floats, dtype: np.dtype[Any], name: str, where: str = "The input") -> Floats:
    """x, refused unless it holds whole numbers that this type has."""
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not (np.isfinite(x).all() and (x == np.round(x)).all() and x.min() >= low and x.max() <= high):
        raise BadRequest(f"{where} must hold whole numbers that fit {name}.")
    return x
