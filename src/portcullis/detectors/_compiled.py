"""What numba compiles, once a process has asked for it; until then, or without numba, numpy finds the same bits."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from portcullis.core.randomness import QUANTUM, canonical
from portcullis.core.types import Array

__all__ = ["kernels", "questions", "warm"]

kernels: ModuleType | None = None  # `_kernels` from `warm` on


def warm() -> bool:
    """Load what is compiled, whether there is any: a second, and some 15 where numba's cache is empty.

    Called where a process begins to serve, so that no request waits for a compiler; without numba nothing happens.
    """
    global kernels
    try:
        from portcullis.detectors import _kernels
    except ImportError:
        return False
    kernels = _kernels
    return True


def questions(rows: Array) -> list[bytes]:
    """`canonical` of contiguous rows (n, d)."""
    if kernels is None:
        return canonical(rows)
    steps, found = np.empty(rows.shape[1], np.int32), []
    for i, row in enumerate(rows):
        small = kernels.steps(row, QUANTUM, steps)  # else they may not fit, which is not for a sum in any order to say
        found.append(steps.tobytes() if small else canonical(rows[i : i + 1])[0])
    return found
