"""What numba compiles, once a process has asked for it; until then, or without numba, numpy finds the same bits."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from portcullis_ml.core.randomness import QUANTUM
from portcullis_ml.core.types import Array

__all__ = ["kernels", "questions", "warm"]

kernels: ModuleType | None = None  # `_kernels` from `warm` on


def warm() -> bool:
    """Load what is compiled, whether there is any: a second, and some 15 where numba's cache is empty.

    Called where a process begins to serve, so that no request waits for a compiler; without numba nothing happens.
    """
    global kernels
    try:
        from portcullis_ml.detectors import _kernels
    except ImportError:
        return False
    kernels = _kernels
    return True


def questions(rows: Array) -> list[memoryview] | None:
    """What `canonical` says of contiguous rows (n, d), as memory of the same bytes; None where nothing is compiled or
    some number may be large or none, which a sum in any order cannot tell for certain."""
    if kernels is None:
        return None
    found = []
    for row in rows:
        steps = np.empty(len(row), np.int32)
        if not kernels.steps(row, QUANTUM, steps):
            return None
        found.append(steps.data)
    return found
