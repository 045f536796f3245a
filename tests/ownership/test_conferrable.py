"""Conferrable examples: copies give the key's answers, independent models seldom; questions stay near natural rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence
from portcullis_ml.core.types import Array, Feature, Interface, Labels, Model, Rows
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.ownership._conferring import searched
from portcullis_ml.ownership.conferrable import Conferrable

API = Interface(input_shape=(6,), n_classes=4)
SCHEME = Conferrable(copies=3, epochs=40)
NETWORK = TorchLearner(network="table_mlp", epochs=40)
FOREST = SklearnLearner(estimator="forest", trees=30)


def rows(n: int, seed: int) -> Rows:
    """Four classes, one border of which is hard to learn."""
    x = np.random.default_rng(seed).random((n, 6))
    return Rows(x, (x[:, 0] + x[:, 1] * x[:, 2] > 0.8) * 2 + (x[:, 3] + 0.5 * np.sin(9 * x[:, 4]) > 0.5))


def fitted(learner: Any, data: Rows, seed: int, start: Model | None = None) -> Model:
    model: Model = learner.fit(data.x, np.eye(4)[data.y], rng=np.random.default_rng(seed), start=start)
    return model


TEST, POOL = rows(800, 1), rows(2_000, 2).x
VICTIM = fitted(NETWORK, rows(200, 3), 0)
REFERENCE = tuple(fitted(NETWORK, rows(200, 100 + i), i) for i in range(20))
KEY = SCHEME.mint(bytes(32), API, VICTIM, (None, TEST))


def judged(suspect: Model, reference: tuple[Model, ...] = REFERENCE, key: Any = KEY) -> Evidence:
    oracle = LocalOracle(suspect, API, budget=1_000)
    return SCHEME(key, oracle, reference, commitment=key.commit(), rng=np.random.default_rng(0))


def test_copies_from_scores_and_from_labels_are_convicted() -> None:
    scores = VICTIM.scores(POOL)
    for targets in (scores, np.eye(4)[scores.argmax(axis=1)]):
        copy = NETWORK.fit(POOL, targets, rng=np.random.default_rng(5))
        assert judged(copy).verdict == "derived"


def test_independent_models_of_its_kind_and_of_another_are_spared() -> None:
    others = [fitted(learner, rows(200, 300 + i), i) for learner in (NETWORK, FOREST) for i in range(8)]
    found = [judged(model) for model in others]
    assert not [e.p_value for e in found if e.p_value < 0.01]
    assert not found[0].accused


def test_a_victim_without_gradients_is_served_by_networks_that_copy_it() -> None:
    victim = fitted(FOREST, rows(200, 3), 0)
    key = SCHEME.mint(bytes(32), API, victim, (rows(200, 3), TEST))
    copy = FOREST.fit(POOL, victim.scores(POOL), rng=np.random.default_rng(0))
    reference = tuple(fitted(FOREST, rows(200, 400 + i), i) for i in range(20))
    assert judged(copy, reference, key).verdict == "derived"


def test_without_twenty_innocent_models_it_is_inconclusive_even_for_the_victim_itself() -> None:
    found = judged(VICTIM, REFERENCE[:19])
    assert (found.matches, found.verdict) == (found.n, "inconclusive")
    assert "needs 20 innocent models" in found.lacking


def test_questions_are_near_natural_rows_that_no_model_learnt_from_and_shared_out_among_the_classes() -> None:
    distance = np.abs(KEY.x[:, None] - TEST.x[None]).max(axis=2).min(axis=1)
    assert distance.max() <= SCHEME.eps + 1e-12
    assert ((KEY.x >= 0) & (KEY.x <= 1)).all()
    assert (VICTIM.scores(KEY.x).argmax(axis=1) == KEY.labels).all()
    assert np.bincount(KEY.labels, minlength=4).max() <= 25


class Slope:
    """Two classes by a plane; its gradient is the plane's."""

    n_classes = 2

    def __init__(self, w: Array) -> None:
        self.w, self.input_shape = w, w.shape

    def scores(self, x: Array) -> Array:
        one = 1 / (1 + np.exp(-(x * self.w).reshape(len(x), -1).sum(axis=1)))
        return np.stack([1 - one, one], axis=1)

    def input_gradient(self, x: Array, weights: Array, *, of: str) -> Array:
        slope = weights[:, 1] - weights.sum(axis=1) * self.scores(x)[:, 1]
        return np.asarray(slope.reshape(-1, *[1] * self.w.ndim) * self.w)


ONE: Labels = np.array([1])


def test_the_search_moves_towards_the_copies_away_from_the_references_and_to_the_edge_of_the_ball() -> None:
    copy, reference = Slope(np.array([1.0, 0.0])), Slope(np.array([0.0, 1.0]))
    api = Interface(input_shape=(2,), n_classes=2)
    found = searched([copy], [reference], np.array([[0.5, 0.5]]), ONE, api, 0.1)
    np.testing.assert_allclose(found, [[0.6, 0.4]])


def test_categories_stay_and_a_table_of_nothing_else_is_refused() -> None:
    copy, reference = Slope(np.array([1.0, 1.0])), Slope(np.array([0.0, 0.0]))
    number, word = Feature("a", 0.0, 10.0), Feature("b", values=("x", "y", "z"))
    table = Interface(input_shape=(2,), n_classes=2, features=(number, word))
    np.testing.assert_allclose(searched([copy], [reference], np.array([[5.0, 1.0]]), ONE, table, 0.1), [[6.0, 1.0]])
    words = Interface(input_shape=(2,), n_classes=2, features=(word, Feature("c", values=("x", "y"))))
    with pytest.raises(NotApplicable, match="this table has categories only"):
        searched([copy], [reference], np.array([[1.0, 1.0]]), ONE, words, 0.1)


def test_pictures_move_in_steps_of_eight_bits() -> None:
    start = np.round(255 * np.random.default_rng(0).random((1, 3, 3))) / 255
    copy, reference = Slope(np.ones((3, 3))), Slope(np.zeros((3, 3)))
    found = searched([copy], [reference], start, ONE, Interface(input_shape=(3, 3), n_classes=2), 0.1)
    np.testing.assert_allclose(255 * found, np.round(255 * found), atol=1e-9)
    np.testing.assert_allclose(255 * found, np.minimum(255 * start + 25, 255))


def test_what_it_cannot_do_without_is_said() -> None:
    for victim, given in ((None, (None, TEST)), (VICTIM, ()), (VICTIM, (None, Rows(TEST.x)))):
        with pytest.raises(NotApplicable, match="it needs the model and rows that it was not trained on"):
            SCHEME.mint(bytes(32), API, victim, given)
    with pytest.raises(ParameterError, match="share of the input range"):
        Conferrable(eps=0)
