"""A PyTorch module that answers one number a row, as a model."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array
from portcullis_ml.models.outputs import one_output

__all__ = ["ModuleValues"]

BATCH = 512


class ModuleValues:
    """A module that maps (n, *input_shape) float32 to (n,) or (n, 1) numbers, on the CPU, in eval mode."""

    n_classes = 0
    precision: Literal["float32"] = "float32"

    def __init__(self, module: Any, input_shape: tuple[int, ...], *, output: str | None = None) -> None:
        self.module = module.eval().requires_grad_(False)
        self.input_shape = tuple(input_shape)
        self.output = output

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, 1)."""
        import torch

        parts = [np.empty((0, 1))]
        with torch.inference_mode():
            for start in range(0, len(x), BATCH):
                rows = torch.tensor(x[start : start + BATCH], dtype=torch.float32)
                found = one_output(self.module(rows), len(rows), None, self.output)
                if found.numel() != len(rows):
                    raise InputError(
                        f"The module was expected to give one number a row; it gave {tuple(found.shape)} for "
                        f"{len(rows)} rows. Read one column with --label INDEX."
                    )
                parts.append(found.reshape(-1, 1).double().numpy())
        return np.concatenate(parts)
