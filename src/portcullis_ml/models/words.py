"""Categories and classes as words."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["word_of"]


def word_of(value: Any) -> str:
    """A category or a class as a table writes it: 3.0 is "3"."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
