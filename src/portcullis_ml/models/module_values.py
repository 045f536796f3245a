"""A PyTorch module that answers one number a row, as a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array
from portcullis_ml.models.outputs import one_output

__all__ = ["ModuleValues"]

BATCH = 512


class ModuleValues:
    """A module of (n, *input_shape) that gives (n,) or (n, 1) numbers; `ask` runs it on arrays, on the CPU."""

    n_classes = 0
    precision: Literal["float32"] = "float32"

    def __init__(
        self, module: Any, ask: Callable[[Array], Any], input_shape: tuple[int, ...], *, output: str | None = None
    ) -> None:
        self.module = module
        self.input_shape = tuple(input_shape)
        self.output = output
        self._ask = ask

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, 1)."""
        parts = [np.empty((0, 1))]
        for start in range(0, len(x), BATCH):
            rows = x[start : start + BATCH]
            found = np.asarray(one_output(self._ask(rows), len(rows), None, self.output), np.float64)
            if found.size != len(rows):
                raise InputError(
                    f"The module was expected to give one number a row; it gave {found.shape} for {len(rows)} rows. "
                    "Read one column with --label INDEX."
                )
            parts.append(found.reshape(-1, 1))
        return np.concatenate(parts)
