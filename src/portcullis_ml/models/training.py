"""What every training of a PyTorch network here begins with: its seeds, and the layers that scale inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from portcullis_ml.core.errors import MissingExtra

try:
    import torch
    from torch import Tensor, nn

    from portcullis_ml.models.layers import Quantise, Standardize
except ModuleNotFoundError as error:
    raise MissingExtra("A PyTorch model", "torch") from error

__all__ = ["measure", "seeded"]


@contextmanager
def seeded(rng: np.random.Generator, device: str) -> Iterator[None]:
    """Torch's generators seeded from `rng` inside, and as they were before outside."""
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    seed = int(rng.integers(2**63))
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(cuda[0]):
                torch.cuda.manual_seed(seed)
        yield


def measure(module: nn.Module, rows: Tensor) -> None:
    """Let the layers that scale inputs see the rows once."""
    for layer in module.modules():
        if isinstance(layer, Quantise | Standardize):
            layer.measure(rows.to(next(layer.buffers()).device))
