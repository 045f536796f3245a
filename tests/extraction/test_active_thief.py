from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Reveals
from portcullis_ml.extraction.active_thief import STRATEGIES, ActiveThief
from portcullis_ml.models.auto import AutoLearner

from .toys import ToyLearner, WatchedOracle, inputs, toy_victim

VICTIM = toy_victim()
PROBS = Interface(input_shape=(2, 3), n_classes=3)


def thieve(budget: int = 80, *, pool: Array | None = None, door: Interface = PROBS, **settings: Any) -> Extraction:
    learner, oracle = ToyLearner(), WatchedOracle(LocalOracle(VICTIM, door, budget=budget))
    knowledge = Knowledge(pool=inputs(200, 0) if pool is None else pool, learner=learner)
    result = ActiveThief(**settings)(oracle, knowledge, rng=np.random.default_rng(0))
    result.notes["fits"], result.notes["batches"] = learner.fits, oracle.batches
    return result


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_row_is_asked_once_in_rounds_of_equal_size(strategy: str) -> None:
    found = thieve(strategy=strategy, rounds=7)
    assert len({row.tobytes() for row in found.x}) == found.queries == 80
    assert [len(batch) for batch in found.notes["batches"]] == [10] * 8
    assert [n for n, _ in found.history] == [10, 20, 30, 40, 50, 60, 70, 80]


def test_copies_are_trained_from_scratch_on_all_rows() -> None:
    fits = thieve(rounds=3).notes["fits"]
    assert all(start is None for _, _, start in fits)
    assert [len(x) for x, _, _ in fits] == [10, 33, 57, 80]


def test_validation_is_paid_for_and_never_trained_on() -> None:
    found = thieve(validation=0.2, rounds=4)
    assert found.queries == 80
    aside = {row.tobytes() for row in found.x[:16]}
    assert all(aside.isdisjoint({row.tobytes() for row in x}) for x, _, _ in found.notes["fits"])
    scores = found.notes["validation_macro_f"]
    best = max(range(5), key=lambda i: (scores[i], i))
    assert found.model is found.history[best][1]


@pytest.mark.parametrize("strategy", ["uncertainty", "dfal"])
def test_uncertain_rows_are_asked_first(strategy: str) -> None:
    found = thieve(120, strategy=strategy, rounds=2, first=0.5)
    copy = found.history[0][1]
    p = np.sort(copy.scores(found.x), axis=1)
    lead = p[:, -1] - p[:, -2]
    assert lead[60:90].mean() < lead[:60].mean() / 2


def test_a_small_pool_is_asked_whole_and_the_rest_is_not_spent() -> None:
    found = thieve(80, pool=inputs(30, 0))
    assert found.queries == 30
    assert found.stopped == "done"


def test_labels_are_enough() -> None:
    assert thieve(door=PROBS.revealing(reveals=Reveals.LABELS)).queries == 80


def test_a_copy_without_gradients_is_judged_by_its_lead() -> None:
    learner = AutoLearner(families=("forest",))
    oracle = LocalOracle(VICTIM, PROBS, budget=60)
    attack = ActiveThief(strategy="dfal_k_centre", rounds=2)
    found = attack(oracle, Knowledge(pool=inputs(100, 0), learner=learner), rng=np.random.default_rng(0))
    assert found.queries == 60
    assert "no gradients" in found.notes["distance"]


def test_a_table_with_categories_is_judged_by_the_lead() -> None:
    features = (Feature("colour", values=("red", "green", "blue")), *(Feature(f"n{i}", -1, 1) for i in range(5)))
    door = Interface(input_shape=(6,), n_classes=3, features=features)
    rng = np.random.default_rng(0)
    pool = np.column_stack([rng.integers(0, 3, 100), rng.uniform(-1, 1, (100, 5))])
    victim = toy_victim()
    flat = type(victim)(victim.w, victim.b, (6,))
    attack = ActiveThief(strategy="dfal", rounds=2)
    found = attack(
        LocalOracle(flat, door, budget=40), Knowledge(pool=pool, learner=ToyLearner()), rng=np.random.default_rng(0)
    )
    assert "no gradients" in found.notes["distance"]


@pytest.mark.parametrize("setting", [{"strategy": "best"}, {"rounds": 0}, {"first": 0}, {"validation": 1}, {"look": 0}])
def test_bad_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(setting))):
        ActiveThief(**setting)
