"""The layers that our networks need and torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Channels", "ConvPool"]


class Channels(nn.Module):
    """(n, H, W) or (n, H, W, C) -> (n, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)


class ConvPool(nn.Conv2d):
    """A convolution, max pooling by 2, then ReLU: the same numbers as ReLU then pooling, on a quarter of them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(F.max_pool2d(super().forward(x), 2))
