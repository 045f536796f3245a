"""Low bits: the payload replaces the last bits of every weight, after an honest training.

Song, Ristenpart, Shmatikov. "Machine Learning Models that Remember Too Much", CCS 2017, the encoding in least
significant bits.

Threat model   the provider trains the model, and gets to read its weights later.
Costs          nothing that shows: a weight changes by less than 2^(bits - 23) of itself.
Does not survive   weights that are rounded, cast to half precision, quantised, or trained any further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Rows
from portcullis_ml.hidden_data._encoding import Bytes, Encoding, classes_of, matrices, weights_of

if TYPE_CHECKING:
    from portcullis_ml.models.torch import TorchLearner, TorchModel

__all__ = ["LowBits"]


@dataclass(frozen=True, kw_only=True)
class LowBits(Encoding):
    bits: int = 16  # of the 23 of each weight's fraction; more bits change answers

    name: ClassVar[str] = "low_bits"

    def __post_init__(self) -> None:
        check(self, "bits", "an int from 1 to 22", lambda v: isinstance(v, int) and 1 <= v <= 22)

    def capacity(self, learner: TorchLearner, rows: Rows) -> int:
        return weights_of(learner, rows) * self.bits // 8

    def embed(
        self, learner: TorchLearner, rows: Rows, payload: Bytes, key: bytes, rng: np.random.Generator
    ) -> TorchModel:
        import torch

        model = learner.fit(rows.x, np.eye(classes_of(rows))[np.asarray(rows.y)], rng=rng)
        bits = np.unpackbits(payload)
        words = np.pad(bits, (0, -len(bits) % self.bits)).reshape(-1, self.bits) @ self._places()
        for matrix in matrices(model.module):
            raw = matrix.detach().numpy().copy().view(np.uint32).ravel()
            own, words = words[: raw.size], words[raw.size :]
            raw[: len(own)] = (raw[: len(own)] >> self.bits << self.bits) | own
            matrix.data = torch.from_numpy(raw.view(np.float32).reshape(matrix.shape))
        return model

    def extract(self, model: Any, size: int, key: bytes) -> Bytes:
        raw = np.concatenate([p.detach().numpy().ravel() for p in matrices(model.module)]).view(np.uint32)
        words = raw[: -(-8 * size // self.bits), None]
        bits = (words & self._places()) > 0
        return np.packbits(bits.ravel()[: 8 * size])

    def _places(self) -> Any:
        """(bits,) the value of each bit, the greatest first."""
        return np.uint32(1) << np.arange(self.bits - 1, -1, -1, dtype=np.uint32)
