"""An ONNX file as a frozen feature extractor: pictures in, its first output of numbers out, no gradients."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.onnx import open_session

__all__ = ["OnnxFeatures"]


class OnnxFeatures(nn.Module):
    """(n, 3, size, size) float32 -> (n, width). `sha256` is the file's own. InputError for a graph of other inputs."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__()
        self.sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self._session = open_session(path)
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        self._last = len(shape) == 4 and shape[3] == 3  # channels last
        sides = shape[1:3] if self._last else shape[2:]
        if len(shape) != 4 or inputs[0].type != "tensor(float)" or (not self._last and shape[1] != 3):
            raise InputError(f"{path} was expected to take one float tensor (n, 3, H, W) or (n, H, W, 3); got {shape}.")
        if any(isinstance(side, int) and side != size for side in sides):
            raise InputError(f"{path} takes pictures of {sides[0]} x {sides[1]} pixels. Say size={sides[0]}.")
        self._input = inputs[0].name
        self._batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        rows = (x.permute(0, 2, 3, 1) if self._last else x).detach().cpu().numpy()
        parts = [rows] if self._batch is None else np.split(rows, range(self._batch, len(rows), self._batch))
        found = [self._features(part) for part in parts]
        return torch.from_numpy(np.concatenate(found)).to(x.device)

    def _features(self, rows: np.ndarray) -> np.ndarray:
        """Features of one batch; where the graph's batch is fixed, the last is filled up with repeats."""
        n = len(rows)
        if self._batch is not None and n < self._batch:
            rows = np.resize(rows, (self._batch, *rows.shape[1:]))
        out = self._session.run(None, {self._input: np.ascontiguousarray(rows)})[0]
        return np.asarray(out, np.float32).reshape(len(rows), -1)[:n]
