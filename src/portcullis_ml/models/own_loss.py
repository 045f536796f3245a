"""Training a network on a loss of one's own, where the learner's cross-entropy to soft targets cannot say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from portcullis_ml.core.types import Array

__all__ = ["fit_own_loss"]


def fit_own_loss(
    loss: Callable[[Any, Any, Any], Any],
    x: Array,
    n_classes: int,
    *,
    epochs: int,
    rng: np.random.Generator,
    watch: Callable[[int, int], None],
    network: str = "table_mlp",
    dropout: float = 0.0,
    batch: int = 64,
    optimizer: Callable[[Any], Any] | None = None,
) -> Any:
    """A TorchModel of that network, trained on rows x (n, *input_shape).

    loss(module, rows, which) gives the mean loss of a batch: of its rows (b, *input_shape), which of x they are.
    optimizer(module) makes the optimizer: Adam with the step of `TorchLearner` unless given.
    """
    import torch

    from portcullis_ml.models.networks import build_network
    from portcullis_ml.models.torch import TorchModel
    from portcullis_ml.models.training import measure, seeded

    rows = torch.tensor(x, dtype=torch.float32)
    shape = tuple(x.shape[1:])
    with seeded(rng, "cpu"):
        module = build_network(network, shape, n_classes, dropout=dropout).train()
        measure(module, rows)
        steps = optimizer(module) if optimizer else torch.optim.Adam(module.parameters(), 1e-3, fused=True)
        for epoch in range(epochs):
            for which in torch.split(torch.from_numpy(rng.permutation(len(x))), batch):
                steps.zero_grad(set_to_none=True)
                loss(module, rows[which], which).backward()
                steps.step()
            watch(epoch + 1, epochs)
    return TorchModel(module, shape, n_classes, network=network)
