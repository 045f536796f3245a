"""A small generator of inputs of a class: a conditional variational autoencoder, trained on rows and their labels.

Sohn, Lee, Yan. "Learning Structured Output Representation using Deep Conditional Generative Models", NeurIPS 2015;
Kingma, Welling. "Auto-Encoding Variational Bayes", ICLR 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.core.types import Array, Labels
from portcullis_ml.models.torch_model import keep_memory
from portcullis_ml.models.training import seeded

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtra("A generator", "torch") from error

__all__ = ["Generator", "GeneratorLearner"]


class _Autoencoder(nn.Module):
    """(n, width) rows in [0, 1] and (n, classes) one-hot labels -> logits of the rows, mean and log variance."""

    def __init__(self, width: int, classes: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width + classes, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent + classes, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encoder(torch.cat([x, labels], 1)).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (spread / 2).exp()
        return self.decoder(torch.cat([z, labels], 1)), mean, spread


@dataclass(frozen=True)
class Generator:
    """A trained decoder: `sample` draws rows of a class."""

    module: _Autoencoder
    classes: int
    latent: int

    def sample(self, labels: Labels, *, rng: np.random.Generator) -> Array:
        """(n, width) rows in [0, 1], one of each label (n,)."""
        z = np.concatenate([rng.normal(size=(len(labels), self.latent)), np.eye(self.classes)[labels]], axis=1)
        with torch.inference_mode():
            drawn = torch.sigmoid(self.module.decoder(torch.tensor(z, dtype=torch.float32)))
        return drawn.numpy().astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class GeneratorLearner:
    """How a generator is trained: by Adam on the evidence lower bound, every pixel a share of black and white."""

    hidden: int = 256  # units of encoder and decoder
    latent: int = 16  # numbers behind a row, beside its class
    epochs: int = 20
    batch: int = 64
    lr: float = 1e-3

    def fit(self, x: Array, labels: Labels, classes: int, *, rng: np.random.Generator) -> Generator:
        """x (n, width) in [0, 1], labels (n,) below `classes`; a function of all three and of `rng`."""
        keep_memory()
        with seeded(rng, "cpu"):
            module = _Autoencoder(x.shape[1], classes, self.hidden, self.latent)
            optimizer = torch.optim.Adam(module.parameters(), self.lr, fused=True)
            rows = torch.tensor(x, dtype=torch.float32)
            told = F.one_hot(torch.tensor(labels), classes).float()
            for _ in range(self.epochs):
                order = torch.tensor(rng.permutation(len(x)))
                for start in range(0, len(x), self.batch):
                    part = order[start : start + self.batch]
                    optimizer.zero_grad()
                    _loss(module, rows[part], told[part]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        return Generator(module.eval(), classes, self.latent)


def _loss(module: _Autoencoder, x: Tensor, labels: Tensor) -> Tensor:
    """The negative evidence lower bound, for each row."""
    logits, mean, spread = module(x, labels)
    wrong: Tensor = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    far: Tensor = 0.5 * (mean**2 + spread.exp() - 1 - spread).sum()
    bound: Tensor = wrong + far
    return bound / len(x)
