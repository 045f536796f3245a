"""How the C library keeps the memory of training steps."""

from __future__ import annotations

import ctypes
import functools

__all__ = ["keep_memory"]


@functools.cache
def keep_memory() -> None:
    """Ask glibc, once, to keep the blocks of a step for the next one.

    It would hand each back to the kernel and fault every page in again: a fifth of a training step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: smaller blocks come from the heap
    mallopt(-1, 1 << 29)  # M_TRIM_THRESHOLD: the heap shrinks when so much of it is free
