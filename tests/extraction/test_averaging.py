"""Averaging: neighbours of a row are asked and their answers averaged; what that is worth behind noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.randomness import canonical
from portcullis_ml.core.types import Array, Feature, Interface, Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction.averaging import Averaging
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.extraction.retraining import Retraining
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.softmax import SoftmaxRegression

from .toys import Closes, ToyLearner, toy_victim

API = Interface(input_shape=(6,), n_classes=5)
VICTIM = SoftmaxRegression(np.random.default_rng(0).normal(size=(5, 6)) * 6, np.zeros(5))
TOLD = [{"unit": "noise"}]
BOX = Interface(input_shape=(2, 3), n_classes=3)


def steal(attack: ExtractionAttack, budget: int, interface: Interface = BOX, **oracle: Any) -> tuple[Extraction, Any]:
    """The extraction from a toy victim, and the learner that trained the copy."""
    learner = ToyLearner(steps=5)
    victim = toy_victim(interface.input_shape)
    knowledge = Knowledge(learner=learner, defense=TOLD)
    found = attack(LocalOracle(victim, interface, budget=budget, **oracle), knowledge, rng=np.random.default_rng(1))
    return found, learner


def neighbours(x: Array, repeats: int) -> list[Array]:
    return [x[i : i + repeats] for i in range(0, len(x), repeats)]


@pytest.mark.parametrize("budget", [60, 61, 62])
def test_the_copy_learns_the_mean_of_what_neighbours_were_answered(budget: int) -> None:
    guard = Guard(DEFENSES.build("noise(eps=3.0)"), key=bytes(16), interface=BOX)
    found, learner = steal(Averaging(repeats=3, jitter=0.05), budget, guard=guard)
    x, targets, _ = learner.fits[-1]
    assert found.answer.scores is not None
    for row, target, asked, answers in zip(
        x, targets, neighbours(found.x, 3), neighbours(found.answer.scores, 3), strict=True
    ):
        np.testing.assert_array_equal(row, asked[0])
        np.testing.assert_allclose(target, sum(answers) / len(answers))
    assert found.queries == budget
    assert found.notes["different_rows"] == -(-budget // 3)


def test_neighbours_are_near_and_within_bounds_and_other_questions_to_the_guard() -> None:
    found, _ = steal(Averaging(repeats=4, jitter=0.05), 400)
    assert 0 <= found.x.min()
    assert found.x.max() <= 1
    assert len(set(canonical(found.x))) == 400
    for asked in neighbours(found.x, 4):
        assert 0 < np.abs(asked - asked[0]).max() <= 0.05


def test_categories_are_left_as_they_are() -> None:
    columns = (Feature("age", 0, 90), Feature("town", values=("a", "b", "c")), Feature("pay", -5, 5))
    found, _ = steal(Averaging(), 90, Interface(input_shape=(3,), n_classes=3, features=columns))
    for asked in neighbours(found.x, 3):
        assert (asked[:, 1] == asked[0, 1]).all()
        assert np.ptp(asked[:, 0]) > 0
        assert (np.abs(asked[:, 0] - asked[0, 0]) <= 0.9).all()


def test_where_all_inputs_are_categories_nothing_can_be_moved() -> None:
    column = Feature("town", values=("a", "b", "c"))
    oracle = LocalOracle(toy_victim((1,)), Interface(input_shape=(1,), n_classes=3, features=(column,)), budget=9)
    with pytest.raises(NotApplicable, match="averaging needs an input that is a number; this API's are all categories"):
        Averaging()(oracle, Knowledge(learner=ToyLearner(), defense=TOLD), rng=np.random.default_rng(0))
    assert oracle.queries == 0


def test_labels_are_put_to_the_vote() -> None:
    guard = Guard(DEFENSES.build("random_vertex(eps=1.2)"), key=bytes(16), interface=BOX)
    found, learner = steal(Averaging(repeats=3), 90, BOX.revealing(reveals=Reveals.LABELS), guard=guard)
    assert found.answer.labels is not None
    voted = [np.bincount(labels, minlength=3).argmax() for labels in neighbours(found.answer.labels, 3)]
    np.testing.assert_array_equal(learner.fits[-1][1], np.eye(3)[voted])
    assert any(len(set(labels)) > 1 for labels in neighbours(found.answer.labels, 3))


def test_a_guard_that_closes_between_neighbours_leaves_the_mean_of_those_that_were_answered() -> None:
    found, learner = steal(Averaging(repeats=3), 90, guard=Guard(Closes(after=31), key=bytes(16)))
    assert found.stopped == "this client was blocked"
    x, targets, _ = learner.fits[-1]
    assert len(x) == 11
    assert found.answer.scores is not None
    np.testing.assert_array_equal(targets[-1], found.answer.scores[30])


def test_the_rounds_of_a_wrapped_attack_count_what_was_paid() -> None:
    found, _ = steal(Averaging(of=Retraining(), repeats=2), 201)
    paid = [queries for queries, _ in found.history]
    assert len(paid) > 2
    assert paid == sorted(paid)
    assert all(queries % 2 == 0 for queries in paid[:-1])
    assert paid[-1] == 201


def agreement(attack: ExtractionAttack, rows: int, seed: int) -> float:
    """How often the copy agrees with the victim behind noise, for a thief who holds so many rows and asks 600 times."""
    guard = Guard(DEFENSES.build("noise(eps=6.0)"), key=bytes([seed]) * 16, interface=API)
    pool = API.uniform(rows, np.random.default_rng(100 + seed))
    knowledge = Knowledge(pool=pool, learner=SklearnLearner(c=100.0), defense=TOLD)
    oracle = LocalOracle(VICTIM, API, budget=600, guard=guard)
    copy = attack(oracle, knowledge, rng=np.random.default_rng(seed)).model
    x = API.uniform(2000, np.random.default_rng(9))
    return float((copy.scores(x).argmax(axis=1) == VICTIM.scores(x).argmax(axis=1)).mean())


@pytest.mark.parametrize("seed", range(3))
def test_it_beats_the_naive_thief_who_holds_fewer_rows_than_queries(seed: int) -> None:
    naive, averaged = agreement(Knockoff(), 100, seed), agreement(Averaging(repeats=6), 100, seed)
    assert averaged > naive + 0.005, f"naive {naive:.3f}, averaged {averaged:.3f}"


def test_with_a_row_for_every_query_it_gains_nothing() -> None:
    gains = [agreement(Averaging(), 600, seed) - agreement(Knockoff(), 600, seed) for seed in range(3)]
    assert abs(np.mean(gains)) < 0.02, gains
