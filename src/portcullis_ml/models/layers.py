"""The layers that our networks need and torch does not have."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Blend", "Channels", "ConvPool", "GlobalMax", "GlobalMean", "OneOf", "Quantise", "Residual", "Standardize"]


class Channels(nn.Module):
    """(n, H, W) or (n, H, W, C) -> (n, C, H, W); what comes with its channels first stays as it is."""

    def __init__(self, *, first: bool = False) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            return x
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


class GlobalMean(nn.Module):
    """(n, C, H, W) -> (n, C) the mean of every map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class OneOf(nn.ModuleList):
    """Several networks, of which one answers a row: (n, *input_shape) -> (n, n_classes) logits.

    Which one follows from where the row lies along a secret direction, which is drawn with the weights and kept with
    them. The line is cut into `bins` pieces, and the networks take turns from piece to piece. A row that moves a
    little stays with its network unless a cut is near. While training all answer: (n, networks, n_classes).
    """

    direction: Tensor
    cuts: Tensor

    def __init__(self, networks: list[nn.Module], input_shape: tuple[int, ...], bins: int) -> None:
        super().__init__(networks)
        self.register_buffer("direction", torch.randn(math.prod(input_shape), dtype=torch.float64))
        self.register_buffer("cuts", torch.zeros(bins - 1, dtype=torch.float64))

    def measure(self, x: Tensor) -> None:
        """Scale the direction to rows (n, *input_shape), and cut so that every piece holds as many of them."""
        deviation = x.double().flatten(1).std(dim=0, correction=0)
        floor = torch.clamp(deviation.mean() / 10, min=1e-12)  # inputs that hardly vary must not decide
        self.direction.div_(torch.maximum(deviation, floor))
        shares = torch.arange(1, len(self.cuts) + 1, dtype=torch.float64) / (len(self.cuts) + 1)
        self.cuts.copy_(torch.quantile(self.position(x), shares))

    def position(self, x: Tensor) -> Tensor:
        """(n,) where rows lie, in double precision so that it does not depend on the batch."""
        return (x.flatten(1).double() * self.direction).sum(1)

    def chosen(self, x: Tensor) -> Tensor:
        """(n,) which network answers each row."""
        return (self.position(x)[:, None] > self.cuts).sum(1) % len(self)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([module(x) for module in self], 1)
        if self.training:
            return logits
        which = self.chosen(x)[:, None, None].expand(-1, 1, logits.shape[2])
        return logits.gather(1, which)[:, 0]


class Quantise(nn.Module):
    """Every input moved to the nearest of a few levels between the least and the greatest that the learner was given.

    The range is that of each column of a table, one for all pixels of a picture. The cuts between levels lie evenly,
    or are trained. A gradient, of a cut or of an input, is that of sigmoids in the place of the steps.
    """

    low: Tensor
    width: Tensor
    cuts: Tensor

    def __init__(self, input_shape: tuple[int, ...], levels: int, *, trained: bool = False) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(input_shape))
        self.register_buffer("width", torch.ones(input_shape))
        cuts = (torch.arange(1, levels) - 0.5) / (levels - 1)
        if trained:
            self.cuts = nn.Parameter(cuts)
        else:
            self.register_buffer("cuts", cuts)

    def measure(self, x: Tensor) -> None:
        """Take the range from rows (n, *input_shape)."""
        low, high = x.amin(0), x.amax(0)
        if low.ndim > 1:
            low, high = low.min().expand_as(low), high.max().expand_as(high)
        self.low.copy_(low)
        self.width.copy_(torch.where(high > low, high - low, torch.ones_like(high)))

    def forward(self, x: Tensor) -> Tensor:
        above = ((x - self.low) / self.width).unsqueeze(-1) - self.cuts
        share = (above > 0).to(x.dtype).mean(-1)
        if above.requires_grad:
            soft = torch.sigmoid(above * 4 * (len(self.cuts) + 1)).mean(-1)
            share = soft + (share - soft).detach()
        return self.low + self.width * share


class Residual(nn.Module):
    """Two convolutions of 3x3 with batch normalisation, added to their input (He et al., CVPR 2016, section 3).

    (n, maps, h, w) -> (n, wider, h / stride, w / stride); where shapes differ the input goes through one of 1x1.
    """

    def __init__(self, maps: int, wider: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(maps, wider, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(wider)
        self.second = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(wider)
        same = maps == wider and stride == 1
        self.short: nn.Module = nn.Identity() if same else nn.Conv2d(maps, wider, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.short(x))


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
