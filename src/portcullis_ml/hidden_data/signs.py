"""Signs: a penalty while training makes the sign of each weight one bit of the payload.

Song, Ristenpart, Shmatikov. "Machine Learning Models that Remember Too Much", CCS 2017, the encoding in signs.

Threat model   the provider trains the model with a loss of its own, and gets to read its weights later.
Costs          some accuracy: half of the weights are not free to change their sign.
Does not survive   much further training. It survives rounding, half precision and quantisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Rows
from portcullis_ml.hidden_data._encoding import Bytes, Encoding, matrices, trained_with, weights_of

if TYPE_CHECKING:
    from portcullis_ml.models.torch import TorchLearner, TorchModel

__all__ = ["Signs"]


@dataclass(frozen=True, kw_only=True)
class Signs(Encoding):
    strength: float = 50.0  # of the penalty on weights with the wrong sign, the mean of their size

    name: ClassVar[str] = "signs"

    def __post_init__(self) -> None:
        check(self, "strength", "above 0", lambda v: v > 0)

    def capacity(self, learner: TorchLearner, rows: Rows) -> int:
        return weights_of(learner, rows) // 8

    def embed(
        self, learner: TorchLearner, rows: Rows, payload: Bytes, key: bytes, rng: np.random.Generator
    ) -> TorchModel:
        import torch

        wanted = torch.from_numpy(2 * np.unpackbits(payload).astype(np.float32) - 1)
        return trained_with(learner, rows, lambda w: self.strength * torch.relu(-w[: len(wanted)] * wanted).mean(), rng)

    def extract(self, model: Any, size: int, key: bytes) -> Bytes:
        values = np.concatenate([p.detach().numpy().ravel() for p in matrices(model.module)])
        return np.packbits(values[: 8 * size] > 0)
