"""MI-Face: its stop rules, its bill, gradients by differences, and what rounding does to them."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface, Rows
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.privacy import CATALOG

RNG = np.random.default_rng(0)
SHAPE = (4, 4)
MODEL = SoftmaxRegression(5 * RNG.normal(size=(3, 16)), np.zeros(3), input_shape=SHAPE)
INTERFACE = Interface(input_shape=SHAPE, n_classes=3)
NOBODY = Rows(np.empty((0, *SHAPE)))


def invert(words="mi_face", model=MODEL, knowledge=None, budget=10**6, **shown):
    oracle = LocalOracle(model, INTERFACE.revealing(**shown), budget=budget)
    held = Knowledge(model=model) if knowledge is None else knowledge
    return CATALOG.build(words)(oracle, held, NOBODY, rng=np.random.default_rng(0)), oracle


def test_every_class_is_reached_without_a_query():
    leakage, oracle = invert()
    p = MODEL.scores(leakage.recovered)[np.arange(3), np.arange(3)]
    assert (p >= 0.99).all()
    assert leakage.notes["ended_by"] == ["confidence"] * 3
    assert oracle.queries == 0
    assert 1 - p == pytest.approx(leakage.notes["cost"])
    assert (leakage.recovered >= 0).all()
    assert (leakage.recovered <= 1).all()


def test_differences_follow_the_gradient_and_every_question_is_paid():
    by_gradient, _ = invert("mi_face(iterations=5, confidence=1.0)")
    words = "mi_face(iterations=5, confidence=1.0, difference=1e-6)"
    by_difference, oracle = invert(words, knowledge=Knowledge())
    assert by_difference.recovered == pytest.approx(by_gradient.recovered, abs=1e-4)
    assert oracle.queries == 3 * (1 + 5 * (16 + 1))  # the first cost, then a gradient and a cost a step


def test_the_cost_rule_ends_it_where_nothing_gets_better():
    class Flat:
        input_shape, n_classes = SHAPE, 3

        def scores(self, x):
            return np.full((len(x), 3), 1 / 3)

        def input_gradient(self, x, weights, *, of):
            return np.zeros_like(x)

    leakage, _ = invert(model=Flat())
    assert leakage.notes["ended_by"] == ["cost"] * 3
    assert leakage.notes["steps"] == 1


def test_a_step_back_is_allowed_while_the_cost_is_below_the_greatest_of_the_last_ones():
    """Costs .5 .3 .4 .45 ...: with a patience of 1 the second step back ends it; with 3 it goes on to the end. The
    best of all is returned, not the last."""

    class Wavy:
        input_shape, n_classes = (1,), 2
        costs = (0.5, 0.3, 0.4, 0.2, 0.35, 0.6)

        def scores(self, x):
            p = 1 - np.array(self.costs)[np.rint(x[:, 0]).astype(int)]
            return np.column_stack([p, 1 - p])

        def input_gradient(self, x, weights, *, of):
            return np.where(x < 5, -1.0, 0.0) / self.scores(x)[:, :1]  # of log p; that of 1 - p is 1, then 0

    interface = Interface(input_shape=(1,), n_classes=2, bounds=(0.0, 5.0))
    found = {}
    for patience in (1, 3):
        attack = CATALOG.build(f"mi_face(classes=(0,), patience={patience}, step=0.04)")  # 0.04 * 5^2 = 1
        oracle, rows = LocalOracle(Wavy(), interface, budget=9), Rows(np.empty((0, 1)))
        leakage = attack(oracle, Knowledge(model=Wavy()), rows, rng=np.random.default_rng(0))
        found[patience] = (leakage.notes["steps"], leakage.recovered[0, 0], leakage.notes["ended_by"])
    assert found[1] == (2, 1.0, ["cost"])
    assert found[3] == (5, 3.0, ["cost"])


def test_rounding_leaves_no_gradient_by_differences():
    exact, _ = invert("mi_face(iterations=60)", knowledge=Knowledge())
    rounded, _ = invert("mi_face(iterations=60)", knowledge=Knowledge(), decimals=1)
    assert max(exact.notes["cost"]) < 0.05
    assert min(rounded.notes["cost"]) > 0.3
    assert rounded.notes["ended_by"] == ["cost"] * 3


def test_a_budget_that_ends_within_a_gradient_keeps_what_is_whole():
    leakage, oracle = invert("mi_face(iterations=60)", knowledge=Knowledge(), budget=3 + 3 * 17 + 20)
    assert oracle.queries <= 74
    assert leakage.notes["steps"] == 1
    assert leakage.stopped == "budget"


def test_a_prior_keeps_near_the_pool_and_smoothing_makes_it_smooth():
    pool = np.full((4, *SHAPE), 0.9)
    free, _ = invert()
    near, _ = invert("mi_face(prior=50.0, step=0.05)", knowledge=Knowledge(model=MODEL, pool=pool))
    assert np.abs(near.recovered - 0.9).mean() < np.abs(free.recovered - 0.9).mean()
    smooth, _ = invert("mi_face(process=smooth)")
    assert np.abs(np.diff(smooth.recovered, axis=1)).mean() < np.abs(np.diff(free.recovered, axis=1)).mean()


def test_what_cannot_be_inverted_says_why():
    class Locked:
        input_shape, n_classes = SHAPE, 3

        def scores(self, x):
            return MODEL.scores(x)

    with pytest.raises(NotApplicable, match="can be differentiated; this is a Locked"):
        invert("mi_face(by=gradients)", model=Locked())
    with pytest.raises(NotApplicable, match="can be differentiated; there is none"):
        invert("mi_face(by=gradients)", knowledge=Knowledge())
    with pytest.raises(NotApplicable, match="needs a pool"):
        invert("mi_face(prior=1.0)")
    with pytest.raises(NotApplicable, match="classes below 3; class 7 was named"):
        invert("mi_face(classes=(7,))")
