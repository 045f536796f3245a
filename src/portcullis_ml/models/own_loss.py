"""Training a network on a loss of one's own, where the learner's cross-entropy to soft targets cannot say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from portcullis_ml.core.types import Array

__all__ = ["fit_own_loss"]


def fit_own_loss(
    loss: Callable[[Any, Any], Any],
    x: Array,
    n_classes: int,
    *,
    epochs: int,
    rng: np.random.Generator,
    watch: Callable[[int, int], None],
    network: str = "table_mlp",
    batch: int = 64,
) -> Any:
    """A TorchModel of that network, trained on rows x (n, *input_shape) by Adam with the learner's step.

    loss(logits, which) gives the mean loss of a batch: its logits (b, n_classes), and which rows of x it is made of.
    """
    import torch

    from portcullis_ml.models.layers import Standardize
    from portcullis_ml.models.networks import build_network
    from portcullis_ml.models.torch import TorchModel, seeded

    rows = torch.tensor(x, dtype=torch.float32)
    shape = tuple(x.shape[1:])
    with seeded(rng, "cpu"):
        module = build_network(network, shape, n_classes).train()
        for layer in module.modules():
            if isinstance(layer, Standardize):
                layer.measure(rows)
        optimizer = torch.optim.Adam(module.parameters(), 1e-3, fused=True)
        for epoch in range(epochs):
            for which in torch.split(torch.from_numpy(rng.permutation(len(x))), batch):
                optimizer.zero_grad(set_to_none=True)
                loss(module(rows[which]), which).backward()
                optimizer.step()
            watch(epoch + 1, epochs)
    return TorchModel(module, shape, n_classes, network=network)
