"""A verdict on every so many rows of a client: the share of them that are of some kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array

__all__ = ["Doubts", "shares"]


@dataclass
class Doubts:
    """One client's rows since the last verdict, how many of them are doubtful, and that verdict."""

    rows: int = 0
    doubtful: int = 0
    suspicion: float = float("nan")


def shares(state: Doubts, doubtful: NDArray[np.bool_], window: int) -> Array:
    """(n,) suspicions after rows of which these (n,) are doubtful; a new one at every `window` rows."""
    suspicion = np.empty(len(doubtful))
    for i, one in enumerate(doubtful.tolist()):
        state.rows += 1
        state.doubtful += one
        if state.rows == window:
            state.suspicion = state.doubtful / window
            state.rows = state.doubtful = 0
        suspicion[i] = state.suspicion
    return suspicion
