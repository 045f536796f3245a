"""What numba compiles, once a process has asked for it; until then, or without numba, numpy finds the same bits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from portcullis_ml.core.randomness import QUANTUM
from portcullis_ml.core.types import Array

__all__ = ["cache_folder", "kernels", "questions", "warm"]

kernels: ModuleType | None = None  # `_kernels` from `warm` on


def warm() -> bool:
    """Load what is compiled, whether there is any: a second, and some 15 where numba's cache is empty.

    Called where a process begins to serve, so that no request waits for a compiler; without numba nothing happens. The
    cache is NUMBA_CACHE_DIR where that is set, else a folder of this user's.
    """
    global kernels
    try:
        with _cached_in(cache_folder(os.environ)):
            from portcullis_ml.detectors import _kernels
    except ImportError:
        return False
    kernels = _kernels
    return True


def cache_folder(environment: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Where what is compiled for this user is kept, by the rules of the system."""
    home = Path.home()
    if platform == "win32":
        base = Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif platform == "darwin":
        base = home / "Library" / "Caches"
    else:  # the XDG rules: a path that is not absolute counts as none
        base = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
        base = base if base.is_absolute() else home / ".cache"
    return base / "portcullis" / "numba"


@contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """Within it, numba caches what is decorated in this folder, unless the user named another one."""
    import numba

    config: Any = numba.config
    given = config.CACHE_DIR
    config.CACHE_DIR = given or str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = given


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
