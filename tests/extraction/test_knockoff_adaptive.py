"""The bandit beside its plain twin, and an adaptive theft from a pool in which one group pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Reveals
from portcullis_ml.extraction._bandit import Bandit, Rewards
from portcullis_ml.extraction.knockoff import REWARDS, Knockoff
from portcullis_ml.models.torch import TorchLearner

from .toys import ToyLearner, inputs, toy_victim

VICTIM = toy_victim()
PROBS = Interface(input_shape=(2, 3), n_classes=3)
GROUPS = np.repeat(np.arange(5), 40)


def test_preferences_move_as_published() -> None:
    bandit = Bandit(GROUPS, np.random.default_rng(0))
    h, n, past = np.zeros(5), np.zeros(5), []
    for step in range(60):
        rows = bandit.draw(1)
        reward = np.random.default_rng(step).random()
        pi, z = np.exp(h) / np.exp(h).sum(), GROUPS[rows[0]]
        np.testing.assert_allclose(bandit.probabilities(), pi)
        baseline = np.mean(past) if past else reward
        past.append(reward)
        n[z] += 1
        change = (reward - baseline) / n[z]
        for other in range(5):
            h[other] += change * (1 - pi[z]) if other == z else -change * pi[other]
        bandit.learn(rows, np.array([reward]))
        np.testing.assert_allclose(bandit.preferences, h)
    assert abs(bandit.preferences.sum()) < 1e-9


def test_no_row_twice_until_all_are_drawn_and_empty_groups_have_no_chance() -> None:
    bandit = Bandit(np.array([0, 0, 1, 1, 1]), np.random.default_rng(0))
    assert sorted(bandit.draw(5).tolist()) == [0, 1, 2, 3, 4]
    assert not bandit.probabilities().any()
    assert sorted(bandit.draw(5).tolist()) == [0, 1, 2, 3, 4]
    bandit = Bandit(np.array([0, 1, 1, 1, 1]), np.random.default_rng(0))
    while bandit.probabilities()[0] > 0:
        bandit.draw(1)
    np.testing.assert_allclose(bandit.probabilities(), [0, 1])


@pytest.mark.parametrize("above", [None, np.array([0, 0, 1, 1, 1])])
def test_the_group_that_pays_is_drawn_more_and_more(above: Array | None) -> None:
    groups = np.repeat(np.arange(5), 400)
    bandit = Bandit(groups, np.random.default_rng(0), above=above)
    for _ in range(40):
        rows = bandit.draw(10)
        bandit.learn(rows, (groups[rows] == 3).astype(float))
    p = bandit.probabilities()
    assert p.sum() == pytest.approx(1)
    assert p.argmax() == 3
    assert p[3] > 0.4


def test_both_levels_are_credited() -> None:
    bandit = Bandit(np.repeat(np.arange(4), 50), np.random.default_rng(0), above=np.array([0, 0, 1, 1]))
    bandit.learn(np.array([0, 60]), np.array([0.0, 1.0]))  # the second is above the mean, and of group 1
    p = bandit.probabilities()
    assert p[1] > p[0]
    assert p[:2].sum() > p[2:].sum()


def test_rewards_are_scaled_over_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    answers, copied = rng.dirichlet(np.ones(4), 200), rng.dirichlet(np.ones(4), 200)
    found = Rewards(REWARDS, 20).of(answers, copied)
    assert found.min() >= 0
    assert found.max() <= 1
    raw = np.sort(answers, axis=1)
    raw = raw[:, -1] - raw[:, -2]
    seen = [(raw[: i + 1].min(), raw[: i + 1].max()) for i in range(200)]
    expected = [(r - low) / (high - low + 1e-12) for r, (low, high) in zip(raw, seen, strict=True)]
    np.testing.assert_allclose(Rewards(("certainty",), 20).of(answers, copied), expected)
    before = [answers[max(0, i - 20) : i].mean(axis=0) if i else answers[0] for i in range(200)]
    beyond = np.array([np.maximum(0, y - m).sum() for y, m in zip(answers, before, strict=True)])
    scaled = [(b - beyond[: i + 1].min()) / (np.ptp(beyond[: i + 1]) + 1e-12) for i, b in enumerate(beyond)]
    np.testing.assert_allclose(Rewards(("diversity",), 20).of(answers, copied), scaled)


def thieve(budget: int = 100, *, learner: Any = None, groups: Array | None = GROUPS, **settings: Any) -> Extraction:
    oracle = LocalOracle(VICTIM, settings.pop("door", PROBS), budget=budget)
    knowledge = Knowledge(pool=inputs(200, 0), pool_groups=groups, learner=learner or ToyLearner())
    attack = Knockoff(selection="adaptive", **{"batch": 10, **settings})
    return attack(oracle, knowledge, rng=np.random.default_rng(0))


def test_the_copy_is_trained_from_scratch_on_the_whole_set() -> None:
    learner = ToyLearner()
    found = thieve(learner=learner)
    x, targets, start = learner.fits[-1]
    assert start is None
    np.testing.assert_array_equal(x, found.x)
    np.testing.assert_allclose(targets, VICTIM.scores(x))
    assert len({row.tobytes() for row in found.x}) == 100


def test_the_chances_of_the_groups_are_noted() -> None:
    notes = thieve().notes["bandit"]
    assert notes["groups"] == ["0", "1", "2", "3", "4"]
    assert len(notes["chances"]) == 11
    np.testing.assert_allclose(np.sum(notes["chances"], axis=1), 1, atol=1e-3)


def test_a_pool_without_groups_is_clustered() -> None:
    notes = thieve(groups=None, clusters=7).notes["bandit"]
    assert notes["groups"] == [f"cluster {i + 1}" for i in range(7)]


@pytest.mark.parametrize("levels", [1, 2])
def test_a_learner_that_goes_on_is_taken_over_every_batch(levels: int) -> None:
    learner = TorchLearner(network="tests.extraction.test_knockoff_adaptive:linear", epochs=5)
    assert thieve(learner=learner, levels=levels).queries == 100


def linear(input_shape: tuple[int, ...], n_classes: int, *, dropout: float) -> Any:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), n_classes))


def test_labels_are_enough_and_a_pool_used_up_starts_again() -> None:
    found = thieve(250, door=PROBS.revealing(reveals=Reveals.LABELS))
    assert found.queries == 250
    assert found.notes["repeated_rows"] == 50


@pytest.mark.parametrize("setting", [{"rewards": ()}, {"rewards": ("luck",)}, {"clusters": 1}, {"levels": 3}])
def test_bad_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(setting))):
        Knockoff(**setting)
