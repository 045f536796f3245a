"""Two looks at the same row: random crops and colours of pictures, columns of other rows in tables.

Pictures: the augmentation of SimSiam and SwiftThief (a crop of at least a share of the area, a mirror image, jitter of
brightness, contrast, saturation and hue, gray). Tables: a random share of the columns is taken from other rows, each
from a row of its own (Bahri et al., "SCARF", ICLR 2022); the indicators of one category stay together. All draws come
from torch's generator for the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from portcullis_ml.models.networks import channels_first

__all__ = ["picture_view", "row_view"]

RATIO = 4 / 3  # of a crop's sides, at most
JITTER, HUE = 0.4, 0.1  # of brightness, contrast and saturation; of the circle of colours
JITTERED, GRAYED = 0.8, 0.2  # shares of the pictures
LUMA = (0.299, 0.587, 0.114)
TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def picture_view(x: Tensor, low: float, high: float, *, crop: float, mirror: bool) -> Tensor:
    """x (n, H, W), (n, H, W, C) or (n, C, H, W) with values from low to high, each picture changed at random.

    A crop has at least the share `crop` of the area and is scaled to the whole; pictures of another number of channels
    than three have no colours to be changed.
    """
    first = channels_first(tuple(x.shape[1:]))
    pictures = x.unsqueeze(1) if x.ndim == 3 else x if first else x.permute(0, 3, 1, 2)
    unit = _cropped((pictures - low) / (high - low), crop, mirror)
    changed = low + (high - low) * _jittered(unit)
    if x.ndim == 3:
        return changed[:, 0]
    return changed if first else changed.permute(0, 2, 3, 1)


def row_view(x: Tensor, groups: Tensor, share: float) -> Tensor:
    """x (n, ...) with about `share` of its columns taken from other rows of x.

    groups (columns,) says which columns of a flat row belong together: they come from the same row or stay together.
    """
    n, several = len(x), int(groups.max()) + 1
    flat = x.reshape(n, -1)
    taken = _uniform(n, several, like=x) < share
    donors = torch.randint(n, (n, several), device="cpu").to(x.device)
    other = flat.gather(0, donors[:, groups])
    return torch.where(taken[:, groups], other, flat).reshape(x.shape)


def _cropped(x: Tensor, crop: float, mirror: bool) -> Tensor:
    """(n, C, H, W), a random part of each picture as large as the whole."""
    n = len(x)
    area = crop + (1 - crop) * _uniform(n, like=x)
    ratio = torch.exp((2 * _uniform(n, like=x) - 1) * math.log(RATIO))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    right, down = ((2 * _uniform(n, like=x) - 1) * (1 - side) for side in (width, height))
    if mirror:
        width = torch.where(_uniform(n, like=x) < 0.5, -width, width)
    zero = torch.zeros_like(width)
    rows = torch.stack([width, zero, right]), torch.stack([zero, height, down])
    grid = F.affine_grid(torch.stack(rows).permute(2, 0, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _jittered(x: Tensor) -> Tensor:
    """(n, C, H, W) in [0, 1] with changed brightness and contrast, and where there are colours changed colours."""
    n = len(x)
    bright, strong, vivid = (1 + JITTER * (2 * _uniform(n, 1, 1, 1, like=x) - 1) for _ in range(3))
    changed = (x * bright).clamp(0, 1)
    middle = _gray(changed).mean((1, 2, 3), keepdim=True)
    changed = (middle + (changed - middle) * strong).clamp(0, 1)
    if x.shape[1] == 3:
        gray = _gray(changed)
        changed = _turned((gray + (changed - gray) * vivid).clamp(0, 1), HUE * (2 * _uniform(n, like=x) - 1))
    changed = torch.where(_uniform(n, 1, 1, 1, like=x) < JITTERED, changed, x)
    if x.shape[1] == 3:
        changed = torch.where(_uniform(n, 1, 1, 1, like=x) < GRAYED, _gray(changed).expand_as(changed), changed)
    return changed


def _gray(x: Tensor) -> Tensor:
    """(n, 1, H, W) the brightness of (n, C, H, W)."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _turned(x: Tensor, hue: Tensor) -> Tensor:
    """(n, 3, H, W) with colours turned by hue (n,), in circles: a rotation of the plane of colours."""
    to = x.new_tensor(TO_YIQ)
    cosine, sine = (2 * math.pi * hue).cos(), (2 * math.pi * hue).sin()
    turn = torch.zeros(len(x), 3, 3, dtype=x.dtype, device=x.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cosine, -sine, sine, cosine
    return torch.einsum("nij,njhw->nihw", torch.linalg.inv(to) @ turn @ to, x).clamp(0, 1)


def _uniform(*shape: int, like: Tensor) -> Tensor:
    return torch.rand(*shape, device="cpu").to(like.device, like.dtype)
