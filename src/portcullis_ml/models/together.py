"""Many small networks of one kind trained at once, each on rows of its own: their weights are stacked.

A step of a small network is mostly overhead, and a stack pays it once for all. What cannot be stacked (batch
normalisation keeps statistics, early stopping ends at different times) is trained one after another, and so are larger
convolutions on a CPU, which are slower as a stack (`benchmarks/privacy.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from portcullis_ml.core.types import Array, Labels
from portcullis_ml.models.layers import OneOf
from portcullis_ml.models.networks import LARGE, build_network, image_shape
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.models.torch_model import keep_memory
from portcullis_ml.models.training import measure, seeded

__all__ = ["fit_together", "stackable"]

ALONE = (nn.modules.batchnorm._BatchNorm, OneOf)  # layers that behave otherwise while training


def stackable(learner: TorchLearner, input_shape: tuple[int, ...], n_classes: int) -> bool:
    """Whether networks of this learner can be trained as a stack, and are then no slower."""
    if learner.patience is not None:
        return False
    with torch.device("meta"):
        layers = list(build_network(learner.network, input_shape, n_classes).modules())
    if any(isinstance(layer, ALONE) for layer in layers):
        return False
    small = not any(isinstance(layer, nn.Conv2d) for layer in layers) or min(image_shape(input_shape)[:2]) < LARGE
    return small or learner.device != "cpu"


def fit_together(
    learner: TorchLearner,
    x: Array,
    y: Labels,
    n_classes: int,
    held: NDArray[np.bool_],
    *,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> list[TorchModel]:
    """A model for every row of `held` (models, n), trained on those rows of x and y that it holds.

    Models whose numbers of rows differ leave out, in every epoch, as many at random as they have too many.
    """
    keep_memory()
    shape = tuple(x.shape[1:])
    rows = torch.tensor(x, dtype=torch.float32, device=learner.device)
    goals = torch.tensor(np.asarray(y, np.int64), device=learner.device)
    own = [np.flatnonzero(member) for member in held]
    with seeded(rng, learner.device):
        modules = [build_network(learner.network, shape, n_classes, dropout=learner.dropout) for _ in held]
        for module, mine in zip(modules, own, strict=True):
            measure(module, rows[torch.from_numpy(mine)])
        _train(modules, learner, rows, goals, own, rng, progress)
    return [TorchModel(m, shape, n_classes, device=learner.device, network=learner.network) for m in modules]


def _train(
    modules: list[nn.Module],
    learner: TorchLearner,
    x: Tensor,
    y: Tensor,
    own: list[NDArray[np.int64]],
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> None:
    modules_here = [module.to(learner.device).train() for module in modules]
    weights, buffers = stack_module_state(modules_here)
    base = copy.deepcopy(modules_here[0]).to("meta")
    forward = vmap(lambda w, b, rows: functional_call(base, (w, b), (rows,)), randomness="different")
    optimizer = learner.optimizer_for(weights.values())
    m = min(map(len, own))
    for epoch in range(learner.epochs):
        order = torch.from_numpy(np.stack([rng.permutation(mine)[:m] for mine in own])).to(x.device)
        for chosen in torch.split(order, learner.batch, dim=1):
            optimizer.zero_grad(set_to_none=True)
            logits = forward(weights, buffers, x[chosen])  # (models, batch, classes)
            loss = F.cross_entropy(logits.flatten(0, 1), y[chosen].flatten(), reduction="sum") / chosen.shape[1]
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if progress:
            progress(epoch + 1, learner.epochs)
    for i, module in enumerate(modules):
        module.load_state_dict({name: value[i].detach() for name, value in weights.items()}, strict=False)
