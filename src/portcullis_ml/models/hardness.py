"""How hard a row is: the step of a training from which on all sub-models give it the same label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array
from portcullis_ml.models.blocks import Blocks
from portcullis_ml.models.dense import DenseModel

__all__ = ["STEPS", "SubModels", "distances", "histogram"]

STEPS = 11  # sub-models of one training: after its first epoch, then after every tenth of it


class SubModels:
    """The sub-models in these arrays, "0.mean", "0.w0", ..., "10.b2". Raises InputError where they are none."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        found: list[dict[str, np.ndarray]] = [{} for _ in range(STEPS)]
        for name, values in arrays.items():
            step, _, rest = name.partition(".")
            if step.isdigit() and int(step) < STEPS:
                found[int(step)][rest] = values
        self._models: Sequence[DenseModel] = [DenseModel(part) for part in found]
        first = self._models[0]
        self.input_shape, self.n_classes = first.input_shape, first.n_classes
        if any((m.input_shape, m.n_classes) != (self.input_shape, self.n_classes) for m in self._models):
            raise InputError("Sub-models of one shape were expected; these have several. Prepare them again.")
        self._scores = Blocks(lambda x: np.stack([m.scores(x) for m in self._models], axis=1), self.input_shape)

    def hardness(self, x: Array) -> NDArray[np.int64]:
        """(n,) from 0, a row on which all sub-models agree, to 10, one on which the last two differ."""
        labels = self._scores(x).argmax(axis=2)
        differs = labels[:, :-1] != labels[:, 1:]
        return np.asarray((differs * np.arange(1, STEPS)).max(axis=1, initial=0), np.int64)


def histogram(hardness: NDArray[np.int64]) -> NDArray[np.int64]:
    """(11,) how many rows there are of every hardness."""
    return np.bincount(hardness, minlength=STEPS)


def distances(counts: NDArray[np.int64], benign: Array) -> Array:
    """(m,) one minus Pearson's correlation of each histogram (m, 11) with the benign one (11,).

    A histogram whose bins are all equal has no correlation: its distance is 1, or 0 where both are such.
    """
    shares = counts / counts.sum(axis=1, keepdims=True)
    away, other = shares - shares.mean(axis=1, keepdims=True), benign - benign.mean()
    length, width = np.sqrt((away * away).sum(axis=1)), np.sqrt((other * other).sum())
    flat, flat_other = length < 1e-12, width < 1e-12
    products = (away * other).sum(axis=1)
    found = 1 - products / np.where(flat | flat_other, 1.0, length * width)
    return np.asarray(np.where(flat & flat_other, 0.0, np.where(flat | flat_other, 1.0, np.maximum(found, 0.0))))
