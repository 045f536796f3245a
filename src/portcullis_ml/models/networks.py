"""Small networks by name: factories `(input_shape, n_classes, *, dropout=0.0) -> torch.nn.Module`.

The victims of Juuti et al. "PRADA: Protecting against DNN Model Stealing Attacks" (arXiv 1805.02628v1), Tables 1
and 3, and small ones for 8x8 digits, for many pictures of 32x32, for flat rows and for tables.

A module maps (n, *input_shape) float32 to (n, n_classes) logits; images come as (n, H, W), (n, H, W, C) or (n, C, H, W)
and the network moves the channel axis itself. `dropout` stands in front of every fully connected layer, as in the
paper's strategy *d*.

How we read the tables. "conv2-64" is a convolution with kernel 2 and 64 feature maps, as "maxpool2" is a pooling of
2; ReLU follows every block; nothing is padded. That gives 471,426 parameters where Table 3 prints 486,011 for
"4 layers"; no kernel and padding that we tried meets the printed figure. 1 and 2 layers give 7,850 and 159,010
where 7,851 and 159,011 are printed. Rows with a single cell are lost from the text that we have: the first
convolution of "5 layers" is taken to be conv2-32 with a maxpool2, and the last row of the GTSRB column of Table 1
to be FC-43, one for every class.
"""

from __future__ import annotations

import math
import re
from functools import partial
from typing import TYPE_CHECKING, Protocol

from portcullis_ml.catalog import Catalog
from portcullis_ml.core.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LARGE", "NETWORKS", "Network", "build_network", "channels_first", "image_shape", "plain_network"]

MOST_CHANNELS = 4  # of a picture: an axis in front that is no longer than this, before two longer ones, is that
LARGE = 16  # a picture whose shorter side has at least this many pixels gets the larger network


class Network(Protocol):
    """A factory of modules."""

    def __call__(self, input_shape: tuple[int, ...], n_classes: int, *, dropout: float = 0.0) -> nn.Module: ...


def stack(
    input_shape: tuple[int, ...],
    n_classes: int,
    *,
    dropout: float = 0.0,
    maps: tuple[int, ...] = (),
    hidden: tuple[int, ...] = (),
    kernel: int = 2,
    standardize: bool = False,
) -> nn.Module:
    """Convolution, pooling by 2 and ReLU for each of `maps`; then a fully connected layer and ReLU for each of
    `hidden`; then the logits. `standardize` brings every input to mean 0 and deviation 1 first."""
    from torch import nn

    from portcullis_ml.models.layers import Channels, ConvPool, Standardize

    layers: list[nn.Module] = [Standardize(input_shape)] if standardize else []
    width = math.prod(input_shape)
    if maps:
        height, breadth, channels = image_shape(input_shape)
        layers.append(Channels(first=channels_first(input_shape)))
        for wider in maps:
            layers.append(ConvPool(channels, wider, kernel))
            height, breadth, channels = (height - kernel + 1) // 2, (breadth - kernel + 1) // 2, wider
        width = channels * height * breadth
        if min(height, breadth) < 1:
            raise InputError(
                f"Images of {input_shape} are too small for {len(maps)} poolings. Take a shallower network."
            )
    layers.append(nn.Flatten())
    for size in (*hidden, n_classes):
        layers += [nn.Dropout(dropout), nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers[:-1])


def channels_first(input_shape: tuple[int, ...]) -> bool:
    """Whether pictures of this shape are (C, H, W), as PyTorch has them, and not (H, W, C)."""
    return len(input_shape) == 3 and input_shape[0] <= MOST_CHANNELS < min(input_shape[1:])


def image_shape(input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, breadth, channels) of a picture. Raises InputError for what is none."""
    if len(input_shape) not in (2, 3):
        raise InputError(
            f"A convolutional network takes images of shape (H, W), (H, W, C) or (C, H, W); got {input_shape}. "
            "For tables use the network 'table_mlp'."
        )
    if channels_first(input_shape):
        return input_shape[1], input_shape[2], input_shape[0]
    return (*input_shape, 1)[:3]  # type: ignore[return-value]


def one_of(
    input_shape: tuple[int, ...], n_classes: int, *, dropout: float = 0.0, factory: Network, members: int
) -> nn.Module:
    """Several networks of a kind, each with weights of its own; eight turns each along the line that chooses."""
    from portcullis_ml.models.layers import OneOf

    return OneOf([factory(input_shape, n_classes, dropout=dropout) for _ in range(members)], input_shape, 8 * members)


digits_cnn: Network = partial(stack, maps=(32,), hidden=(64,), kernel=3)
mlp: Network = partial(stack, hidden=(128, 128))
table_mlp: Network = partial(stack, hidden=(128, 128), standardize=True)
prada_1_layer: Network = partial(stack)
prada_2_layers: Network = partial(stack, hidden=(200,))
prada_3_layers: Network = partial(stack, maps=(32,), hidden=(200,))
prada_4_layers: Network = partial(stack, maps=(32, 64), hidden=(200,))
prada_5_layers: Network = partial(stack, maps=(32, 64, 128), hidden=(200,))
prada_gtsrb: Network = partial(stack, maps=(32, 64), hidden=(200, 100))
prada_mnist = prada_4_layers
small_cnn: Network = partial(stack, maps=(8, 16), hidden=(64,), kernel=3)

NETWORKS = Catalog(
    "networks",
    {
        name: f"portcullis_ml.models.networks:{name}"
        for name in (
            "digits_cnn",
            "mlp",
            "prada_1_layer",
            "prada_2_layers",
            "prada_3_layers",
            "prada_4_layers",
            "prada_5_layers",
            "prada_gtsrb",
            "prada_mnist",
            "small_cnn",
            "table_mlp",
        )
    }
    | {
        f"picture_{kind}": f"portcullis_ml.models.picture_networks:picture_{kind}"
        for kind in ("flat", "flat_wide", "pooled", "pooled_wide", "residual", "resnet9", "resnet9_wide")
    },
)


def plain_network(input_shape: tuple[int, ...]) -> str:
    """The published network, without batch normalisation, that suits pictures of this shape."""
    height, breadth, channels = image_shape(input_shape)
    return "digits_cnn" if min(height, breadth) < LARGE else "prada_gtsrb" if channels > 1 else "prada_mnist"


def build_network(name: str, input_shape: tuple[int, ...], n_classes: int, *, dropout: float = 0.0) -> nn.Module:
    """The network of that name, or of "my_package.module:factory", with fresh weights from torch's generator.

    "one_of_5_table_mlp" is five of the network behind it, of which one answers each row (`layers.OneOf`).
    "quantised_4_mlp" is the network behind it with its inputs moved to 4 levels first (`layers.Quantise`),
    "quantised_4_trained_mlp" the same with cuts between levels that are trained.
    "a + b" is a blend of the networks a and b: the mean of their log-probabilities.
    Convolutions keep their weights channels last, which is twice as fast on a CPU.
    """
    if "+" in name:
        from portcullis_ml.models.layers import Blend

        parts = [part.strip() for part in name.split("+")]
        return Blend([build_network(part, input_shape, n_classes, dropout=dropout) for part in parts])
    if quantised := re.fullmatch(r"quantised_(\d+)_(trained_)?(\w+)", name):
        from torch.nn import Sequential

        from portcullis_ml.models.layers import Quantise

        behind = build_network(quantised[3], input_shape, n_classes, dropout=dropout)
        return Sequential(Quantise(tuple(input_shape), int(quantised[1]), trained=bool(quantised[2])), behind)
    several = re.fullmatch(r"one_of_(\d+)_(\w+)", name)
    factory: Network = NETWORKS.load(several[2] if several else name)
    if several:
        factory = partial(one_of, factory=factory, members=int(several[1]))
    try:
        module = factory(tuple(input_shape), n_classes, dropout=dropout)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the network {name!r}", error.name or "torch") from error
    from torch import channels_last

    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=channels_last)  # contiguous() skips one channel
    return module
