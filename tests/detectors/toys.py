"""Streams that every detector's contract is tested on: real digits, their predictions, and synthetic neighbours."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.types import Answer, Array, Interface, Model, Rows
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.recipes.class_means import ClassMeans
from portcullis_ml.recipes.evaluation_set import EvaluationSet
from portcullis_ml.recipes.odin_step import OdinStep
from portcullis_ml.recipes.training_steps import TrainingSteps

__all__ = ["API", "Setup", "answer_to", "attack", "natural", "setup_of"]

API = Interface(input_shape=(64,), n_classes=10)


@cache
def _digits() -> tuple[Array, LogisticRegression]:
    x, y = load_digits(return_X_y=True)
    x = np.rint(x * 255 / 16) / 255  # 8-bit
    return x, LogisticRegression(max_iter=1000).fit(x[:600], y[:600])


def answer_to(x: Array) -> Answer:
    """The undefended answer of one fixed model."""
    model = _digits()[1]
    logits = (x[:, None, :] * model.coef_).sum(axis=2) + model.intercept_  # one row at a time, to the last bit
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return Answer(scores.argmax(axis=1), scores)


def natural(n: int, seed: int) -> Array:
    """(n, 64) digits in a random order."""
    x, _ = _digits()
    return x[np.random.default_rng(seed).permutation(len(x))[:n]]


def attack(n: int, seed: int, seeds: int = 60) -> Array:
    """(n, 64) in the order asked: natural seeds, then rounds of small steps along a linear copy's weights."""
    x, _ = _digits()
    rng = np.random.default_rng(seed)
    rows = x[rng.permutation(len(x))[:seeds]]
    weights = _digits()[1].coef_ + 0.1 * rng.normal(size=(10, 64))
    while len(rows) < n:
        step = np.sign(weights[answer_to(rows).labels])
        rows = np.concatenate([rows, np.clip(rows + 0.05 * step, 0, 1)])
    return rows[:n]


def turned(n: int, seed: int) -> Array:
    """(n, 64) in the order asked: 60 natural rows, then digits turned by a quarter, a natural pool of another kind."""
    x = natural(n, seed)
    x[60:] = x[60:].reshape(-1, 8, 8).transpose(0, 2, 1)[:, ::-1].reshape(-1, 64)
    return x


class Stripes:
    """A tree of eight leaves, seen from outside: four stripes along the first input, each cut along the second."""

    input_shape, n_classes = (64,), 10

    def scores(self, x: Array) -> Array:
        found: Array = np.eye(10)[2 * np.minimum(4 * x[:, 0], 3).astype(np.int64) + (x[:, 1] > 0.5)]
        return found


def striped(x: Array) -> Answer:
    return Answer.of(Stripes().scores(x), API)


def wide(n: int, seed: int) -> Array:
    """(n, 64) over all stripes."""
    return np.where(np.arange(64) < 2, np.random.default_rng(seed).random((n, 64)), 0.5)


def narrow(n: int, seed: int) -> Array:
    """(n, 64) of two leaves, as a client has them whose business lies there."""
    return wide(n, seed) * np.where(np.arange(64) < 2, 0.45, 1.0)


def widening(n: int, seed: int) -> Array:
    """(n, 64) in the order asked: 60 rows of two leaves, then rows over all stripes."""
    return np.concatenate([narrow(60, seed), wide(n - 60, seed + 1000)])


def victims_digits() -> tuple[Model, Rows]:
    """The model of `answer_to`, and two thirds of the digits with its labels."""
    x, model = _digits()
    return SoftmaxRegression(model.coef_, model.intercept_), Rows(x[:1200], answer_to(x[:1200]).labels)


@cache
def network() -> tuple[Model, Rows]:
    """A PyTorch network trained on a third of the digits, and a third that it has not seen."""
    x, _ = _digits()
    labels = answer_to(x).labels
    learner = TorchLearner(network="table_mlp", epochs=15)
    model = learner.fit(x[:600], np.eye(10)[labels[:600]], rng=np.random.default_rng(0))
    return model, Rows(x[600:1200], labels[600:1200])


def noise(n: int, seed: int) -> Array:
    """(n, 64) in the order asked: 60 natural rows, then random pixels."""
    return np.concatenate([natural(60, seed), np.random.default_rng(seed).random((n - 60, 64))])


@cache
def trained(
    recipe: Recipe,
    given: Callable[[], tuple[Model, Rows]] = victims_digits,
    outside: Callable[[int, int], Array] | None = None,
) -> Artifact:
    """What a recipe makes of a victim, its rows and outside rows."""
    victim, rows = given()
    other = None if outside is None else outside(200, 99)[60:]
    contents = recipe(victim, rows, other, rng=np.random.default_rng(0))
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_artifact(contents, folder / "it")


def few(n: int, seed: int) -> Array:
    """A tenth of so many digits: an honest client who asks little."""
    return natural(n // 10, seed)


def stripes() -> tuple[Model, Rows]:
    return Stripes(), Rows(wide(500, 77))


def blended(n: int, seed: int) -> Array:
    """(n, 64) in the order asked: 60 natural rows, then means of four digits, which lie between the classes."""
    x = natural(n, seed)
    x[60:] = np.mean([natural(n - 60, seed + i) for i in range(1, 5)], axis=0)
    return x


@dataclass(frozen=True)
class Setup:
    """On what one detector is tested: its settings without a default, honest streams, and the attack of its paper."""

    settings: Callable[[], Mapping[str, Any]] = dict
    natural: Callable[[int, int], Array] = natural
    attack: Callable[[int, int], Array] = attack
    answer_to: Callable[[Array], Answer] = answer_to
    api: Interface = field(default=API)


# A detector with settings without a default, or whose paper has another attack, gets a line; others need none.
SETUPS: dict[str, Setup] = {
    "call_rate": Setup(lambda: {"threshold": 100.0}, natural=few),
    "coverage": Setup(
        lambda: {"evaluation": trained(EvaluationSet(), stripes)}, natural=narrow, attack=widening, answer_to=striped
    ),
    "extraction_monitor": Setup(
        lambda: {"evaluation": trained(EvaluationSet(), stripes)}, natural=narrow, attack=widening, answer_to=striped
    ),
    "hardness": Setup(lambda: {"steps": trained(TrainingSteps(epochs=20))}, attack=turned),
    "low_confidence": Setup(attack=blended),
    "mahalanobis": Setup(lambda: {"fitted": trained(ClassMeans(), network)}, attack=noise),
    "odin": Setup(lambda: {"fitted": trained(OdinStep(), network, turned)}, attack=blended),
}


def setup_of(name: str) -> Setup:
    return SETUPS.get(name, Setup())
