"""One network trained on pictures as practitioners do: one cycle of the learning rate, weight decay, augmentation.

The rate goes through one cycle (`schedules.py`). Augmented pictures keep the targets of those
that they are made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portcullis_ml.models.networks import build_network, channels_first
from portcullis_ml.models.schedules import rate_at

__all__ = ["Recipe", "augmented", "train_network"]

BATCH = 64  # rows in a step at most
STEPS = 8  # in a pass over the rows at least, where there are rows enough for batches of 8
DECAY = 0.02  # of AdamW


@dataclass(frozen=True)
class Recipe:
    """What is trained and how. `shift` is in pixels; `mirror` turns half of the pictures left to right."""

    network: str
    shift: int = 0
    mirror: bool = False
    rate: float = 1e-2  # the greatest learning rate
    effort: float = 1.0  # times as many epochs

    @property
    def kind(self) -> str:
        """The network, whatever its width."""
        return self.network.removesuffix("_wide")

    def __str__(self) -> str:
        words = [self.network, f"shifted by {self.shift}" if self.shift else "", "mirrored" if self.mirror else ""]
        return ", ".join(word for word in words if word)


def train_network(recipe: Recipe, x: Tensor, p: Tensor, epochs: int) -> nn.Module:
    """A new network on pictures x (n, *input_shape) and soft targets p (n, n_classes), in eval mode.

    Weights, order and augmentation come from torch's generator for the CPU. Targets and pictures are float32.
    """
    module = build_network(recipe.network, tuple(x.shape[1:]), p.shape[1]).to(x.device).train()
    optimizer = torch.optim.AdamW(module.parameters(), recipe.rate, weight_decay=DECAY, fused=True)
    batch = min(BATCH, len(x), max(8, len(x) // STEPS))
    epochs = max(1, round(recipe.effort * epochs))
    passes = len(x) // batch  # rows that do not fill a batch wait for the next pass
    for step in range(epochs * passes):
        if step % passes == 0:
            order = torch.randperm(len(x)).to(x.device)
        rows = order[step % passes * batch :][:batch]
        optimizer.param_groups[0]["lr"] = recipe.rate * rate_at("one_cycle", (step + 0.5) / (epochs * passes))
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(module(augmented(x[rows], recipe.shift, recipe.mirror)), p[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.eval().requires_grad_(False)


def augmented(x: Tensor, shift: int, mirror: bool) -> Tensor:
    """x (n, H, W), (n, H, W, C) or (n, C, H, W), each picture moved by up to `shift` pixels (the border is repeated)
    and mirrored by the toss of a coin."""
    if channels_first(tuple(x.shape[1:])):
        return augmented(x.permute(0, 2, 3, 1), shift, mirror).permute(0, 3, 1, 2)
    n, height, breadth = x.shape[:3]
    i = torch.arange(height, device=x.device).expand(n, -1)
    j = torch.arange(breadth, device=x.device).expand(n, -1)
    if shift:
        down, right = (torch.randint(-shift, shift + 1, (n, 1), device="cpu").to(x.device) for _ in range(2))
        i, j = (i + down).clamp(0, height - 1), (j + right).clamp(0, breadth - 1)
    if mirror:
        tossed = torch.rand(n, device="cpu").to(x.device) < 0.5
        j = torch.where(tossed[:, None], j.flip(1), j)
    first = height * torch.arange(n, device=x.device)[:, None, None]
    pixels = (first + i[:, :, None]) * breadth + j[:, None, :]  # of all pictures, one after the other
    return x.reshape(n * height * breadth, -1).index_select(0, pixels.flatten()).view(x.shape)


def log_scores(module: nn.Module, x: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(n, n_classes) the log-probabilities of a network in eval mode."""
    with torch.inference_mode():
        parts = [F.log_softmax(module(rows), 1).double().cpu() for rows in torch.split(x, 512)]
    return torch.cat(parts).numpy()
