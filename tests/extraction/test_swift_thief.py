from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KernelDensity

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Model, Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction.swift_thief import SwiftThief, density, rare_now
from portcullis_ml.models.auto import AutoLearner
from portcullis_ml.models.students import student_of
from portcullis_ml.models.torch import TorchLearner

from .toys import ToySoftmax, WatchedOracle, inputs, toy_victim

VICTIM = toy_victim()
PROBS = Interface(input_shape=(2, 3), n_classes=3)
SMALL: dict[str, Any] = {"rounds": 4, "contrast": 1, "projector": 16}
LEARNER = TorchLearner(network="prada_1_layer", epochs=20, lr=0.03)


def lopsided(towards: float = 6.0) -> ToySoftmax:
    """A victim that seldom answers with class 2."""
    toy = toy_victim()
    return ToySoftmax(toy.w, toy.b - towards * np.array([0.0, 0.0, 1.0]), toy.input_shape)


def thieve(
    budget: int = 80, *, pool: Array | None = None, door: Interface = PROBS, victim: Model = VICTIM,
    guard: Guard | None = None, learner: Any = LEARNER, **settings: Any
) -> Extraction:  # fmt: skip
    oracle = WatchedOracle(LocalOracle(victim, door, budget=budget, guard=guard))
    knowledge = Knowledge(pool=inputs(200, 0) if pool is None else pool, learner=learner)
    result = SwiftThief(**{**SMALL, **settings})(oracle, knowledge, rng=np.random.default_rng(0))
    result.notes["batches"] = oracle.batches
    return result


def test_every_row_is_asked_once_in_rounds_of_equal_size() -> None:
    found = thieve()
    assert len({row.tobytes() for row in found.x}) == found.queries == 80
    assert [n for n, _ in found.history] == [20, 40, 60, 80]
    assert sum(found.notes["class_counts"]) == 80


def test_a_small_pool_is_asked_whole_and_the_rest_is_not_spent() -> None:
    found = thieve(pool=inputs(30, 0))
    assert found.queries == 30
    assert found.stopped == "done"


def test_validation_is_paid_for_and_chooses_the_copy() -> None:
    found = thieve(validation=0.2)
    assert found.queries == 80
    assert sum(found.notes["class_counts"]) == 64
    scores = found.notes["validation_macro_f"]
    best = max(range(4), key=lambda i: (scores[i], i))
    assert found.model is found.history[best][1]


@pytest.mark.parametrize(
    ("counts", "left", "rare"),
    [
        ([10, 10, 10], 1, False),  # no class is rare
        ([4, 8, 12], 4, True),  # the mean is 8, one rare class lacks 4
        ([4, 8, 12], 5, False),
        ([0, 2, 10], 6, True),  # the mean is 4; 4 and 2 are lacking, 2 * (4 - 1) in all
        ([0, 2, 10], 7, False),
    ],
)
def test_rarity_takes_over_exactly_where_the_rest_would_fill_the_rare_classes(
    counts: list[int], left: int, rare: bool
) -> None:
    assert rare_now(np.array(counts), left) is rare


def test_the_density_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    points, centres = rng.normal(size=(1500, 3)), rng.normal(size=(20, 3))
    known = KernelDensity(bandwidth=0.5).fit(centres).score_samples(points)
    found = density(points, centres, 0.5)
    np.testing.assert_allclose(found - found[0], known - known[0], rtol=1e-9, atol=1e-9)
    assert np.isfinite(density(1e3 * points, centres, 0.5)).all()  # far away, where every kernel is 0


def test_uncertain_rows_are_asked_first() -> None:
    found = thieve(120, rounds=2, contrast=0)
    copy = found.history[0][1]
    p = np.sort(copy.scores(found.x), axis=1)
    lead = p[:, -1] - p[:, -2]
    assert found.notes["sampling"] == ["entropy"]
    assert lead[60:90].mean() < lead[:60].mean() / 2


def test_rare_classes_come_back_more_often_than_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portcullis_ml.extraction.swift_thief.rare_now", lambda counts, left: True)
    pool, victim = inputs(600, 0), lopsided()
    found = thieve(120, pool=pool, victim=victim, rounds=2)
    share = (victim.scores(pool).argmax(axis=1) == 2).mean()
    assert found.notes["sampling"] == ["rare"]
    assert [len(batch) for batch in found.notes["batches"]] == [60, 12, 12, 12, 12, 12]  # looked at every fifth
    assert 0 < share < 0.1
    assert (found.answer.labels[60:] == 2).mean() > 2 * share


def test_without_rarity_every_round_asks_by_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portcullis_ml.extraction.swift_thief.rare_now", lambda counts, left: True)
    assert thieve(120, victim=lopsided(), rare=False).notes["sampling"] == ["entropy"] * 3


def test_saturated_copies_do_not_come_first() -> None:
    """A probability of exactly 0 has no entropy of its own: such rows are the least uncertain, not the most."""
    found = thieve(60, rounds=2, contrast=0, learner=TorchLearner(network="prada_1_layer", epochs=200, lr=1.0))
    copy = found.history[0][1]
    p = copy.scores(found.x[30:])
    assert np.isfinite(p).all()
    assert p.max(axis=1).min() < 0.999


@pytest.mark.parametrize(
    "door",
    [
        PROBS.revealing(reveals=Reveals.LABELS),
        PROBS.revealing(reveals=Reveals.TOP_K, k=1),
        PROBS.revealing(decimals=1),
    ],
    ids=["labels", "top_k", "rounded"],
)
def test_any_answer_will_do(door: Interface) -> None:
    x = inputs(500, 9)
    found = thieve(120, door=door, pool=inputs(400, 0))
    agreement = (found.model.scores(x).argmax(axis=1) == VICTIM.scores(x).argmax(axis=1)).mean()
    assert found.queries == 120
    assert agreement > 0.8


def test_rows_that_a_guard_withholds_are_paid_and_left_out() -> None:
    stage = DEFENSES.build("watch(detector=prada_normality(at_least=20, threshold=0.999), then=block)")
    found = thieve(guard=Guard(stage, key=bytes(16), interface=PROBS))
    assert len(found.x) == len(found.answer) <= found.queries <= 80


@pytest.mark.parametrize("contrast", [0, 2])
def test_the_copy_is_one_of_the_learners_own_network(contrast: int) -> None:
    found = thieve(contrast=contrast)
    assert getattr(found.model, "network", None) == "prada_1_layer"
    assert found.notes["student"] == "prada_1_layer"


def test_a_learner_that_is_no_single_network_lends_its_place_to_ours() -> None:
    assert thieve(60, learner=AutoLearner(families=("forest",))).notes["student"] == "table_mlp, ours"


def test_a_network_without_features_is_refused_before_anything_is_asked() -> None:
    oracle = LocalOracle(VICTIM, PROBS, budget=60)
    learner = TorchLearner(network="one_of_2_mlp", epochs=1)
    with pytest.raises(InputError, match=r"one_of_2_mlp.*ends in one linear layer"):
        SwiftThief()(oracle, Knowledge(pool=inputs(100, 0), learner=learner), rng=np.random.default_rng(0))
    assert oracle.queries == 0


def test_a_table_with_categories() -> None:
    features = (Feature("colour", values=("red", "green", "blue")), *(Feature(f"n{i}", -1, 1) for i in range(5)))
    door = Interface(input_shape=(6,), n_classes=3, features=features)
    rng = np.random.default_rng(0)
    pool = np.column_stack([rng.integers(0, 3, 300), rng.uniform(-1, 1, (300, 5))])
    toy = toy_victim()
    victim = ToySoftmax(toy.w, np.zeros(3), (6,))
    found = thieve(150, door=door, victim=victim, pool=pool, learner=AutoLearner())
    agreement = (found.model.scores(pool).argmax(axis=1) == victim.scores(pool).argmax(axis=1)).mean()
    assert found.notes["student"] == "table_mlp, ours"
    assert agreement > 0.8


def test_pictures_are_seen_as_pictures() -> None:
    digits = load_digits()
    x = digits.images / 16.0
    learner = TorchLearner(network="digits_cnn", epochs=8, batch=16)
    victim = learner.fit(x[:800], np.eye(10)[digits.target[:800]], rng=np.random.default_rng(0))
    door = Interface(input_shape=(8, 8), n_classes=10)
    assert student_of(learner, door).pictures
    found = thieve(200, door=door, victim=victim, pool=x[800:1300], learner=learner, rounds=3)
    truth = victim.scores(x[1300:]).argmax(axis=1)
    assert (found.model.scores(x[1300:]).argmax(axis=1) == truth).mean() > 0.7


@pytest.mark.parametrize(
    "setting",
    [
        {"rounds": 0}, {"contrast": -1}, {"unasked": 1}, {"projector": 1}, {"rate": 0}, {"crop": 0}, {"mirror": 1},
        {"corrupted": 1}, {"bandwidth": 0}, {"validation": 1},
    ],
)  # fmt: skip
def test_bad_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(setting))):
        SwiftThief(**setting)
