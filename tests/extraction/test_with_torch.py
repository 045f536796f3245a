"""The attacks with the learner that people use, on scikit-learn's digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.extraction import CATALOG
from portcullis_ml.extraction.copycat import Copycat
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.models.torch import TorchLearner

DOOR = Interface(input_shape=(8, 8), n_classes=10)
LEARNER = TorchLearner(network="digits_cnn", epochs=30, batch=16)


@pytest.fixture(scope="module")
def images() -> tuple[Array, np.ndarray]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    return digits.images[order] / 16.0, digits.target[order]


@pytest.fixture(scope="module")
def victim(images: tuple[Array, np.ndarray]) -> Model:
    x, y = images
    return replace(LEARNER, epochs=12).fit(x[:900], np.eye(10)[y[:900]], rng=np.random.default_rng(0))


def thieve(victim: Model, attack: ExtractionAttack, own: Array, budget: int, **door: Reveals) -> Extraction:
    oracle = LocalOracle(victim, replace(DOOR, **door), budget=budget)
    return attack(oracle, Knowledge(seeds=own, pool=own, learner=LEARNER), rng=np.random.default_rng(1))


def agreement(victim: Model, copy: Model, x: Array) -> float:
    return float((victim.scores(x).argmax(axis=1) == copy.scores(x).argmax(axis=1)).mean())


@pytest.mark.parametrize("preset", ["papernot", "jb_top3", "jb_self"])
def test_a_jacobian_copy_is_good_and_is_the_same_twice(
    victim: Model, images: tuple[Array, np.ndarray], preset: str
) -> None:
    x, _ = images
    result = thieve(victim, CATALOG.build(preset), x[900:950], 170)
    again = thieve(victim, CATALOG.build(preset), x[900:950], 170)
    assert result.queries == 170
    assert agreement(victim, result.model, x[1300:]) > 0.6
    np.testing.assert_array_equal(result.x, again.x)
    np.testing.assert_array_equal(result.model.scores(x[1300:]), again.model.scores(x[1300:]))
    steps = np.abs(result.x[50:, None] - result.x[None, :]).max(axis=(2, 3))
    steps[np.arange(120), 50 + np.arange(120)] = np.inf  # not itself
    assert steps.min(axis=1).max() <= CATALOG.build(preset).eps + 1e-12


def test_synthesis_beats_the_seeds_alone(victim: Model, images: tuple[Array, np.ndarray]) -> None:
    x, _ = images
    result = thieve(victim, CATALOG.build("jb_top7"), x[900:950], 400)
    (_, first), *_, (_, last) = result.history
    assert agreement(victim, last, x[1300:]) > agreement(victim, first, x[1300:]) + 0.03


def test_natural_inputs_steal_with_and_without_probabilities(victim: Model, images: tuple[Array, np.ndarray]) -> None:
    x, _ = images
    knockoff = thieve(victim, Knockoff(), x[900:1200], 300)
    copycat = thieve(victim, Copycat(), x[900:1200], 300, reveals=Reveals.LABELS)
    assert agreement(victim, knockoff.model, x[1300:]) > 0.85
    assert agreement(victim, copycat.model, x[1300:]) > 0.85
    assert copycat.notes["classes_seen"] == 1.0
