"""Attacks on an API that answers numbers: exact where the victim is linear or a tree, a surrogate where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Feature, Interface
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG
from portcullis_ml.models.auto_numbers import NumbersLearner
from portcullis_ml.models.function import FunctionModel

FEATURES = (Feature("x", -2, 2), Feature("word", values=tuple("abcd")), Feature("z", 0, 10))
API = Interface(input_shape=(3,), task="regression", features=FEATURES)
LEARNER = NumbersLearner(families=("linear", "boosted"))


def linear(x):
    return 1e3 + 5 * x[:, 0] - 2 * x[:, 2] + np.array([0.0, 3.0, -7.0, 1.0])[x[:, 1].astype(int)]


def bent(x):
    return np.where(x[:, 0] > 0, x[:, 2] ** 2, -5.0)


def steal(word: str, victim: Any, budget: int, *, defense: str = "", **known: Any) -> Extraction:
    guard = Guard(DEFENSES.build(defense), key=bytes(16)) if defense else None
    oracle = LocalOracle(FunctionModel(victim, (3,), 0), API, budget=budget, guard=guard)
    return CATALOG.build(word)(oracle, Knowledge(**known), rng=np.random.default_rng(0))


def r2(found: Extraction, victim: Any) -> float:
    x = API.uniform(300, np.random.default_rng(5))
    truth = victim(x)
    return 1 - float(((found.model.scores(x)[:, 0] - truth) ** 2).mean() / truth.var())


def test_equation_solving_takes_one_query_an_unknown_and_five_that_check() -> None:
    found = steal("equation_solving", linear, 100)
    assert found.queries == 2 + 3 + 1 + 5
    assert found.notes["linear"] is True
    x = API.uniform(50, np.random.default_rng(1))
    np.testing.assert_allclose(found.model.scores(x)[:, 0], linear(x), rtol=1e-9)


def test_equation_solving_says_what_is_not_linear_and_returns_a_surrogate() -> None:
    found = steal("equation_solving", bent, 200)
    assert found.notes["linear"] is False
    assert found.notes["copy"] == "surrogate"
    assert found.queries == 200
    assert r2(found, bent) > 0.8


def test_equation_solving_averages_rounded_answers() -> None:
    found = steal("equation_solving", linear, 150, defense="rounding(decimals=-1)")
    assert found.queries == 150
    assert r2(found, linear) > 0.9


def test_equation_solving_needs_the_unknowns() -> None:
    with pytest.raises(AttackFailed, match="needs 6 queries for 5 inputs"):
        steal("equation_solving", linear, 5)


def test_knockoff_and_retraining_learn_numbers() -> None:
    pool = API.uniform(150, np.random.default_rng(2))
    assert r2(steal("knockoff", bent, 150, pool=pool, learner=LEARNER), bent) > 0.7
    assert r2(steal("retraining(strategy=uniform)", linear, 60), linear) > 0.99


@pytest.mark.parametrize(
    ("word", "said"),
    [("retraining", "strategy='uniform'"), ("knockoff(selection=adaptive)", "rewarded by classes"),
     ("copycat", "needs a classification API; this one does regression")],
)  # fmt: skip
def test_what_needs_classes_says_so(word: str, said: str) -> None:
    with pytest.raises(NotApplicable, match=said.replace("(", r"\(")):
        steal(word, linear, 20, pool=API.uniform(20, np.random.default_rng(0)), learner=LEARNER, seeds=np.zeros((2, 3)))


def test_tree_ensembles_of_a_victim_that_is_none_returns_what_does_better() -> None:
    found = steal("tree_ensembles", linear, 150)
    assert found.notes["copy"] == "surrogate"
    assert r2(found, linear) > 0.9
