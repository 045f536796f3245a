"""Contrastive learning of a network's features, with and without answers: what SwiftThief adds to training.

Lee, Han, Lee. "SwiftThief: Enhancing Query Efficiency of Model Stealing by Contrastive Learning", IJCAI 2024; Chen and
He, "Exploring Simple Siamese Representation Learning", CVPR 2021, algorithm 1.

The features are what the network's last linear layer takes. A projector and a predictor behind them are trained with
them, and thrown away in the end. Nothing here touches a victim: rows and the answers to some of them come in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array
from portcullis_ml.models.torch import TorchModel
from portcullis_ml.models.training import seeded

__all__ = [
    "Contrast",
    "Lessons",
    "Opened",
    "class_costs",
    "features",
    "last_layer",
    "pair_weights",
    "siamese",
    "soft_contrast",
]

View = Callable[[Tensor], Tensor]  # rows -> the same rows, changed at random
MOMENTUM, DECAY = 0.9, 5e-4  # of SGD
UNASKED, ASKED = 512, 256  # rows in a step
STEP = 0.01  # of an adversarial view, as a share of each input's range
BETA = 0.99  # of the costs: how soon further rows of a class stop counting
ADVERSARIAL = 0.01  # weight of the loss on adversarial views
LEAST = 1e-6  # a pair of smaller weight is no pair


class Opened(Protocol):
    """A model whose learning part can be trained further by somebody else, see `TorchModel`."""

    def duplicate(self) -> TorchModel: ...


def siamese(p1: Tensor, z1: Tensor, p2: Tensor, z2: Tensor) -> Tensor:
    """(n,) the loss of two views of each row: p (n, d) predictions, z (n, d) projections, which get no gradient."""
    one, two = F.cosine_similarity(p1, z2.detach()), F.cosine_similarity(p2, z1.detach())
    return -(one + two) / 2


def pair_weights(y: Tensor) -> Tensor:
    """(n, n) how much a pair of answers y (n, c) should attract: both certain and alike 1, one of them uniform 0."""
    certain: Tensor = (1 - torch.special.entr(y).sum(1) / math.log(y.shape[1])).clamp(min=0)
    alike = F.normalize(y)
    return certain[:, None] * certain * (alike @ alike.T)


def soft_contrast(p: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """The mean over pairs of different rows of minus their weight times the cosine of prediction and projection."""
    weights = pair_weights(y).fill_diagonal_(0)
    weights = torch.where(weights > LEAST, weights, torch.zeros_like(weights))
    cosines = F.normalize(p) @ F.normalize(z.detach()).T
    return -(weights * cosines).sum() / (weights > 0).sum().clamp(min=1)


def class_costs(counts: NDArray[np.int64]) -> Array:
    """(c,) the cost of a row of each class, by how many were answered with it: the rarer the dearer; their sum is 1."""
    costs = (1 - BETA) / (1 - BETA ** (np.asarray(counts, np.float64) + 1))
    return np.asarray(costs / costs.sum())


def last_layer(module: nn.Module, row: Tensor) -> nn.Linear:
    """The linear layer that gives the network's output. Raises InputError where there is none."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    given: list[Tensor] = []
    handle = layers[-1].register_forward_hook(lambda _, __, output: given.append(output)) if layers else None
    training = module.training
    with torch.no_grad():
        output = module.eval()(row)
    module.train(training)
    if handle is not None:
        handle.remove()
    if not given or given[-1] is not output:
        raise InputError(
            "Contrastive learning needs a network that ends in one linear layer, whose inputs are its features; this "
            "one does not. Name another network."
        )
    return layers[-1]


class _Body(nn.Module):
    """What a network gives its last linear layer: rows -> (n, width)."""

    def __init__(self, module: nn.Module, row: Tensor) -> None:
        super().__init__()
        self.module = module
        self._last = [last_layer(module, row)]  # in a list, so that it is not registered a second time

    def forward(self, x: Tensor) -> Tensor:
        taken: list[Tensor] = []
        handle = self._last[0].register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            self.module(x)
        finally:
            handle.remove()  # hooks would travel with copies of the network
        return taken[-1].flatten(1)


def features(model: Opened, x: Array, part: int = 512) -> Array:
    """(n, width) the features of rows."""
    copy = model.duplicate()
    body = _Body(copy.learning, copy.entered(x[:1])).eval()
    with torch.inference_mode():
        parts = [body(copy.entered(x[i : i + part])).double().cpu().numpy() for i in range(0, len(x), part)]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Lessons:
    """What features are trained on: rows without answers, rows with answers (n, c), how many each class had (c,)."""

    unasked: Array
    asked: Array
    answers: Array
    counts: NDArray[np.int64]


class Contrast:
    """Trains the features of one network after another; keeps its projector and how far the learning rate has come.

    view    makes a changed copy of rows
    width   of the projections
    rate    the learning rate of the first step; it falls to 0 by a cosine over `epochs` passes in all
    """

    def __init__(self, view: View, *, width: int, rate: float, epochs: int) -> None:
        self._view, self._width, self._rate, self._epochs = view, width, rate, epochs
        self._done = 0
        self._ends: tuple[nn.Module, nn.Module] | None = None

    def __call__(self, model: Opened, lessons: Lessons, *, epochs: int, rng: np.random.Generator) -> TorchModel:
        """The same model with features trained for so many passes over the rows without answers.

        The model given is left alone. Fewer than two rows teach nothing.
        """
        copy = model.duplicate()
        with seeded(rng, copy.device):
            unasked, asked = copy.entered(lessons.unasked), copy.entered(lessons.asked)
            answers, costs = (
                torch.tensor(a, dtype=torch.float32, device=copy.device)
                for a in (lessons.answers, class_costs(lessons.counts))
            )
            if len(unasked) >= 2 and epochs:
                self._train(copy.learning, unasked, asked, answers, costs, epochs)
        copy.learning.eval().requires_grad_(False)
        return copy

    def _train(
        self, module: nn.Module, unasked: Tensor, asked: Tensor, answers: Tensor, costs: Tensor, epochs: int
    ) -> None:
        body = _Body(module.requires_grad_(True), unasked[:1]).train()
        projector, predictor = self._ends = self._ends or _ends(body, unasked[:2], self._width)
        siblings = _Siblings(body, projector.train(), predictor.train(), _spread(unasked))
        weights = [w for part in (body, projector, predictor) for w in part.parameters() if w.requires_grad]
        optimizer = torch.optim.SGD(weights, self._rate, momentum=MOMENTUM, weight_decay=DECAY)
        turns = _Turns(len(asked))
        for _ in range(epochs):
            optimizer.param_groups[0]["lr"] = self._rate * (1 + math.cos(math.pi * self._done / self._epochs)) / 2
            self._done += 1
            for part in torch.split(torch.randperm(len(unasked)).to(unasked.device), UNASKED):
                if len(part) < 2:
                    continue
                optimizer.zero_grad(set_to_none=True)
                loss = siblings.loss(self._view(unasked[part]), self._view(unasked[part])).mean()
                if len(asked) >= 2:
                    chosen = turns.next().to(asked.device)
                    loss = loss + siblings.loss_of_answers(
                        self._view(asked[chosen]), self._view(asked[chosen]), answers[chosen], costs
                    )
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()


class _Siblings:
    """A network's features, the projector and the predictor behind them, and their losses."""

    def __init__(self, body: nn.Module, projector: nn.Module, predictor: nn.Module, spread: Tensor) -> None:
        self._body, self._projector, self._predictor, self._spread = body, projector, predictor, spread

    def loss(self, one: Tensor, two: Tensor) -> Tensor:
        """(n,) of two views without answers."""
        (p1, z1), (p2, z2) = self._ends(one), self._ends(two)
        return siamese(p1, z1, p2, z2)

    def loss_of_answers(self, one: Tensor, two: Tensor, answers: Tensor, costs: Tensor) -> Tensor:
        """Of two views with answers: the soft contrast, and the loss of adversarial views by the costs of classes."""
        (p1, z1), (p2, z2) = self._ends(one), self._ends(two)
        soft = soft_contrast(torch.cat([p1, p2]), torch.cat([z1, z2]), torch.cat([answers, answers]))
        against = self.loss(self._adversarial(one, two), two)
        return soft + ADVERSARIAL * (costs[answers.argmax(1)] * against).mean()

    def _adversarial(self, one: Tensor, two: Tensor) -> Tensor:
        """The first views, each moved a step that makes the loss greater; the network is in evaluation mode for it."""
        self._mode(training=False)
        moved = one.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.loss(moved, two).sum(), moved)
        self._mode(training=True)
        return (moved + STEP * self._spread * slope.sign()).detach()

    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self._projector(self._body(x))
        return self._predictor(z), z

    def _mode(self, *, training: bool) -> None:
        for part in (self._body, self._projector, self._predictor):
            part.train(training)


class _Turns:
    """Rows with answers, a batch at a time and for ever, in a new order each time round."""

    def __init__(self, n: int) -> None:
        self._n, self._batch = n, min(ASKED, n)
        self._waiting = torch.empty(0, dtype=torch.int64)

    def next(self) -> Tensor:
        if len(self._waiting) < self._batch:
            self._waiting = torch.randperm(self._n)
        taken, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        return taken


def _ends(body: nn.Module, rows: Tensor, width: int) -> tuple[nn.Module, nn.Module]:
    """A projector of two layers and a predictor with a narrow middle."""
    with torch.no_grad():
        taken = body.eval()(rows).shape[1]
    body.train()
    middle = max(width // 4, 1)
    projector = nn.Sequential(
        nn.Linear(taken, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False),
    )  # fmt: skip
    predictor = nn.Sequential(
        nn.Linear(width, middle, bias=False), nn.BatchNorm1d(middle), nn.ReLU(), nn.Linear(middle, width)
    )
    return projector.to(rows.device), predictor.to(rows.device)


def _spread(x: Tensor) -> Tensor:
    """The range of every input."""
    return x.amax(0) - x.amin(0)
