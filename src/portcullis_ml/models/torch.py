"""The thief's trainer of PyTorch networks; how a module is asked is in `torch_model.py`.

Torch is seeded only inside a fork of its generator, from the caller's `rng`; the generators of torch, numpy and
`random` and the number of threads are left as they were.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Model
from portcullis_ml.models.networks import NETWORKS, build_network
from portcullis_ml.models.schedules import SCHEDULES, rate_at

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from portcullis_ml.models.picture_training import augmented
    from portcullis_ml.models.torch_model import TorchModel, keep_memory
    from portcullis_ml.models.training import measure, seeded
except ModuleNotFoundError as error:
    raise MissingExtra("A PyTorch model", "torch") from error

__all__ = ["TorchLearner", "TorchModel"]


@dataclass(frozen=True, kw_only=True)
class TorchLearner:
    """Trains a network by name on soft targets or labels; always a new model, a function of (x, targets, rng)."""

    suffix: ClassVar[str] = ".safetensors"  # what `save_model` writes for its models

    network: str = "prada_mnist"  # a name in NETWORKS or "my_package.module:factory"
    epochs: int = 200  # passes over the rows
    batch: int = 64  # rows in a step
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3  # the greatest step; PRADA's victims took 0.01
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"  # of the step: the others end at 0
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0  # L2 penalty; of adamw the share of a weight that a step takes off, times lr
    shift: int = 0  # pixels by which pictures are moved at most while training
    mirror: bool = False  # whether half of the pictures are turned left to right while training
    dropout: float = 0.0  # in front of fully connected layers while training (the strategy d)
    targets: Literal["soft", "labels"] = "soft"  # KL to the distributions given (p), or NLL of their argmax
    patience: int | None = None  # stop after so many epochs without a better validation loss; None trains to the end
    validation: float = 0.1  # share of the rows given that early stopping sets aside
    device: str = "cpu"  # or "cuda"
    mixed: bool = False  # train in bfloat16 where that is exact enough; on a GPU only

    def __post_init__(self) -> None:
        check(self, "epochs", "an int of at least 1", lambda v: v >= 1)
        check(self, "batch", "an int of at least 1", lambda v: v >= 1)
        check(self, "optimizer", "'adam', 'adamw' or 'sgd'", lambda v: v in ("adam", "adamw", "sgd"))
        check(self, "lr", "above 0", lambda v: v > 0)
        check(self, "schedule", f"one of {', '.join(SCHEDULES)}", lambda v: v in SCHEDULES)
        check(self, "momentum", "in [0, 1)", lambda v: 0 <= v < 1)
        check(self, "weight_decay", "at least 0", lambda v: v >= 0)
        check(self, "shift", "an int of at least 0", lambda v: isinstance(v, int) and v >= 0)
        check(self, "mirror", "True or False", lambda v: isinstance(v, bool))
        check(self, "dropout", "in [0, 1)", lambda v: 0 <= v < 1)
        check(self, "targets", "'soft' or 'labels'", lambda v: v in ("soft", "labels"))
        check(self, "patience", "at least 1, or None", lambda v: v is None or v >= 1)
        check(self, "validation", "in (0, 1)", lambda v: 0 < v < 1)
        check(self, "mixed", "False unless the device is a GPU", lambda v: v is False or self.device.startswith("cuda"))

    def online(self) -> TorchLearner:
        """The same learner as it goes once over rows that have just been answered."""
        return replace(self, epochs=1, patience=None, schedule="constant")

    def incremental(self) -> Any:
        """A network that learns rows as they come, with `partial_fit` (an `IncrementalNetwork`)."""
        from portcullis_ml.models.incremental import IncrementalNetwork

        return IncrementalNetwork(self)

    def fit(
        self,
        x: Array,
        targets: Array,
        *,
        rng: np.random.Generator,
        start: Model | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TorchModel:
        """x (n, *input_shape), targets (n, n_classes) distributions; rows whose target is all zero (withheld
        answers) are left out. `start` is a TorchModel of the same network to begin from. progress(epoch, epochs)."""
        keep_memory()
        rows, goals = self.tensors(x, targets)
        if (self.shift or self.mirror) and rows.ndim < 3:
            raise InputError(
                f"shift and mirror move pictures; rows of {tuple(rows.shape[1:])} are none. Leave them at 0 and False."
            )
        with seeded(rng, self.device):
            module = self.begun(start, tuple(x.shape[1:]), targets.shape[1])
            if start is None:
                measure(module, rows)
            module = module.to(self.device).train()
            self.train(module, rows, goals, rng, progress)
        return TorchModel(module, tuple(x.shape[1:]), targets.shape[1], device=self.device, network=self.network)

    def begun(self, start: Model | None, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """A new module with fresh weights, or with those of `start`, which is left alone."""
        if isinstance(start, TorchModel) and self.network in NETWORKS and self.dropout == 0:
            if (start.network, start.input_shape, start.n_classes) == (self.network, shape, n_classes):
                return copy.deepcopy(start.module).requires_grad_(True)  # faster than building it anew
        module = build_network(self.network, shape, n_classes, dropout=self.dropout)
        if start is not None:
            _copy(start, module)
        return module

    def tensors(self, x: Array, targets: Array) -> tuple[Tensor, Tensor]:
        """Rows and goals on the device, without rows whose target is all zero. InputError for bad rows."""
        x, targets = np.asarray(x), np.asarray(targets)
        if targets.ndim != 2 or len(targets) != len(x) or targets.shape[1] < 2:
            raise InputError(
                f"Targets were expected to be ({len(x)}, n_classes), one distribution for each row of x; "
                f"got {targets.shape}."
            )
        known = targets.sum(axis=1) > 0
        if not known.any():
            raise InputError("A learner needs at least one row with a target; got none.")
        if not (np.isfinite(x).all() and np.isfinite(targets).all()):
            raise InputError("A learner takes finite numbers; got NaN or infinity. Drop those rows first.")
        rows = torch.tensor(x[known], dtype=torch.float32, device=self.device)
        if self.targets == "labels":
            return rows, torch.tensor(targets[known].argmax(axis=1), device=self.device)
        return rows, torch.tensor(targets[known], dtype=torch.float32, device=self.device)

    def train(
        self,
        module: nn.Module,
        x: Tensor,
        goals: Tensor,
        rng: np.random.Generator,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Train this module, which is in training mode, on rows (n, *input_shape) that are on its device."""
        optimizer = self.optimizer_for([w for w in module.parameters() if w.requires_grad])
        held = rng.permutation(len(x))[: round(self.validation * len(x))] if self.patience else np.empty(0, np.int64)
        kept = np.setdiff1d(np.arange(len(x)), held)
        best, best_state, since = math.inf, None, 0
        for epoch in range(self.epochs):
            self.one_epoch(module, optimizer, x, goals, kept[rng.permutation(len(kept))], epoch)
            if progress:
                progress(epoch + 1, self.epochs)
            if len(held):
                loss = _loss(module, x, goals, held)
                since += 1
                if loss < best:
                    best, best_state, since = loss, {k: v.clone() for k, v in module.state_dict().items()}, 0
                if since == self.patience:
                    break
        if best_state:
            module.load_state_dict(best_state)

    def one_epoch(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        goals: Tensor,
        order: NDArray[np.int64],
        epoch: int,
    ) -> None:
        """One pass over the rows in this order. NLL for class indices, KL up to a constant for distributions."""
        batches = torch.split(torch.from_numpy(order).to(x.device), self.batch)
        for step, rows in enumerate(batches):
            if self.schedule != "constant":
                done = (epoch * len(batches) + step + 0.5) / (self.epochs * len(batches))
                optimizer.param_groups[0]["lr"] = self.lr * rate_at(self.schedule, done)
            optimizer.zero_grad(set_to_none=True)
            pictures = x[rows]
            if self.shift or self.mirror:
                pictures = augmented(pictures, self.shift, self.mirror)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed):
                loss = F.cross_entropy(module(pictures), goals[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def optimizer_for(self, weights: Iterable[Tensor]) -> Any:
        """A fresh optimizer of these weights, as the settings say."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(weights, self.lr, self.momentum, weight_decay=self.weight_decay, fused=True)
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(weights, self.lr, weight_decay=self.weight_decay, fused=True)


def _loss(module: nn.Module, x: Tensor, goals: Tensor, rows: NDArray[np.int64]) -> float:
    """The loss on these rows, without dropout."""
    module.eval()
    with torch.inference_mode():
        parts = [
            F.cross_entropy(module(x[part]), goals[part], reduction="sum")
            for part in torch.split(torch.from_numpy(rows).to(x.device), 512)
        ]
    module.train()
    return float(torch.stack(parts).sum()) / len(rows)


def _copy(start: Model, module: nn.Module) -> None:
    """Begin from the weights of `start`, which is left alone."""
    if not isinstance(start, TorchModel):
        raise InputError(f"start must be a TorchModel of the same network; got {type(start).__name__}.")
    try:
        module.load_state_dict(start.module.state_dict())
    except RuntimeError as error:
        raise InputError("start must be a model of the same network; its weights do not fit this one.") from error
