"""A network that learns rows as they come, where training from scratch or on a copy each time would cost more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from portcullis_ml.core.types import Array
from portcullis_ml.models.torch_model import TorchModel
from portcullis_ml.models.training import measure, seeded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["IncrementalNetwork"]


class IncrementalNetwork:
    """One network and one optimizer, made with the first rows, for all that follow. `model` is None before.

    learner   a TorchLearner
    """

    def __init__(self, learner: Any) -> None:
        self._learner = learner.online()
        self.model: TorchModel | None = None

    def partial_fit(self, x: Array, targets: Array, *, rng: np.random.Generator) -> None:
        """Go once over rows (n, *input_shape) with targets (n, n_classes); rows whose target is all zero are left out.

        `model` changes in place. InputError for bad rows, or where no row has a target.
        """
        rows, goals = self._learner.tensors(x, targets)
        with seeded(rng, self._learner.device):
            if self.model is None:
                self._begin(rows, targets.shape[1])
            assert self.model is not None  # begun
            module = self.model.module.train()
            self._learner.one_epoch(module, self._optimizer, rows, goals, rng.permutation(len(rows)), 0)
            module.eval()

    def _begin(self, rows: Tensor, n_classes: int) -> None:
        learner, shape = self._learner, tuple(rows.shape[1:])
        module = learner.begun(None, shape, n_classes)
        measure(module, rows)
        weights = [w for w in module.parameters() if w.requires_grad]
        self.model = TorchModel(module, shape, n_classes, device=learner.device, network=learner.network)
        for w in weights:  # which a TorchModel holds fixed
            w.requires_grad_(True)
        self._optimizer: torch.optim.Optimizer = learner.optimizer_for(weights)
