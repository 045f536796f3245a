"""The networks: shapes, published sizes, and the pooling trick against the plain layers."""

import numpy as np
import pytest
import torch
from torch import nn

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.layers import ConvPool
from portcullis_ml.models.networks import NETWORKS, build_network


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3)])
def test_every_network_maps_images_to_logits(name, shape):
    module = build_network(name, shape, 7, dropout=0.3)
    assert module(torch.zeros(2, *shape)).shape == (2, 7)


def test_sizes_beside_the_paper():
    sizes = [parameters(build_network(f"prada_{n}_layer{'s' * (n > 1)}", (28, 28), 10)) for n in (1, 2, 3, 4)]
    assert sizes[:2] == [7_851 - 1, 159_011 - 1]  # Table 3 prints one more
    assert sizes[3] == 471_426  # printed: 486,011, see the head of networks.py
    assert parameters(build_network("prada_mnist", (28, 28), 10)) == sizes[3]


def test_gtsrb_ends_in_three_fully_connected_layers():
    layers = [m for m in build_network("prada_gtsrb", (32, 32, 3), 43).modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in layers] == [200, 100, 43]


def test_dropout_stands_before_every_fully_connected_layer():
    layers = list(build_network("prada_gtsrb", (32, 32, 3), 43, dropout=0.5))
    before = [layers[i - 1] for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    assert [type(layer) for layer in before] == [nn.Dropout] * 3
    assert {layer.p for layer in before} == {0.5}


def test_pooling_before_relu_is_relu_before_pooling():
    layer = ConvPool(3, 5, 2)
    x = torch.randn(4, 3, 9, 11, requires_grad=True)
    plain = nn.functional.max_pool2d(torch.relu(nn.functional.conv2d(x, layer.weight, layer.bias)), 2)
    torch.testing.assert_close(layer(x), plain)
    weights = torch.randn_like(plain)
    for ours, theirs in zip(
        torch.autograd.grad((layer(x) * weights).sum(), [x, *layer.parameters()]),
        torch.autograd.grad((plain * weights).sum(), [x, *layer.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_colours_are_read_channel_by_channel():
    module = build_network("prada_3_layers", (6, 6, 2), 2)
    x = np.random.default_rng(0).random((3, 6, 6, 2)).astype(np.float32)
    first = module[1]
    plain = torch.relu(
        nn.functional.max_pool2d(
            nn.functional.conv2d(torch.tensor(x.transpose(0, 3, 1, 2).copy()), first.weight, first.bias), 2
        )
    )
    torch.testing.assert_close(module[1](module[0](torch.tensor(x))), plain)


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3)])
def test_images_flow_channels_last(shape):
    """Not a matter of numbers but of a factor of two in time; a grey image is where it is lost without a word."""
    module = build_network("prada_mnist", shape, 10)
    inner = module[1](module[0](torch.zeros(2, *shape)))
    assert inner.is_contiguous(memory_format=torch.channels_last)
    assert not inner.is_contiguous()
    module.load_state_dict({k: v.clone(memory_format=torch.contiguous_format) for k, v in module.state_dict().items()})
    assert module[1](module[0](torch.zeros(2, *shape))).is_contiguous(memory_format=torch.channels_last)


def test_unfit_shapes_get_a_sentence():
    with pytest.raises(InputError, match=r"takes images of shape \(H, W\), \(H, W, C\) or \(C, H, W\); got \(12,\)"):
        build_network("prada_mnist", (12,), 2)
    with pytest.raises(InputError, match=r"Images of \(4, 4\) are too small for 3 poolings"):
        build_network("prada_5_layers", (4, 4), 2)
