"""A fully connected network as plain arrays: trained by PyTorch, scored by numpy, so that serving it needs no torch.

mean, deviation (*input_shape) bring the inputs to one scale; then w0, b0, w1, b1, ... with ReLU between them and a
softmax behind the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import softmax

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array

__all__ = ["DenseModel", "dense_arrays"]


class DenseModel:
    """The network of these arrays. Raises InputError where they are none."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        try:
            self._mean, self._deviation = (arrays[name].astype(np.float64) for name in ("mean", "deviation"))
            pairs = [(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range((len(arrays) - 2) // 2)]
            self._layers = [(w.astype(np.float64).T, b.astype(np.float64)) for w, b in pairs]
            self.input_shape: tuple[int, ...] = self._mean.shape
            self.n_classes = len(self._layers[-1][1])
            self.scores(np.zeros((1, *self.input_shape)))
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"The arrays of a fully connected network were expected: mean, deviation, w0, b0, ...; got "
                f"{', '.join(sorted(arrays))} ({error}). Prepare them again."
            ) from error

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities."""
        out = ((np.asarray(x, np.float64) - self._mean) / self._deviation).reshape(len(x), self._mean.size)
        for w, b in self._layers[:-1]:
            out = np.maximum(out @ w + b, 0.0)
        w, b = self._layers[-1]
        return np.asarray(softmax(out @ w + b, axis=1))


def dense_arrays(model: Any) -> dict[str, np.ndarray]:
    """The arrays of a TorchModel of the network "table_mlp"."""
    state = {name: tensor.cpu().numpy() for name, tensor in model.module.state_dict().items()}
    arrays = {word: a for name, a in state.items() for word in ("mean", "deviation") if name.endswith(f".{word}")}
    for letter, word in (("w", "weight"), ("b", "bias")):
        layers = [a for name, a in state.items() if name.endswith(f".{word}")]
        arrays |= {f"{letter}{i}": a for i, a in enumerate(layers)}
    return arrays
