"""What a thief of protocol dawn does to a copy, or while it is trained, to be rid of marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.removal import REMOVALS, Thief
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Interface, Model, Rows
from portcullis_ml.models import weights
from portcullis_ml.models.torch import TorchLearner, TorchModel

__all__ = ["API", "CLASSES", "Parts", "believes", "fitted", "removed"]

CLASSES = 10
API = Interface(input_shape=(28, 28), n_classes=CLASSES, bounds=(0.0, 1.0))
TUNED = {
    "FTAL": "trained on with own labelled rows (FTAL)",
    "RTAL": "last layer anew, then trained on (RTAL)",
}


@dataclass(frozen=True)
class Parts:
    """Who has which rows; nobody shares any."""

    victim: Rows
    thief: Rows
    second: Rows
    tuning: Rows
    innocent: Rows
    test: Rows


@dataclass
class Noisy:
    """A suspect that is asked with uniform noise on every question."""

    model: Model
    size: float  # of the inputs' range, which is 1
    input_shape: tuple[int, ...] = API.input_shape
    n_classes: int = CLASSES

    def scores(self, x: Array) -> Array:
        noise = np.random.default_rng(0).uniform(-self.size, self.size, x.shape)
        return self.model.scores(np.clip(x + noise, 0, 1))


def fitted(x: Array, targets: Array, settings: Mapping[str, Any], seed: int, start: Model | None = None) -> TorchModel:
    return TorchLearner(**settings).fit(x, targets, rng=np.random.default_rng(seed), start=start)


def believes(stolen: Extraction, cell: Cell, device: str) -> NDArray[np.bool_]:
    """(n,) which answers the thief believes: those that a copy made from the other folds' answers gives too."""
    x, targets, extra = stolen.x, stolen.answer.soft(CLASSES), cell.extra
    learner = {**extra["learner"], "epochs": extra["removal"]["doubt_epochs"], "device": device}
    fold = derive(cell.seed, "folds").integers(extra["folds"], size=len(x))
    believed = np.zeros(len(x), bool)
    for i in range(extra["folds"]):
        own = fitted(x[fold != i], targets[fold != i], learner, i).scores(x[fold == i]).argmax(axis=1)
        believed[fold == i] = own == targets[fold == i].argmax(axis=1)
    return believed


def removed(
    stolen: Extraction, believed: NDArray[np.bool_], parts: Parts, cell: Cell, device: str
) -> Iterator[tuple[str, Model]]:
    """What a thief does to a copy to be rid of its marks, or while it is trained."""
    how, seed = cell.extra["removal"], cell.seed + 50
    learner = {**cell.extra["learner"], "device": device}
    x, targets, model = stolen.x, stolen.answer.soft(CLASSES), stolen.model
    assert isinstance(model, TorchModel)
    tuner = TorchLearner(**{**learner, "epochs": how["tuned_epochs"]})
    thief = Thief(API, parts.tuning, parts.second.x, TorchLearner(**learner), tuner)
    for name, title in TUNED.items():
        yield title, REMOVALS[name](model, thief, np.random.default_rng(seed))
    for share in how["pruned"]:
        yield f"{share:.0%} of weights pruned", weights.pruned(model, share)
    second = parts.second.x
    yield "copy of the copy (double extraction)", fitted(second, model.scores(second), learner, seed)
    for size in how["asked_with_noise"]:
        yield f"asked with noise of {size:g}", Noisy(model, size)
    yield "trained with dropout", fitted(x, targets, {**learner, "dropout": how["dropout"]}, seed)
    yield "trained with weight decay", fitted(x, targets, {**learner, "weight_decay": how["weight_decay"]}, seed)
    yield "short training", fitted(x, targets, {**learner, "epochs": how["short_epochs"]}, seed)
    for name, epochs in (("short", how["short_epochs"]), ("whole", learner["epochs"])):
        yield (
            f"{name} training, augmented",
            _augmented(x, targets, {**learner, "epochs": 1}, epochs, how["shift"], seed),
        )
    yield "without the answers that they doubt", fitted(x[believed], targets[believed], learner, seed)


def _augmented(x: Array, targets: Array, learner: Mapping[str, Any], epochs: int, most: int, seed: int) -> TorchModel:
    """A copy that meets every picture moved by other pixels in every epoch."""
    rng, model = np.random.default_rng(seed), None
    around = np.pad(x, ((0, 0), (most, most), (most, most)))
    for epoch in range(epochs):
        corners = rng.integers(2 * most + 1, size=(len(x), 2))
        moved = np.stack([p[a : a + 28, b : b + 28] for p, (a, b) in zip(around, corners, strict=True)])
        model = fitted(moved, targets, learner, seed + epoch, model)
    assert model is not None
    return model
