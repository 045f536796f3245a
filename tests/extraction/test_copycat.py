from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Interface, Reveals
from portcullis_ml.extraction.copycat import Copycat, training_rows
from portcullis_ml.extraction.knockoff import Knockoff

from .toys import ToyLearner, inputs, toy_victim

VICTIM = toy_victim(n_classes=6)
PROBS = Interface(input_shape=(2, 3), n_classes=6)
LABELS = PROBS.revealing(reveals=Reveals.LABELS)


def thieve(door: Interface = PROBS, attack: Any = None, **settings: Any) -> Extraction:
    learner = ToyLearner()
    knowledge = Knowledge(pool=inputs(80, 0), learner=learner)
    attack = attack or Copycat(**settings)
    result = attack(LocalOracle(VICTIM, door, budget=80), knowledge, rng=np.random.default_rng(0))
    result.notes["fits"] = learner.fits
    return result


def test_probabilities_change_nothing() -> None:
    seen, unseen = thieve(PROBS), thieve(LABELS)
    np.testing.assert_array_equal(seen.notes["fits"][0][1], unseen.notes["fits"][0][1])
    np.testing.assert_array_equal(seen.model.scores(inputs(50, 1)), unseen.model.scores(inputs(50, 1)))
    assert set(np.unique(seen.notes["fits"][0][1])) == {0.0, 1.0}


def test_the_label_is_believed_when_the_probabilities_say_otherwise() -> None:
    class Contrary:
        """Serves label 0 with probabilities that favour class 1: a defense that keeps labels and bends the rest."""

        interface = Interface(input_shape=(2, 3), n_classes=2)
        left = 10

        def query(self, x: Array) -> Answer:
            self.left -= len(x)
            return Answer(np.zeros(len(x), np.int64), np.tile([0.1, 0.9], (len(x), 1)))

    learner = ToyLearner()
    Copycat()(Contrary(), Knowledge(pool=inputs(20, 0), learner=learner), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(learner.fits[0][1], np.tile([1.0, 0.0], (10, 1)))


def test_asks_what_knockoff_asks() -> None:
    np.testing.assert_array_equal(thieve().x, thieve(attack=Knockoff()).x)


def test_the_share_of_classes_that_came_back_is_noted() -> None:
    result = thieve()
    assert result.notes["classes_seen"] == len(set(result.answer.labels)) / 6


@pytest.mark.parametrize("cap", [None, 1, 5])
@pytest.mark.parametrize("oversample", [False, True])
def test_balance(cap: int | None, oversample: bool) -> None:
    labels = np.repeat([0, 2, 5], [40, 7, 3])
    labels = np.random.default_rng(0).permutation(labels)
    rows = training_rows(labels, cap=cap, oversample=oversample, rng=np.random.default_rng(1))
    counts = dict(zip(*np.unique(labels[rows], return_counts=True), strict=True))
    kept = {c: min(n, cap or n) for c, n in ((0, 40), (2, 7), (5, 3))}
    assert counts == ({c: max(kept.values()) for c in kept} if oversample else kept)
    for c, n in kept.items():
        times = np.unique(rows[labels[rows] == c], return_counts=True)[1]
        assert len(times) == n  # every row kept is there
        assert times.max() - times.min() <= 1  # and none much more often than another


def test_no_balance_trains_on_every_row_in_order() -> None:
    result = thieve()
    np.testing.assert_array_equal(result.notes["fits"][0][0], result.x)


def test_balance_is_free() -> None:
    result = thieve(balance="oversample")
    assert result.queries == len(result.x) == 80
    assert len(result.notes["fits"][0][0]) > 80


class Continuing(ToyLearner):
    """One that says that it can go on from a copy."""

    def online(self) -> Continuing:
        return self


def finetuned(learner: Any, budget: int = 80, seeds: int = 25, **settings: Any) -> Extraction:
    knowledge = Knowledge(pool=inputs(80, 0), seeds=inputs(seeds, 5), learner=learner)
    attack = Copycat(finetune=True, **settings)
    return attack(LocalOracle(VICTIM, LABELS, budget=budget), knowledge, rng=np.random.default_rng(0))


def test_finetuning_goes_on_with_rows_of_the_domain_alone() -> None:
    learner = Continuing()
    found = finetuned(learner)
    own = {row.tobytes() for row in inputs(25, 5)}
    (first, _, start), (second, _, after) = learner.fits
    assert found.queries == len(first) + len(second) == 80
    assert {row.tobytes() for row in second} == own
    assert own.isdisjoint({row.tobytes() for row in first})
    assert start is None
    assert after is found.history[0][1]
    assert found.notes["domain_rows"] == 25
    assert found.notes["repeated_rows"] == 0


def test_rows_of_the_domain_take_half_of_the_budget_at_most() -> None:
    assert finetuned(Continuing(), budget=30).notes["domain_rows"] == 15


def test_a_learner_that_starts_anew_learns_both_at_once() -> None:
    learner = ToyLearner()
    found = finetuned(learner, balance="oversample")
    assert len(learner.fits) == 1
    assert "at once" in found.notes["finetuned"]


def test_finetuning_without_rows_of_the_domain_asks_nothing() -> None:
    oracle = LocalOracle(VICTIM, LABELS, budget=80)
    knowledge = Knowledge(pool=inputs(80, 0), learner=ToyLearner())
    with pytest.raises(NotApplicable, match="needs seed inputs from the domain"):
        Copycat(finetune=True)(oracle, knowledge, rng=np.random.default_rng(0))
    assert oracle.queries == 0


@pytest.mark.parametrize("settings", [{"balance": "both"}, {"cap": 0}, {"batch": 0}, {"finetune": 1}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=rf"Copycat\.{next(iter(settings))} must be"):
        Copycat(**settings)
