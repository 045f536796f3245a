from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Labels, Model, Reveals
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.extraction._search import Segments, bisect, seek_classes
from portcullis_ml.extraction.lowd_meek import LowdMeek
from portcullis_ml.models.kernel import Quadric
from portcullis_ml.models.softmax import SoftmaxRegression

from .toys import WatchedOracle


def linear(d: int, seed: int, **changes: Any) -> SoftmaxRegression:
    rng = np.random.default_rng(seed)
    w, b = rng.normal(size=d), 0.3 * rng.normal()
    w = changes.get("w", w)
    return SoftmaxRegression(np.stack([0 * w, w]), np.array([0.0, changes.get("b", b)]))


def door(d: int, **changes: Any) -> Interface:
    settings: dict[str, Any] = {"bounds": (-1, 1), "reveals": Reveals.LABELS, "n_classes": 2, **changes}
    return Interface(input_shape=(d,), **settings)


def thieve(victim: Model, interface: Interface, budget: int = 100_000, seed: int = 0, **settings: Any) -> Extraction:
    oracle = WatchedOracle(LocalOracle(victim, interface, budget=budget))
    result = LowdMeek(**settings)(oracle, Knowledge(), rng=np.random.default_rng(seed))
    assert sum(result.notes["bill"].values()) == result.queries == sum(map(len, oracle.batches))
    result.notes["batches"] = len(oracle.batches)
    return result


def direction(model: Any) -> Array:
    theta = np.append(model.w[1] - model.w[0], model.b[1] - model.b[0])
    return theta / np.linalg.norm(theta[:-1])


def disagreement(a: Model, b: Model, x: Array) -> float:
    return float((a.scores(x).argmax(axis=1) != b.scores(x).argmax(axis=1)).mean())


@pytest.mark.parametrize("d", [2, 8, 20, 63, 105])
@pytest.mark.parametrize("seed", range(3))
def test_the_direction_within_45_queries_a_parameter(d: int, seed: int) -> None:
    victim = linear(d, seed)
    result = thieve(victim, door(d), seed=seed)
    assert abs(direction(result.model) - direction(victim)).max() < 1e-5
    assert result.queries <= 45 * (d + 1)
    assert result.notes["residual"] < 1e-5
    assert disagreement(result.model, victim, door(d).uniform(10_000, np.random.default_rng(9))) <= 1e-4


def test_zero_weights_and_weights_of_very_different_sizes() -> None:
    w = np.array([0.0, 3.0, 0.0, 1e-4, -1.0, 1e-2, 0.0, 40.0])
    victim = linear(8, 0, w=w, b=5.0)
    result = thieve(victim, door(8))
    assert abs(direction(result.model) - direction(victim)).max() < 1e-5
    assert result.queries <= 45 * 9


def test_a_victim_that_is_one_coordinate_alone() -> None:
    victim = linear(5, 0, w=np.array([0.0, 0.0, 2.0, 0.0, 0.0]), b=-0.5)
    assert abs(direction(thieve(victim, door(5)).model) - direction(victim)).max() < 1e-5


def test_a_class_in_a_corner_costs_more_probes_and_no_precision() -> None:
    victim = linear(6, 0, w=np.ones(6), b=-3.6)  # half a percent of the box
    result = thieve(victim, door(6), seed=2)
    assert result.notes["bill"]["probes"] > 100
    assert abs(direction(result.model) - direction(victim)).max() < 1e-5


def test_columns_of_any_range_and_one_that_cannot_change() -> None:
    features = (Feature("age", 17, 90), Feature("fixed", 3, 3), Feature("gain", 0, 1e5))
    victim = linear(3, 0, w=np.array([0.1, 0.0, -1e-4]), b=-1.0)
    interface = door(3, features=features)
    result = thieve(victim, interface)
    assert disagreement(result.model, victim, interface.uniform(10_000, np.random.default_rng(1))) == 0


def test_the_oracle_gets_one_batch_a_level() -> None:
    assert thieve(linear(63, 0), door(63)).notes["batches"] < 70


def test_never_leaves_the_input_range() -> None:
    for seed in range(5):
        oracle = WatchedOracle(LocalOracle(linear(6, seed), door(6), budget=10_000))
        LowdMeek()(oracle, Knowledge(), rng=np.random.default_rng(seed))
        assert abs(np.concatenate(oracle.batches)).max() <= 1 + 1e-12


@pytest.mark.parametrize(("rows", "unfinished"), [(60, True), (100_000, False)])
def test_a_door_that_closes_before_every_weight_is_known_is_said(rows: int, unfinished: bool) -> None:
    guard = Guard(Quota(rows=rows, per=None), key=b"k" * 16)
    oracle = LocalOracle(linear(8, 0), door(8), budget=2_000, guard=guard)
    notes = LowdMeek()(oracle, Knowledge(), rng=np.random.default_rng(0)).notes
    assert ("unfinished" in notes) == unfinished


@pytest.mark.parametrize(("budget", "worst"), [(40, 1.0), (120, 1e-2), (170, 1e-4)])
def test_a_short_budget_is_spent_and_gives_a_coarser_copy(budget: int, worst: float) -> None:
    victim = linear(8, 1)
    result = thieve(victim, door(8), budget=budget)
    assert result.queries == budget
    assert abs(direction(result.model) - direction(victim)).max() < worst


@pytest.mark.parametrize(("d", "unknowns"), [(2, 6), (5, 21), (10, 66)])
@pytest.mark.parametrize("seed", range(2))
def test_a_quadratic_kernel_within_60_queries_an_unknown(d: int, unknowns: int, seed: int) -> None:
    victim = Quadric(np.random.default_rng(seed).normal(size=unknowns), d)
    result = thieve(victim, door(d), seed=seed, kernel="quadratic")
    assert result.queries <= 60 * unknowns
    x = door(d).uniform(10_000, np.random.default_rng(9))
    assert 0.05 < (victim.scores(x).argmax(axis=1)).mean() < 0.95  # else agreement would say nothing
    assert disagreement(result.model, victim, x) == 0
    assert result.notes["nullity"] == 1


def test_a_hyperplane_is_many_quadrics_and_the_labels_choose() -> None:
    victim = linear(3, 4)
    result = thieve(victim, door(3), kernel="quadratic")
    assert result.notes["nullity"] == 4  # the hyperplane times any of 1, x, y, z
    assert disagreement(result.model, victim, door(3).uniform(10_000, np.random.default_rng(9))) < 0.01


def test_quadric_features_are_the_polynomial_kernel() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 7, 4))
    np.testing.assert_allclose(Quadric.features(x) @ Quadric.features(y).T, (x @ y.T + 1) ** 2)


class Constant:
    input_shape, n_classes = (4,), 2

    def scores(self, x: Array) -> Array:
        return np.tile([0.0, 1.0], (len(x), 1))


class TestSentences:
    def test_a_constant_victim_ends_a_bounded_and_billed_search(self) -> None:
        oracle = LocalOracle(Constant(), door(4), budget=10_000)
        with pytest.raises(AttackFailed, match=r"300 random points all got the same label.*unless the victim is const"):
            LowdMeek(probes=300)(oracle, Knowledge(), rng=np.random.default_rng(0))
        assert oracle.queries == 300

    def test_a_budget_too_small(self) -> None:
        with pytest.raises(AttackFailed, match=r"needs 36 queries for 8 inputs; the budget is 35\. Raise it"):
            thieve(linear(8, 0), door(8), budget=35)

    def test_more_than_two_classes(self) -> None:
        victim = SoftmaxRegression(np.eye(3), np.zeros(3))
        with pytest.raises(NotApplicable, match=r"needs two classes; this API has 3\. Try retraining"):
            thieve(victim, door(3, n_classes=3))

    def test_a_category(self) -> None:
        features = (Feature("colour", values=("red", "green")), Feature("size", 0, 1))
        with pytest.raises(NotApplicable, match="column 'colour' is a category"):
            thieve(linear(2, 0), door(2, features=features))

    @pytest.mark.parametrize("settings", [{"kernel": "rbf"}, {"eps": 0.0}, {"probes": 1}])
    def test_settings(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ParameterError, match=rf"LowdMeek\.{next(iter(settings))} must be"):
            LowdMeek(**settings)


class TestSearch:
    """All lines at once agree with one line at a time."""

    @staticmethod
    def one_line(label: Any, near: Array, far: Array, levels: int) -> tuple[float, float]:
        low, high = 0.0, 1.0
        start = label(near[None])[0]
        for _ in range(levels):
            middle = (low + high) / 2
            if label((near + middle * (far - near))[None])[0] == start:
                low = middle
            else:
                high = middle
        return low, high

    def test_bisect(self) -> None:
        rng = np.random.default_rng(0)
        w = rng.normal(size=(4, 3))
        near, far, levels = rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), rng.integers(0, 12, size=30)
        asked = []

        def label(x: Array) -> Labels:
            asked.append(len(x))
            return np.asarray((x @ w).argmax(axis=1))

        found = np.stack(bisect(label, Segments(near, far), label(near), levels))
        assert sum(asked) == 30 + levels.sum()
        assert len(asked) == 1 + levels.max()
        slow = [self.one_line(label, *line) for line in zip(near, far, levels, strict=True)]
        np.testing.assert_array_equal(found.T, slow)

    def test_bisect_keeps_what_it_knows_when_the_game_ends(self) -> None:
        left = [10]

        def label(x: Array) -> Labels:
            answered = x[: left[0]]
            left[0] -= len(answered)
            return np.asarray(answered[:, 0] > 0.3, np.int64)

        near, far = bisect(label, Segments(np.zeros((4, 1)), np.ones((4, 1))), np.zeros(4, np.int64), np.full(4, 9))
        np.testing.assert_array_equal(near, [0.25] * 4)
        np.testing.assert_array_equal(far, [0.375, 0.375, 0.5, 0.5])

    def test_categories_turn_once_on_the_way(self) -> None:
        turn = np.array([[np.nan, 0.4]])
        segment = Segments(np.array([[0.0, 2.0]]), np.array([[1.0, 5.0]]), turn)
        rows = [segment.at(np.array([s]))[0] for s in (0.0, 0.25, 0.5, 1.0)]
        np.testing.assert_array_equal(rows, [[0, 2], [0.25, 2], [0.5, 5], [1, 5]])

    def test_seek_classes_doubles_up_to_the_cap(self) -> None:
        sizes = []

        def label(x: Array) -> Labels:
            sizes.append(len(x))
            return np.zeros(len(x), np.int64)

        x, labels = seek_classes(label, lambda n: np.zeros((n, 2)), probes=50, enough=lambda seen: False)
        assert sizes == [4, 4, 8, 16, 18]
        assert len(x) == len(labels) == 50
