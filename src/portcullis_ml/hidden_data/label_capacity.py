"""Label capacity: the payload is the labels of synthetic rows, which the model learns beside its task.

Song, Ristenpart, Shmatikov. "Machine Learning Models that Remember Too Much", CCS 2017, the black-box attack that
abuses a model's capacity.

Threat model   the provider adds rows to the training set, and gets to ask the model later; labels are enough.
Query cost     one query for every log2(classes) bits, rounded down.
Costs          some accuracy, and capacity of the network.
Does not survive   further training on honest rows alone. It survives rounding, half precision and a copy by queries
                   that include its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Rows
from portcullis_ml.hidden_data._encoding import Bytes, Encoding, classes_of

if TYPE_CHECKING:
    from portcullis_ml.models.torch import TorchLearner, TorchModel

__all__ = ["LabelCapacity"]


@dataclass(frozen=True, kw_only=True)
class LabelCapacity(Encoding):
    rows_for_one: float = 1.0  # synthetic rows for each training row, at most

    name: ClassVar[str] = "label_capacity"

    def __post_init__(self) -> None:
        check(self, "rows_for_one", "above 0", lambda v: v > 0)

    def capacity(self, learner: TorchLearner, rows: Rows) -> int:
        return int(len(rows.x) * self.rows_for_one) * _bits(classes_of(rows)) // 8

    def embed(
        self, learner: TorchLearner, rows: Rows, payload: Bytes, key: bytes, rng: np.random.Generator
    ) -> TorchModel:
        n = classes_of(rows)
        labels = _labels(payload, n)
        x = np.concatenate([rows.x, _synthetic(len(labels), tuple(rows.x.shape[1:]), key)])
        y = np.concatenate([np.asarray(rows.y), labels])
        return learner.fit(x, np.eye(n)[y], rng=rng)

    def extract(self, model: Any, size: int, key: bytes) -> Bytes:
        width = _bits(model.n_classes)
        rows = _synthetic(-(-8 * size // width), tuple(model.input_shape), key)
        said = model.scores(rows)[:, : 1 << width].argmax(axis=1)  # other classes spell nothing
        bits = said[:, None] >> np.arange(width - 1, -1, -1) & 1
        return np.packbits(bits.ravel()[: 8 * size].astype(np.uint8))


def _bits(n_classes: int) -> int:
    """Whole bits that one label spells."""
    return n_classes.bit_length() - 1


def _labels(payload: Bytes, n_classes: int) -> Any:
    width = _bits(n_classes)
    bits = np.unpackbits(payload)
    return np.pad(bits, (0, -len(bits) % width)).reshape(-1, width) @ (1 << np.arange(width - 1, -1, -1))


def _synthetic(n: int, shape: tuple[int, ...], key: bytes) -> Array:
    """(n, *shape) rows of [0, 1] that follow from the key."""
    return derive(0, "label capacity", key.hex()).random((n, *shape))
