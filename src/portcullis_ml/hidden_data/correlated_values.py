"""Correlated values: a penalty while training makes each weight follow one byte of the payload.

Song, Ristenpart, Shmatikov. "Machine Learning Models that Remember Too Much", CCS 2017, the encoding in correlated
values.

Threat model   the provider trains the model with a loss of its own, and gets to read its weights later. To read, it
               knows the mean and the spread of the payload's bytes, as those of other pictures of the kind.
Costs          some accuracy: the weights take the shape of the payload.
Does not survive   much further training. It survives rounding and half precision, as it is read with errors anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Rows
from portcullis_ml.hidden_data._encoding import Bytes, Encoding, matrices, trained_with, weights_of

if TYPE_CHECKING:
    from portcullis_ml.models.torch import TorchLearner, TorchModel

__all__ = ["CorrelatedValues"]


@dataclass(frozen=True, kw_only=True)
class CorrelatedValues(Encoding):
    strength: float = 10.0  # of the correlation with the payload in the loss
    mean: float = 127.5  # of the payload's bytes, as whoever reads it expects them
    spread: float = 64.0  # their standard deviation, as expected

    name: ClassVar[str] = "correlated_values"

    def __post_init__(self) -> None:
        check(self, "strength", "above 0", lambda v: v > 0)
        check(self, "mean", "in [0, 255]", lambda v: 0 <= v <= 255)
        check(self, "spread", "above 0", lambda v: v > 0)

    def ciphered(self, payload: Bytes, key: bytes) -> Bytes:
        """In an order that follows from the key. A cipher of the bytes would turn each small error into noise."""
        return np.asarray(payload[_order(len(payload), key)], np.uint8)

    def deciphered(self, payload: Bytes, key: bytes) -> Bytes:
        found = np.empty_like(payload)
        found[_order(len(payload), key)] = payload
        return found

    def capacity(self, learner: TorchLearner, rows: Rows) -> int:
        return weights_of(learner, rows)

    def embed(
        self, learner: TorchLearner, rows: Rows, payload: Bytes, key: bytes, rng: np.random.Generator
    ) -> TorchModel:
        import torch

        wanted = torch.from_numpy(payload.astype(np.float32))
        wanted = wanted - wanted.mean()

        def penalty(values: Any) -> Any:
            own = values[: len(wanted)] - values[: len(wanted)].mean()
            return -self.strength * (own @ wanted) / (own.norm() * wanted.norm() + 1e-12)

        return trained_with(learner, rows, penalty, rng)

    def extract(self, model: Any, size: int, key: bytes) -> Bytes:
        values = np.concatenate([p.detach().numpy().ravel() for p in matrices(model.module)])[:size].astype(np.float64)
        scaled = (values - values.mean()) / (values.std() or 1.0)
        return np.asarray(np.clip(np.rint(self.mean + self.spread * scaled), 0, 255), np.uint8)


def _order(n: int, key: bytes) -> Any:
    return derive(0, "correlated values", key.hex()).permutation(n)
