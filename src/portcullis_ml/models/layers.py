"""The layers that our networks need and torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Blend", "Channels", "ConvPool", "GlobalMax", "Standardize"]


class Channels(nn.Module):
    """(n, H, W) or (n, H, W, C) -> (n, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)


class ConvPool(nn.Conv2d):
    """A convolution, max pooling by 2, then ReLU: the same numbers as ReLU then pooling, on a quarter of them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(F.max_pool2d(super().forward(x), 2))


class GlobalMax(nn.Module):
    """(n, C, H, W) -> (n, C) the maximum of every map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Blend(nn.ModuleList):
    """The mean of the log-probabilities of several networks: (n, *input_shape) -> (n, n_classes) logits."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([F.log_softmax(module(x), 1) for module in self]).mean(0)


class Standardize(nn.Module):
    """Every input less its mean, divided by its standard deviation, both of the rows that the learner was given.

    They are kept with the weights. A column that does not vary is only moved.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_shape))
        self.register_buffer("deviation", torch.ones(input_shape))

    def measure(self, x: Tensor) -> None:
        """Take mean and deviation from rows (n, *input_shape)."""
        wide = x.double()  # columns such as a year's income would lose digits
        deviation = wide.std(dim=0, correction=0)
        self.mean.copy_(wide.mean(dim=0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation
