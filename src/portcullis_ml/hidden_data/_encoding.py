"""The shape of an encoding: what a malicious training provider does, and how it reads the data again."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Rows

if TYPE_CHECKING:
    from torch import Tensor

    from portcullis_ml.models.torch import TorchLearner, TorchModel

__all__ = ["Bytes", "Encoding", "classes_of", "key_stream", "matrices", "trained_with", "weights_of"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Encoding(ABC):
    """Settings are fields; `embed` hides, `extract` reads."""

    encrypted: bool = True  # with the key, which makes the payload look random; False hides it as it is

    name: ClassVar[str] = ""

    @abstractmethod
    def capacity(self, learner: TorchLearner, rows: Rows) -> int:
        """Bytes that can be hidden."""

    @abstractmethod
    def embed(
        self, learner: TorchLearner, rows: Rows, payload: Bytes, key: bytes, rng: np.random.Generator
    ) -> TorchModel:
        """A model trained on the rows, with the payload in it."""

    @abstractmethod
    def extract(self, model: Any, size: int, key: bytes) -> Bytes:
        """The first `size` bytes of the payload, as far as they can be read."""

    @final
    def hide(
        self, learner: TorchLearner, rows: Rows, payload: Bytes, *, key: bytes, rng: np.random.Generator
    ) -> TorchModel:
        """Train a model on (x, y) that holds the payload. InputError where there is no room for it."""
        if (room := self.capacity(learner, rows)) < len(payload):
            raise InputError(
                f"{self.name} was expected to hide {len(payload):,} bytes; there is room for {room:,} here. Hide "
                "fewer, or take a larger network."
            )
        return self.embed(learner, rows, self.ciphered(payload, key) if self.encrypted else payload, key, rng)

    @final
    def read(self, model: Any, size: int, *, key: bytes) -> Bytes:
        """The first `size` bytes that are hidden in the model."""
        found = self.extract(model, size, key)
        return self.deciphered(found, key) if self.encrypted else found

    def ciphered(self, payload: Bytes, key: bytes) -> Bytes:
        return payload ^ key_stream(key, len(payload))

    def deciphered(self, payload: Bytes, key: bytes) -> Bytes:
        return payload ^ key_stream(key, len(payload))


def key_stream(key: bytes, size: int) -> Bytes:
    """Bytes that only the key's holder can tell from random ones."""
    return np.frombuffer(hashlib.shake_256(b"portcullis hidden data" + key).digest(size), np.uint8)


def matrices(module: Any) -> list[Any]:
    """The float32 parameters that are no vectors, in the network's order: where data is hidden."""
    return [p for p in module.parameters() if p.ndim > 1]


def classes_of(rows: Rows) -> int:
    return int(np.max(np.asarray(rows.y))) + 1


def weights_of(learner: TorchLearner, rows: Rows) -> int:
    """How many weights the matrices of this learner's network have."""
    import torch

    from portcullis_ml.models.networks import build_network

    with torch.device("meta"):
        module = build_network(learner.network, tuple(rows.x.shape[1:]), classes_of(rows))
    return sum(p.numel() for p in matrices(module))


def trained_with(
    learner: TorchLearner, rows: Rows, penalty: Callable[[Tensor], Tensor], rng: np.random.Generator
) -> TorchModel:
    """A model of this learner, trained on the loss and a penalty on all its matrices as one vector."""
    import torch
    from torch.nn import functional as F

    from portcullis_ml.models.networks import build_network
    from portcullis_ml.models.torch import TorchModel
    from portcullis_ml.models.training import measure, seeded

    shape, classes = tuple(rows.x.shape[1:]), classes_of(rows)
    x, y = torch.tensor(rows.x, dtype=torch.float32), torch.tensor(np.asarray(rows.y, np.int64))
    with seeded(rng, "cpu"):
        module = build_network(learner.network, shape, classes, dropout=learner.dropout)
        measure(module, x)
        optimizer = learner.optimizer_for(module.train().parameters())
        for _ in range(learner.epochs):
            for chosen in torch.split(torch.from_numpy(rng.permutation(len(x))), learner.batch):
                optimizer.zero_grad(set_to_none=True)
                values = torch.cat([p.flatten() for p in matrices(module)])
                loss = F.cross_entropy(module(x[chosen]), y[chosen]) + penalty(values)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return TorchModel(module, shape, classes, network=learner.network)
