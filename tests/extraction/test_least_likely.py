"""Least likely: which answers are misinformed, which class they avoid, and what a copy gains by reading them so."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Rows
from portcullis_ml.defenses.adaptive_misinformation import AdaptiveMisinformation
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.extraction.least_likely import LeastLikely, misread
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.recipes.misinformation import Misinformation

API = Interface(input_shape=(6,), n_classes=5)
VICTIM = SoftmaxRegression(np.random.default_rng(0).normal(size=(5, 6)) * 6, np.zeros(5))


@cache
def network(folder: Path) -> Any:
    rows = Rows(API.uniform(1000, np.random.default_rng(4)))
    return write_artifact(Misinformation()(VICTIM, rows, None, rng=np.random.default_rng(0)), folder / "network")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> AdaptiveMisinformation:
    return AdaptiveMisinformation(network=network(tmp_path_factory.mktemp("least")), tau=0.95)


def theft(attack: ExtractionAttack, stage: AdaptiveMisinformation, seed: int = 1) -> tuple[Any, float]:
    """The extraction, and how often its copy agrees with the victim."""
    told = [{"unit": "adaptive_misinformation", "tau": stage.tau}]
    pool = API.uniform(600, np.random.default_rng(50 + seed))
    knowledge = Knowledge(pool=pool, learner=SklearnLearner(c=100.0), defense=told)
    guard = Guard(stage, key=b"k" * 32, interface=API)
    found = attack(LocalOracle(VICTIM, API, budget=600, guard=guard), knowledge, rng=np.random.default_rng(seed))
    x = API.uniform(2000, np.random.default_rng(9))
    return found, float((found.model.scores(x).argmax(axis=1) == VICTIM.scores(x).argmax(axis=1)).mean())


@pytest.mark.parametrize("seed", range(3))
def test_it_gives_back_most_of_what_the_naive_thief_loses(stage: AdaptiveMisinformation, seed: int) -> None:
    naive, (found, knowing) = theft(Knockoff(), stage, seed)[1], theft(LeastLikely(), stage, seed)
    assert knowing > naive + 0.1, (naive, knowing)
    assert [paid for paid, _ in found.history] == [600, 600]
    assert 0 < found.notes["certainly_misinformed"] < found.notes["misinformed"][-1] < 1


def test_without_tau_nothing_is_read_backwards(stage: AdaptiveMisinformation) -> None:
    off = AdaptiveMisinformation(network=stage.network, tau=0.0)
    x = API.uniform(50, np.random.default_rng(9))
    plain, knowing = theft(Knockoff(), off)[0].model.scores(x), theft(LeastLikely(), off)[0].model.scores(x)
    np.testing.assert_array_equal(plain, knowing)


def test_who_has_not_been_told_cannot_read_it() -> None:
    with pytest.raises(NotApplicable, match="needs to know of a guard with adaptive_misinformation"):
        LeastLikely()(
            LocalOracle(VICTIM, API, budget=9), Knowledge(learner=SklearnLearner()), rng=np.random.default_rng(0)
        )


def made_up(n: int, classes: int, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Answers of which half are misinformed, their right classes, a guess right four times of five, and which are."""
    right, liar = rng.integers(classes, size=n), rng.random(n) < 0.5
    true = rng.dirichlet(np.full(classes, 0.3), n)
    true[np.arange(n), right] += 3
    lie = rng.dirichlet(np.ones(classes), n)
    lie[np.arange(n), right] = 1e-6
    shown = np.where(liar[:, None], lie, true)
    guess = np.full((n, classes), 0.2 / (classes - 1))
    said = np.where(rng.random(n) < 0.8, right, rng.integers(classes, size=n))
    guess[np.arange(n), said] = 0.8
    return shown / shown.sum(axis=1, keepdims=True), right, guess, liar


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_misinformed_answers_are_told_from_others(classes: int) -> None:
    shown, right, guess, liar = made_up(2000, classes, np.random.default_rng(0))
    certain = liar & (shown.max(axis=1) < 0.7)
    share, found = misread(shown, guess, certain)
    assert ((share > 0.5) == liar).mean() > 0.85
    assert (share[certain] == 1).all()
    assert (found.argmax(axis=1) == right)[liar].mean() > 0.85
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert np.isfinite(share).all()


def test_of_two_classes_the_other_is_right() -> None:
    shown = np.array([[0.3, 0.7], [0.6, 0.4]])
    share, right = misread(shown, np.full((2, 2), 0.5), np.array([True, True]))
    np.testing.assert_array_equal(share, 1)
    np.testing.assert_allclose(right, [[1, 0], [0, 1]])
