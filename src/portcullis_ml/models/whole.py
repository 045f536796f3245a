"""Rows for victims that take whole numbers only."""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.core.types import Array

__all__ = ["whole_numbers"]


def whole_numbers(x: Array, dtype: Any) -> Any:
    """The nearest whole numbers that an integer type of NumPy holds, in that type."""
    held = np.iinfo(dtype)
    return np.clip(np.rint(x), held.min, np.nextafter(held.max + 1.0, 0)).astype(dtype)
