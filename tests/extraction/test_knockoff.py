from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Reveals
from portcullis_ml.extraction.knockoff import Knockoff, without_replacement

from .toys import ToyLearner, ToySoftmax, WatchedOracle, inputs, toy_victim

VICTIM = toy_victim()
PROBS = Interface(input_shape=(2, 3), n_classes=3)


def thieve(pool: Array, budget: int, *, door: Interface = PROBS, seed: int = 0, **settings: Any) -> Extraction:
    learner = ToyLearner()
    oracle = WatchedOracle(LocalOracle(VICTIM, door, budget=budget))
    knowledge = Knowledge(pool=pool, learner=learner)
    result = Knockoff(**settings)(oracle, knowledge, rng=np.random.default_rng(seed))
    result.notes["fits"], result.notes["batches"] = learner.fits, oracle.batches
    return result


def indices(pool: Array, x: Array) -> list[int]:
    places = {row.tobytes(): i for i, row in enumerate(pool)}
    return [places[row.tobytes()] for row in x]


def test_no_row_twice_until_the_pool_is_used_up() -> None:
    pool = inputs(50, 0)
    asked = indices(pool, thieve(pool, 120, batch=16).x)
    assert len(asked) == 120
    assert sorted(asked[:50]) == sorted(asked[50:100]) == list(range(50))
    assert len(set(asked[100:])) == 20
    assert asked[:50] != asked[50:100]


def test_repeats_are_noted() -> None:
    pool = inputs(50, 0)
    assert thieve(pool, 50).notes["repeated_rows"] == 0
    assert thieve(pool, 65).notes["repeated_rows"] == 15


def test_batches_are_as_large_as_asked_and_the_last_is_cut() -> None:
    assert [len(b) for b in thieve(inputs(50, 0), 40, batch=16).notes["batches"]] == [16, 16, 8]


def test_the_copy_learns_soft_targets_once_and_from_scratch() -> None:
    result = thieve(inputs(60, 0), 60)
    ((x, targets, start),) = result.notes["fits"]
    assert start is None
    np.testing.assert_array_equal(x, result.x)
    np.testing.assert_allclose(targets, VICTIM.scores(x), atol=1e-12)


def test_labels_only_are_learned_as_they_are() -> None:
    ((x, targets, _),) = thieve(inputs(60, 0), 60, door=PROBS.revealing(reveals=Reveals.LABELS)).notes["fits"]
    np.testing.assert_array_equal(targets, np.eye(3)[VICTIM.scores(x).argmax(axis=1)])


def test_probabilities_are_worth_more_than_labels() -> None:
    def error(door: Interface, seed: int) -> float:
        copy = thieve(inputs(40, 10 + seed), 40, door=door, seed=seed).model
        test = inputs(1000, 1)
        return float(np.abs(copy.scores(test) - VICTIM.scores(test)).sum(axis=1).mean() / 2)

    labels = PROBS.revealing(reveals=Reveals.LABELS)
    assert all(error(PROBS, seed) < error(labels, seed) for seed in range(5))


def test_every_row_has_the_same_chance() -> None:
    drawn = np.concatenate([next(without_replacement(10, 3, np.random.default_rng(s))) for s in range(2000)])
    counts = np.bincount(drawn, minlength=10)  # 600 each, standard deviation 20.5
    assert abs(counts - 600).max() < 5 * 20.5


@pytest.mark.parametrize("batch", [1, 3, 7, 25])
def test_batches_cut_one_stream(batch: int) -> None:
    rng = np.random.default_rng(4)
    stream = np.concatenate([rng.permutation(7) for _ in range(5)])
    cut = np.concatenate(list(islice(without_replacement(7, batch, np.random.default_rng(4)), 25 // batch)))
    np.testing.assert_array_equal(cut, stream[: len(cut)])


def test_settings_out_of_range() -> None:
    with pytest.raises(ParameterError, match=r"Knockoff\.selection must be 'random' or 'adaptive'; got 'best'"):
        Knockoff(selection="best")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"Knockoff\.batch must be an int, at least 1; got 0"):
        Knockoff(batch=0)


def test_the_copy_is_the_learner_s() -> None:
    assert isinstance(thieve(inputs(20, 0), 20).model, ToySoftmax)
