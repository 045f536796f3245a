"""Label-only inversion: what is kept, its bill, its two controls, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface, Reveals, Rows
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.privacy import CATALOG

pytest.importorskip("torch")

SHAPE = (4, 4)
HALVES = np.repeat([0.0, 1.0], 8)  # the pixels of the lower half
# class 0: bright above; 1: bright below; 2 is never answered
MODEL = SoftmaxRegression(np.stack([1 - HALVES, HALVES, 0 * HALVES]), np.array([0.0, 0.0, -99.0]), input_shape=SHAPE)
API = Interface(input_shape=SHAPE, n_classes=3, reveals=Reveals.LABELS)
NOBODY = Rows(np.empty((0, *SHAPE)))


def pool(n=300):
    rng = np.random.default_rng(1)
    bright = rng.integers(2, size=n)[:, None] == HALVES
    return np.clip(0.5 + 0.25 * (2 * bright - 1) + rng.normal(0, 0.1, (n, 16)), 0, 1).reshape(n, *SHAPE)


def invert(more="", *, budget=10**5, knowledge=None):
    oracle = LocalOracle(MODEL, API, budget=budget)
    attack = CATALOG.build(f"label_only_inversion(samples=20, hidden=32, latent=2, epochs=30, {more})")
    return attack(oracle, knowledge or Knowledge(pool=pool()), NOBODY, rng=np.random.default_rng(0)), oracle


def test_samples_are_of_their_class_and_the_class_that_is_never_answered_is_left_out():
    leakage, _ = invert()
    assert leakage.notes["classes"] == [0, 1]
    assert leakage.notes["pool_labelled"][2] == 0
    assert MODEL.scores(leakage.recovered).argmax(axis=1).tolist() == [0, 1]
    assert (leakage.recovered.reshape(2, -1).argmax(axis=1) >= 8).tolist() == [False, True]
    assert min(leakage.notes["stays_under"]) >= 0.5


def test_every_question_is_paid_and_none_is_asked_for_what_fell_out():
    leakage, oracle = invert("noises=(0.1,)")
    first = 300 + 2 * 20
    assert first < oracle.queries <= first + 2 * 20
    assert leakage.queries == oracle.queries


def test_a_generator_that_does_not_know_the_labels_stays_in_class_under_less_noise():
    knowing, _ = invert()
    shuffled, _ = invert("by=shuffled")
    other = np.abs(knowing.recovered[0] - knowing.recovered[1]).mean()
    same = np.abs(shuffled.recovered[0] - shuffled.recovered[1]).mean()
    assert sum(shuffled.notes["stays_under"]) <= sum(knowing.notes["stays_under"])
    assert other > 0.3
    assert same < other


def test_public_pictures_come_from_the_pool():
    leakage, _ = invert("by=pool")
    known = pool()
    for picture, c in zip(leakage.recovered, leakage.notes["classes"], strict=True):
        assert (picture == known).all(axis=(1, 2)).any()
        assert MODEL.scores(picture[None]).argmax() == c


def test_half_of_a_small_budget_is_kept_for_the_samples():
    leakage, oracle = invert(budget=100)
    assert sum(leakage.notes["pool_labelled"].values()) == 50
    assert oracle.queries == 100
    assert leakage.stopped == "budget"


def test_what_it_refuses():
    with pytest.raises(NotApplicable, match="needs a pool of natural inputs"):
        invert(knowledge=Knowledge())
    with pytest.raises(NotApplicable, match="inverts classes below 3; class 7 was named"):
        invert("classes=(7,)")
    with pytest.raises(ParameterError, match="numbers above 0 that grow"):
        invert("noises=(0.2, 0.1)")
