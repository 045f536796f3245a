"""A generator of inputs and the copy that learns from their answers, for thieves who hold no picture.

Arrays in, arrays out. The generator maps noise to inputs within the API's bounds by tanh; what stands before the tanh
is called raw, and gradients are given with respect to that.
"""

from __future__ import annotations

import copy
import math
from typing import Literal

import numpy as np

from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.core.types import Array, Interface

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtra("An attack without data", "torch") from error

from portcullis_ml.models.networks import build_network, channels_first, image_shape
from portcullis_ml.models.torch import TorchModel
from portcullis_ml.models.training import measure, seeded

__all__ = ["Loss", "Players"]

FLOOR = 1e-6  # a probability below it counts as this much, in answers and in the copy's own
MOMENTUM, DECAY = 0.9, 5e-4  # of stochastic gradient descent, as both publications have it

Loss = Literal["l1", "kl"]


class Players:
    """The two networks of the game with their optimizers.

    network    the copy's: a name in NETWORKS or "my_package.module:factory"
    latent     numbers of noise behind an input
    maps       feature maps of the generator
    loss       how answers and copy are compared: "l1" of centred log-probabilities, or "kl"
    optimizer  of the generator; the copy's is stochastic gradient descent
    """

    def __init__(
        self,
        interface: Interface,
        *,
        network: str,
        latent: int,
        maps: int,
        loss: Loss,
        optimizer: Literal["adam", "sgd"],
        rates: tuple[float, float],
        device: str,
        rng: np.random.Generator,
    ) -> None:
        self._shape, self._classes, self._device = interface.input_shape, interface.n_classes, device
        self._network, self._loss, self._rates = network, loss, rates
        low, high = self._tensor(interface.low), self._tensor(interface.high)
        self._middle, self._reach = (low + high) / 2, (high - low) / 2
        with seeded(rng, device):
            self._generator = generator_for(self._shape, latent, maps).to(device)
            self._copy = build_network(network, self._shape, self._classes).to(device)
        measure(self._copy, self._tensor(interface.uniform(1000, rng)))
        weights = self._generator.parameters()
        if optimizer == "adam":
            self._moves: torch.optim.Optimizer = torch.optim.Adam(weights, rates[0])
        else:
            self._moves = torch.optim.SGD(weights, rates[0], MOMENTUM, weight_decay=DECAY)
        self._learns = torch.optim.SGD(self._copy.parameters(), rates[1], MOMENTUM, weight_decay=DECAY)
        self._raw = torch.empty(0)

    def slow_down(self, share: float) -> None:
        """Take this share of the first step sizes from now on."""
        for optimizer, rate in zip((self._moves, self._learns), self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share

    def raw(self, z: Array) -> Array:
        """(n, latent) noise -> (n, d) what the generator says before the tanh; `move` goes through these rows."""
        self._raw = self._generator.train()(self._tensor(z)).flatten(1)
        return self._raw.detach().double().cpu().numpy()

    def inputs(self, raw: Array) -> Array:
        """(n, d) -> (n, *input_shape) within the API's bounds."""
        squashed = np.tanh(raw) * self._reach.double().cpu().numpy() + self._middle.double().cpu().numpy()
        return np.asarray(squashed).reshape(len(raw), *self._shape)

    def losses(self, x: Array, targets: Array) -> Array:
        """(n,) how far the copy is from the answers `targets` (n, n_classes) at each row; it is in eval mode."""
        with torch.inference_mode():
            return self._compared(self._copy.eval()(self._tensor(x)).double(), targets).cpu().numpy()

    def move(self, gradient: Array) -> None:
        """One step of the generator up this gradient (n, d) of the loss by what `raw` gave last."""
        self._moves.zero_grad(set_to_none=True)
        self._raw.backward(-self._tensor(gradient))  # type: ignore[no-untyped-call]
        self._moves.step()

    def learn(self, x: Array, targets: Array) -> None:
        """One step of the copy towards these answers."""
        if len(x) == 1:  # batch normalisation wants two rows
            x, targets = np.repeat(x, 2, axis=0), np.repeat(targets, 2, axis=0)
        self._learns.zero_grad(set_to_none=True)
        loss = self._compared(self._copy.train()(self._tensor(x)), targets).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self._learns.step()

    def model(self) -> TorchModel:
        """The copy as it stands."""
        module = copy.deepcopy(self._copy)
        return TorchModel(module, self._shape, self._classes, device=self._device, network=self._network)

    def _compared(self, logits: Tensor, targets: Array) -> Tensor:
        own = F.log_softmax(logits, 1)
        given = self._tensor(np.maximum(targets, FLOOR)).to(own.dtype)
        if self._loss == "kl":
            return (given * (given.log() - own)).sum(1)
        given = given.log()
        return ((given - given.mean(1, keepdim=True)) - (own - own.mean(1, keepdim=True))).abs().mean(1)

    def _tensor(self, values: Array) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


def generator_for(input_shape: tuple[int, ...], latent: int, maps: int) -> nn.Module:
    """Noise (n, latent) -> (n, *input_shape) of mean 0 and deviation 1. Pictures grow from a quarter of their size by
    three convolutions, as in both publications; rows of numbers come from one hidden layer."""
    if len(input_shape) == 1:
        hidden = nn.Sequential(nn.Linear(latent, maps), nn.BatchNorm1d(maps), nn.LeakyReLU(0.2))
        return nn.Sequential(hidden, nn.Linear(maps, *input_shape), nn.BatchNorm1d(*input_shape, affine=False))
    height, breadth, channels = image_shape(input_shape)
    quarter, half = ((math.ceil(height / n), math.ceil(breadth / n)) for n in (4, 2))
    return nn.Sequential(
        nn.Linear(latent, maps * math.prod(quarter)),
        nn.Unflatten(1, (maps, *quarter)),
        nn.BatchNorm2d(maps),
        nn.Upsample(half),
        *(nn.Conv2d(maps, maps, 3, padding=1), nn.BatchNorm2d(maps), nn.LeakyReLU(0.2)),
        nn.Upsample((height, breadth)),
        *(nn.Conv2d(maps, max(maps // 2, 1), 3, padding=1), nn.BatchNorm2d(max(maps // 2, 1)), nn.LeakyReLU(0.2)),
        nn.Conv2d(max(maps // 2, 1), channels, 3, padding=1),
        nn.BatchNorm2d(channels, affine=False),
        ChannelsLast(channels_first(input_shape)),
    )


class ChannelsLast(nn.Module):
    """(n, C, H, W) as the API takes pictures: as it is, or with the channels last."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self._first = first

    def forward(self, x: Tensor) -> Tensor:
        return x if self._first else x.permute(0, 2, 3, 1)
