"""Controls: each learns exactly what it says, and nothing that would make an attack look better or worse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from tests.core.test_oracle import API, Sigmoid, points

from portcullis_ml.bench.controls import RandomQueries, Shuffled, most_frequent, own_labels
from portcullis_ml.core.attack import Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface, Reveals


@dataclass(frozen=True)
class Rounds(ExtractionAttack):
    """Asks about ten points, keeps the victim itself as its copy, and asks about thirty more."""

    name: ClassVar[str] = "rounds"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS)

    def steal(self, harvest, interface, knowledge, rng):
        harvest.ask(points(10))
        harvest.keep(Sigmoid())
        harvest.ask(interface.uniform(30, rng))
        return Sigmoid()


@dataclass
class Note:
    """A learner that notes what it is given, and returns a model of no use."""

    taught: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def fit(self, x, targets, *, rng, start=None):
        self.taught.append((x, targets))
        return most_frequent(targets.argmax(axis=1), API)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_the_shuffled_control_learns_the_answers_of_the_attack_in_another_order():
    oracle, learner = LocalOracle(Sigmoid(), API, budget=40), Note()
    loot = Shuffled(of=Rounds())(oracle, Knowledge(learner=learner), rng=rng())
    ((x, targets),) = learner.taught
    true = Sigmoid().scores(x)
    np.testing.assert_array_equal(x, loot.x)
    np.testing.assert_allclose(np.sort(targets, axis=0), np.sort(true, axis=0))
    assert (targets != true).any(axis=1).mean() > 0.8
    assert loot.queries == 40


def test_its_curve_holds_no_copy_that_saw_the_true_answers():
    loot = Shuffled(of=Rounds())(LocalOracle(Sigmoid(), API, budget=40), Knowledge(learner=Note()), rng=rng())
    assert [queries for queries, _ in loot.history] == [40]
    assert loot.history[0][1] is loot.model


def test_the_shuffled_control_needs_what_its_attack_needs():
    labels = LocalOracle(Sigmoid(), API.revealing(reveals=Reveals.LABELS), budget=40)
    with pytest.raises(NotApplicable, match="rounds needs probs"):
        Shuffled(of=Rounds())(labels, Knowledge(learner=Note()), rng=rng())
    assert labels.queries == 0
    with pytest.raises(ParameterError, match="an extraction attack"):
        Shuffled(of="rounds")


def test_random_queries_spends_the_budget_on_points_of_the_input_space():
    api = Interface(input_shape=(2,), n_classes=2, bounds=(-3.0, 5.0))
    learner = Note()
    loot = RandomQueries(batch=16)(LocalOracle(Sigmoid(), api, budget=50), Knowledge(learner=learner), rng=rng())
    ((x, targets),) = learner.taught
    assert (loot.queries, x.shape) == (50, (50, 2))
    assert x.min() < -2
    assert x.max() > 4
    np.testing.assert_allclose(targets, Sigmoid().scores(x))


@pytest.mark.parametrize("batch", [0, 1.5])
def test_a_batch_is_a_whole_number_of_at_least_one(batch):
    with pytest.raises(ParameterError, match="an int of at least 1"):
        RandomQueries(batch=batch)
    assert RandomQueries(batch=1).batch == 1


def test_the_most_frequent_class_is_answered_to_everything():
    model = most_frequent(np.array([1, 0, 1]), API)
    np.testing.assert_array_equal(model.scores(points(3)), [[0, 1]] * 3)


def test_own_labels_learns_the_pools_labels_and_needs_them_and_a_learner():
    learner, pool = Note(), points(4)
    own_labels(Knowledge(pool=pool, learner=learner), np.array([0, 1, 1, 0]), 2, rng())
    np.testing.assert_array_equal(learner.taught[0][1], [[1, 0], [0, 1], [0, 1], [1, 0]])
    for knowledge, labels in (
        (Knowledge(learner=learner), np.zeros(4, int)),
        (Knowledge(pool=pool, learner=learner), None),
    ):
        with pytest.raises(NotApplicable, match="a pool with labels"):
            own_labels(knowledge, labels, 2, rng())
    with pytest.raises(NotApplicable, match="a surrogate learner"):
        own_labels(Knowledge(pool=pool), np.zeros(4, int), 2, rng())
