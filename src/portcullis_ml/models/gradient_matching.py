"""Training a network on answers and, beside them, on what an API shows as gradient x input or as a map of classes."""

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
from portcullis_ml.models.torch import TorchModel
from portcullis_ml.models.training import measure, seeded

__all__ = ["fit_matching", "has_maps"]

BATCH = 64


def fit_matching(
    x: Array,
    targets: Array,
    shown: Array,
    labels: Labels,
    *,
    network: str,
    epochs: int,
    weight: float,
    rng: np.random.Generator,
) -> TorchModel:
    """Fit the network of that name to targets (n, c) and to what is shown of labels (n,): products (n, *input_shape) of
    x and the gradient of the label's logit, or, in any other shape, class activation maps (n, h, w).

    The loss is the cross-entropy plus `weight` times the squared error of the network's own products, as a share of
    the mean square of those given; or of its own Grad-CAM, both maps having length 1. It is taken of the last layer
    whose maps have that size; where none has, the last maps are resized. Explanations that hold a NaN count as
    withheld: such rows have a cross-entropy only.
    """
    given = np.isfinite(shown).reshape(len(x), -1).all(axis=1)
    products = shown.shape == x.shape
    square = float((shown[given] ** 2).sum() / max(given.sum(), 1)) if products else 1.0
    scale = weight * given / max(square, 1e-12)
    rows, goals, wanted, each = (
        torch.tensor(values, dtype=torch.float32) for values in (x, targets, np.nan_to_num(shown), scale)
    )
    classes = torch.tensor(np.maximum(labels, 0))
    with seeded(rng, "cpu"):
        module = build_network(network, tuple(x.shape[1:]), targets.shape[1])
        measure(module, rows)
        layer = None if products or not each.any() else _with_maps(module, rows[:1], shown.shape[1:])
        optimizer = torch.optim.Adam(module.parameters(), 1e-3)
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(rows)), BATCH):
                optimizer.zero_grad(set_to_none=True)
                batch = rows[part], goals[part], wanted[part], classes[part], each[part]
                loss = _loss(module, *batch) if layer is None else _map_loss(module, layer, *batch)
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


def _map_loss(
    module: nn.Module, layer: nn.Module, x: Tensor, goals: Tensor, wanted: Tensor, classes: Tensor, each: Tensor
) -> Tensor:
    taken: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: taken.append(output))
    try:
        logits = module(x)
    finally:
        handle.remove()
    loss = F.cross_entropy(logits, goals)
    if not each.any():
        return loss
    maps = taken[0]
    (slopes,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps, create_graph=True)
    own = torch.relu((slopes.mean((2, 3), keepdim=True) * maps).sum(1))
    if own.shape != wanted.shape:
        size = [int(side) for side in wanted.shape[1:]]
        own = F.interpolate(own[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    error = (F.normalize(own.flatten(1)) - F.normalize(wanted.flatten(1))).square().sum(dim=1)
    return loss + (each * error).mean()


def has_maps(network: str, input_shape: tuple[int, ...]) -> bool:
    """Whether the network of that name gives maps (n, k, h, w) somewhere, from which it can explain."""
    with seeded(np.random.default_rng(0), "cpu"):
        module = build_network(network, input_shape, 2)
    return bool(_maps_of(module, torch.zeros((1, *input_shape))))


def _with_maps(module: nn.Module, row: Tensor, size: tuple[int, ...]) -> nn.Module:
    """The last layer whose maps have this size, or else the last one that has maps."""
    found = _maps_of(module, row)
    return next((layer for layer, maps in reversed(found) if maps == size), found[-1][0])


def _maps_of(module: nn.Module, row: Tensor) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """The layers with weights below them that give maps (n, k, h, w), in order, each with its (h, w)."""
    found: list[tuple[nn.Module, tuple[int, ...]]] = []
    seen = [False]

    def note(layer: nn.Module, _: object, output: object) -> None:
        seen[0] |= isinstance(layer, nn.Conv2d)
        if seen[0] and isinstance(output, Tensor) and output.ndim == 4:
            found.append((layer, tuple(output.shape[2:])))

    handles = [layer.register_forward_hook(note) for layer in module.modules()]
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(row)
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return found
