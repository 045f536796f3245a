"""The guard that an attacker rehearses: another key, and nothing that the owner has trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from portcullis_ml.bench.named import guard_named
from portcullis_ml.bench.rehearsal import Rehearsal, _Nearest
from portcullis_ml.bench.target import guard_of, knowledge_of
from portcullis_ml.core.types import Answer, Interface, Request, Rows
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.recipes.training_steps import TrainingSteps

from .experiments import cell_for, spec

API = Interface(input_shape=(4,), n_classes=3)
VICTIM = SoftmaxRegression(np.random.default_rng(7).normal(size=(3, 4)) * 4, np.zeros(3), input_shape=(4,))
X = API.uniform(120, np.random.default_rng(0))


@pytest.fixture
def here(tmp_path):
    return spec(tmp_path)


@pytest.fixture
def hardness(tmp_path):
    """The description of a guard whose sub-models the owner has trained."""
    recipe = TrainingSteps(window=20, epochs=20)
    made = recipe(VICTIM, Rows(X), None, rng=np.random.default_rng(0))
    about = {
        **made.about,
        "recipe": "training_steps",
        "settings": {"unit": "training_steps", "window": 20, "epochs": 20},
    }
    artifact = write_artifact(type(made)(made.files, about), tmp_path / "steps")
    return guard_named(f'watch(detector=hardness(steps="{artifact.path}"), then=block)').stages


def test_what_the_owner_trained_is_trained_anew_with_the_same_settings(here, hardness) -> None:
    cell = cell_for(here, {"unit": "x"}, defense=hardness)
    own, foreign = X[:60] / 2, X[60:]
    guard = Rehearsal(cell, API).train(VICTIM, own, foreign)
    (mine,) = guard.detectors()
    (theirs,) = guard_of(cell, API).detectors()
    assert mine._benign.window == theirs._benign.window == 20
    assert mine.steps.sha256 != theirs.steps.sha256
    assert not np.array_equal(mine._benign.histogram, theirs._benign.histogram)


def test_the_same_rehearsal_gives_the_same_guard(here, hardness) -> None:
    cell = cell_for(here, {"unit": "x"}, defense=hardness)
    first, second = (Rehearsal(cell, API).train(VICTIM, X[:60], X[60:]).detectors()[0] for _ in range(2))
    assert first.steps.sha256 == second.steps.sha256
    other = Rehearsal(replace(cell, seed=1), API).train(VICTIM, X[:60], X[60:]).detectors()[0]
    assert other.steps.sha256 != first.steps.sha256


def test_a_stage_that_cannot_be_trained_is_left_out(here, hardness) -> None:
    cell = cell_for(here, {"unit": "x"}, defense=(*hardness, *guard_named("rounding(decimals=1)").stages))
    guard = Rehearsal(cell, API).train(VICTIM, X[:10], X[60:])  # too few for a window
    assert [stage.name for stage in guard.stages] == ["rounding"]


def test_an_artifact_of_which_nothing_is_said_is_not_lent(here, tmp_path, hardness) -> None:
    made = TrainingSteps(window=20, epochs=20)(VICTIM, Rows(X), None, rng=np.random.default_rng(0))
    bare = write_artifact(type(made)(made.files, {}), tmp_path / "bare")
    stages = guard_named(f'watch(detector=hardness(steps="{bare.path}"), then=block)').stages
    assert not Rehearsal(cell_for(here, {"unit": "x"}, defense=stages), API).train(VICTIM, X[:60], X[60:]).stages


def test_a_rehearsal_answers_under_another_key(here) -> None:
    cell = cell_for(here, {"unit": "x"}, defense=guard_named("noise(eps=1.0)").stages, knows_defense=True)
    scores = VICTIM.scores(X)
    rehearsed = knowledge_of(cell, here.load()).rehearse(X, scores)
    served = guard_of(cell, API).release(Request("me", X), Answer.of(scores, API)).answer
    assert not np.allclose(rehearsed.scores, served.scores)
    np.testing.assert_array_equal(rehearsed.scores, knowledge_of(cell, here.load()).rehearse(X, scores).scores)


def test_only_who_is_told_may_rehearse(here) -> None:
    cell = cell_for(here, {"unit": "x"}, defense=guard_named("noise").stages)
    known = knowledge_of(cell, here.load())
    assert known.rehearse is None
    assert known.train is None


def test_a_stand_in_answers_its_own_rows_and_others_as_the_nearest_of_them():
    scores = VICTIM.scores(X[:60])
    asked = np.concatenate([X[10:20], X[60:80], X[:3]])
    plain = scores[np.linalg.norm(asked[:, None] - X[None, :60], axis=2).argmin(axis=1)]
    np.testing.assert_array_equal(_Nearest(X[:60], scores).scores(asked), plain)
