"""Small convolutional networks with batch normalisation, for copies of picture classifiers (`auto_pictures.py`).

Convolutions of 3x3, `width` feature maps in the first, twice and four times as many after it. Each halves the picture
by max pooling while its shorter side has at least 8 pixels. "Flat" networks give the logits from every place of the
last maps, so that they know where something stands; "pooled" ones from the maximum of each map, so that they do not.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from portcullis_ml.models.networks import Network, channels_first, image_shape

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "picture_flat",
    "picture_flat_wide",
    "picture_pooled",
    "picture_pooled_wide",
    "picture_residual",
    "picture_resnet9",
    "picture_resnet9_wide",
]

POOLED = 8  # pixels of the shorter side from which a convolution is followed by pooling
LARGE = 16  # and from which there are three convolutions, not two


def picture(
    input_shape: tuple[int, ...], n_classes: int, *, dropout: float = 0.0, width: int = 16, flat: bool = True
) -> nn.Module:
    """The network; inputs are brought to mean 0 and deviation 1 a channel by running statistics of their own."""
    from torch import nn

    from portcullis_ml.models.layers import Channels, GlobalMax

    height, breadth, maps = image_shape(input_shape)
    short = min(height, breadth)
    halvings = max(0, 1 + math.floor(math.log2(short / POOLED))) if short >= POOLED else 0
    layers: list[nn.Module] = [Channels(first=channels_first(input_shape)), nn.BatchNorm2d(maps, affine=False)]
    for block in range(max(halvings, 3 if short >= LARGE else 2)):
        wider = width * 2 ** min(block, 2)
        layers.append(nn.Conv2d(maps, wider, 3, padding=1, bias=False))
        if block < halvings:
            layers.append(nn.MaxPool2d(2))
            height, breadth = height // 2, breadth // 2
        layers += [nn.BatchNorm2d(wider), nn.ReLU(inplace=True)]
        maps = wider
    size = maps * height * breadth if flat else maps
    return nn.Sequential(
        *layers, nn.Flatten() if flat else GlobalMax(), nn.Dropout(dropout), nn.Linear(size, n_classes)
    )


picture_flat: Network = partial(picture)
picture_flat_wide: Network = partial(picture, width=32)
picture_pooled: Network = partial(picture, flat=False)
picture_pooled_wide: Network = partial(picture, width=32, flat=False)


def picture_residual(
    input_shape: tuple[int, ...], n_classes: int, *, dropout: float = 0.0, width: int = 16
) -> nn.Module:
    """A small residual network (He et al., CVPR 2016): a convolution and a pooling that each halve the picture, then
    blocks named 4, 5 and 6 of `width`, twice and four times as many maps; the second and third halve it again.
    """
    from torch import nn

    from portcullis_ml.models.layers import Channels, GlobalMean, Residual

    _, _, maps = image_shape(input_shape)
    return nn.Sequential(
        Channels(first=channels_first(input_shape)),
        nn.BatchNorm2d(maps, affine=False),
        nn.Conv2d(maps, width, 3, 2, padding=1, bias=False),
        nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
        Residual(width, width),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        GlobalMean(),
        nn.Dropout(dropout),
        nn.Linear(4 * width, n_classes),
    )


def picture_resnet9_of(
    input_shape: tuple[int, ...], n_classes: int, *, dropout: float = 0.0, width: int = 8
) -> nn.Module:
    """Eight convolutions of 3x3 and a linear layer, made to be trained fast (David Page, "How to Train Your ResNet").

    Maps grow from `width` to eight times as many; three poolings by 2, and a residual pair after the first and third.
    """
    from torch import nn

    from portcullis_ml.models.layers import Channels, GlobalMax, Residual

    def convolution(maps: int, wider: int, *, pooled: bool) -> list[nn.Module]:
        pooling: list[nn.Module] = [nn.MaxPool2d(2)] if pooled else []
        block = [nn.Conv2d(maps, wider, 3, padding=1, bias=False), *pooling, nn.BatchNorm2d(wider)]
        return [*block, nn.ReLU(inplace=True)]

    height, breadth, maps = image_shape(input_shape)
    pooled = [min(height, breadth) >= 2 ** (i + 1) for i in range(3)]
    return nn.Sequential(
        Channels(first=channels_first(input_shape)),
        nn.BatchNorm2d(maps, affine=False),
        *convolution(maps, width, pooled=False),
        *convolution(width, 2 * width, pooled=pooled[0]),
        Residual(2 * width, 2 * width),
        *convolution(2 * width, 4 * width, pooled=pooled[1]),
        *convolution(4 * width, 8 * width, pooled=pooled[2]),
        Residual(8 * width, 8 * width),
        GlobalMax(),
        nn.Dropout(dropout),
        nn.Linear(8 * width, n_classes),
    )


picture_resnet9: Network = partial(picture_resnet9_of)
picture_resnet9_wide: Network = partial(picture_resnet9_of, width=16)
