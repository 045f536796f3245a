"""Training a network on answers and, beside them, on what an API shows as gradient x input."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.core.types import Array, Labels

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtra("Training on explanations", "torch") from error

from portcullis_ml.models.networks import build_network
from portcullis_ml.models.torch import TorchModel, measure, seeded

__all__ = ["fit_matching"]

BATCH = 64


def fit_matching(
    x: Array,
    targets: Array,
    products: Array,
    labels: Labels,
    *,
    network: str,
    epochs: int,
    weight: float,
    rng: np.random.Generator,
) -> TorchModel:
    """Fit the network of that name to targets (n, c) and to products (n, *input_shape), which are x times the
    gradient of the logit of labels (n,).

    The loss is the cross-entropy plus `weight` times the squared error of the network's own products, as a share of
    the mean square of those given. Products that hold a NaN count as withheld: such rows have a cross-entropy only.
    """
    shown = np.isfinite(products).reshape(len(x), -1).all(axis=1)
    square = float((products[shown] ** 2).sum() / max(shown.sum(), 1))
    scale = weight * shown / max(square, 1e-12)
    rows, goals, wanted, each = (
        torch.tensor(values, dtype=torch.float32) for values in (x, targets, np.nan_to_num(products), scale)
    )
    classes = torch.tensor(np.maximum(labels, 0))
    with seeded(rng, "cpu"):
        module = build_network(network, tuple(x.shape[1:]), targets.shape[1])
        measure(module, rows)
        optimizer = torch.optim.Adam(module.parameters(), 1e-3)
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(rows)), BATCH):
                optimizer.zero_grad(set_to_none=True)
                loss = _loss(module, rows[part], goals[part], wanted[part], classes[part], each[part])
                torch.autograd.backward(loss)
                optimizer.step()
    return TorchModel(module, tuple(x.shape[1:]), targets.shape[1], network=network)


def _loss(module: nn.Module, x: Tensor, goals: Tensor, wanted: Tensor, classes: Tensor, each: Tensor) -> Tensor:
    x = x.clone().requires_grad_(bool(each.any()))
    logits = module(x)
    loss = F.cross_entropy(logits, goals)
    if not each.any():
        return loss
    served = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(served, x, create_graph=True)
    error = (x * gradient - wanted).flatten(1).square().sum(dim=1)
    return loss + (each * error).mean()
