"""A small network that learns the way back from what a defense shows to what the model answered.

Sizes after Tang et al., "ModelGuard", USENIX Security 2024, which rebuilt D-DAE: two hidden layers with batch
normalisation and leaky ReLUs, a softmax at the end, and the L1 distance as loss.
"""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.core.types import Array

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtra("Recovering answers", "torch") from error

from portcullis_ml.models.training import seeded

__all__ = ["learn_recovery"]

SIZES = ((20, (128, 64)), (64, (512, 256)), (128, (1024, 512)))  # classes up to which these hidden layers are used
LARGEST = (2048, 1024)
BATCH = 256
TINY = 1e-6


def learn_recovery(shown: Array, true: Array, asked: Array, *, epochs: int, rng: np.random.Generator) -> Array:
    """Learn from pairs shown, true (m, c), and recover the answers `asked` (n, c): (n, c) distributions."""
    width = shown.shape[1]
    hidden = next((sizes for most, sizes in SIZES if width <= most), LARGEST)
    with seeded(rng, "cpu"):
        net = nn.Sequential(
            nn.Linear(width, hidden[0]), nn.BatchNorm1d(hidden[0]), nn.LeakyReLU(0.2),
            nn.Linear(hidden[0], hidden[1]), nn.BatchNorm1d(hidden[1]), nn.LeakyReLU(0.2), nn.Linear(hidden[1], width),
        )  # fmt: skip
        _train(net, _seen(shown), torch.tensor(true, dtype=torch.float32), epochs)
    return _applied(net, asked)


def _seen(values: Array) -> torch.Tensor:
    """Probabilities as logarithms, in which small differences are seen."""
    return torch.tensor(np.log(np.maximum(values, TINY)), dtype=torch.float32)


def _train(net: nn.Module, seen: torch.Tensor, true: torch.Tensor, epochs: int) -> None:
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    steps = epochs * -(-len(seen) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=max(steps, 2))
    net.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(seen)), BATCH):
            if len(batch) < 2:
                continue  # batch normalisation needs two rows
            loss = (F.softmax(net(seen[batch]), dim=1) - true[batch]).abs().sum(dim=1).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    net.eval()


def _applied(net: nn.Module, values: Array) -> Array:
    with torch.inference_mode():
        return np.asarray(F.softmax(net(_seen(values)), dim=1).double().numpy())
