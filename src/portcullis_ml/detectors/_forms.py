"""The forms in which rows are kept: the narrowest that gives them back exactly.

One byte a number for 8-bit inputs (k / 255 in double or single precision, or whole numbers 0 to 255), else float32,
else float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array

__all__ = ["FORMS", "SCALES", "decode", "encode", "stored"]

SCALES = {"unit": 255.0, "unit32": 255.0, "bytes": 1.0}  # of the 8-bit forms
FORMS = (*SCALES, "float32", "float64")


def encode(x: Array, form: str) -> NDArray[Any] | None:
    """x in this form, or None where that would lose anything."""
    found: NDArray[Any]
    if form in SCALES:
        found = np.clip(np.rint(x * SCALES[form]), 0, 255).astype(np.uint8)
    else:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is not equal to x
            found = x.astype(form)
    return found if form == "float64" or np.array_equal(decode(found, form), x) else None


def decode(found: NDArray[Any], form: str) -> Array:
    """The float64 values; dividing is faster than looking them up in a table."""
    if form == "unit":
        found = np.divide(found, 255.0, dtype=np.float64)
    elif form == "unit32":
        found = np.divide(found, np.float32(255), dtype=np.float32)
    return np.asarray(found, np.float64)


def stored(x: Array, form: str) -> NDArray[Any]:
    """x in a form that is known to hold it."""
    found = encode(x, form)
    assert found is not None
    return found
