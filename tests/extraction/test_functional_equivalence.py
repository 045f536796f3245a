from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.neural_network import MLPClassifier

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface
from portcullis_ml.extraction._kinks import NotPiecewiseLinear, find_kinks, measure_units
from portcullis_ml.extraction.functional_equivalence import FunctionalEquivalence
from portcullis_ml.models.mlp import Mlp
from portcullis_ml.models.relu import ReluNetwork
from portcullis_ml.models.sklearn import SklearnModel

SIZES = [(10, 5, 1), (10, 10, 1), (10, 16, 2), (30, 20, 3), (64, 32, 10)]  # inputs, hidden units, outputs


def random_network(d: int, h: int, k: int, seed: int) -> ReluNetwork:
    """One output: a regression, whose value is the logit. More: a softmax over k logits."""
    rng = np.random.default_rng(seed)
    w, b = rng.normal(size=(h, d)) / np.sqrt(d), 0.5 * rng.normal(size=h)
    v, a = rng.normal(size=(k, h)) / np.sqrt(h), 0.1 * rng.normal(size=k)
    if k == 1:
        return ReluNetwork(w, b, v, np.zeros((1, d)), a, 0)
    return ReluNetwork(w, b, v[1:] - v[0], np.zeros((k - 1, d)), a[1:] - a[0], k)


def door_of(net: Any, **changes: Any) -> Interface:
    task = "regression" if net.n_classes == 0 else "classification"
    return Interface(input_shape=net.input_shape, n_classes=net.n_classes, task=task, bounds=(-3, 3)).revealing(
        **changes
    )


def thieve(victim: Any, door: Interface, budget: int, seed: int = 0, **settings: Any) -> Extraction:
    oracle = LocalOracle(victim, door, budget=budget)
    result = FunctionalEquivalence(**settings)(oracle, Knowledge(), rng=np.random.default_rng(seed))
    assert result.queries == oracle.queries
    return result


def drawn(door: Interface, n: int = 10_000) -> Array:
    """Rows that no part of an attack has seen: normal, within the bounds."""
    return np.random.default_rng(99).normal(size=(n, *door.input_shape)).clip(*door.bounds)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("d", "h", "k"), SIZES)
def test_random_networks_are_rebuilt(d: int, h: int, k: int, seed: int) -> None:
    victim = random_network(d, h, k, seed)
    door = door_of(victim)
    result = thieve(victim, door, 60_000, seed + 100)
    assert result.notes["equivalent"]
    assert result.notes["units"] == h
    assert result.queries <= 11 * (h * d + h + k * h + k)
    assert isinstance(result.model, ReluNetwork)
    x = drawn(door)
    assert np.abs(result.model.outputs(x) - victim.outputs(x)).max() < 1e-6


def test_a_copy_takes_rows_of_the_interface_as_they_are() -> None:
    flat = random_network(6, 4, 3, 0)
    victim = replace(flat, input_shape=(2, 3))
    door = replace(door_of(flat), input_shape=(2, 3))
    result = thieve(victim, door, 60_000, 1)
    assert result.notes["equivalent"]
    x = drawn(door)
    assert x.shape[1:] == (2, 3)
    assert np.abs(result.model.scores(x) - victim.scores(x)).max() < 1e-6
    assert isinstance(result.model, ReluNetwork)  # which has a file format
    assert result.model.input_shape == (2, 3)
    slope = result.model.input_gradient(x[:5], np.eye(3)[[0, 1, 2, 0, 1]], of="logits")
    assert slope.shape == (5, 2, 3)


def test_units_that_are_always_on_or_off_in_range_are_no_obstacle() -> None:
    victim = random_network(6, 8, 3, 0)
    victim.b[:2] = 50, -50
    result = thieve(victim, door_of(victim), 5000)
    assert result.notes["equivalent"]
    assert result.notes["units"] == 6
    x = drawn(door_of(victim))
    assert np.abs(result.model.scores(x) - victim.scores(x)).max() < 1e-9


def test_two_units_on_one_plane_count_as_one() -> None:
    victim = random_network(6, 8, 3, 0)
    victim.w[1], victim.b[1] = -2 * victim.w[0], -2 * victim.b[0]
    result = thieve(victim, door_of(victim), 5000)
    assert result.notes["equivalent"]
    assert result.notes["units"] == 7


def test_a_network_that_scikit_learn_trained() -> None:
    x, y = load_wine(return_X_y=True)
    x = np.clip((x - x.mean(axis=0)) / x.std(axis=0), -3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        victim = SklearnModel(MLPClassifier((16,), max_iter=100, random_state=0).fit(x, y))
    result = thieve(victim, door_of(victim), 5000)
    assert result.notes["equivalent"]
    assert np.abs(result.model.scores(x) - victim.scores(x)).max() < 1e-6


def test_a_unit_that_two_points_in_a_thousand_reach_is_found_by_the_points_that_are_not_explained() -> None:
    victim = random_network(20, 6, 3, 1)
    x = door_of(victim).uniform(100_000, np.random.default_rng(5))
    corner = np.sort(np.where(x > 0, 3, -3) @ victim.w[0])
    victim.b[0] = -np.quantile(corner, 0.985)
    result = thieve(victim, door_of(victim), 20_000, held_out=200)
    assert result.notes["equivalent"]
    assert result.notes["units"] == 6


@pytest.fixture
def no_surrogate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy as the search leaves it, without the minutes that a surrogate's fit takes."""
    monkeypatch.setattr("portcullis_ml.extraction.functional_equivalence.or_surrogate", lambda name, copy, *rest: copy)


@pytest.mark.usefixtures("no_surrogate")
@pytest.mark.parametrize("decimals", [3, 6])
def test_rounded_answers_break_it_and_it_says_so(decimals: int) -> None:
    victim = random_network(10, 16, 3, 0)
    result = thieve(victim, door_of(victim, decimals=decimals), 5000)
    assert not result.notes["equivalent"]
    assert result.queries == 4  # the first line


@pytest.mark.usefixtures("no_surrogate")
def test_single_precision_breaks_it() -> None:
    class Single(ReluNetwork):
        def scores(self, x: Array) -> Array:
            return super().scores(x).astype(np.float32).astype(np.float64)

    net = random_network(30, 20, 3, 0)
    victim = Single(net.w, net.b, net.v, net.skip, net.a, 3)
    door = door_of(victim, precision="float32")
    result = thieve(victim, door, 4000)
    assert not result.notes["equivalent"]
    x = drawn(door)
    assert np.abs(result.model.scores(x) - victim.scores(x)).max() > 1e-4


def test_a_victim_of_another_family_gets_a_surrogate_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    victim = Mlp(rng.normal(size=(6, 4)), rng.normal(size=6), rng.normal(size=(3, 6)), rng.normal(size=3))
    result = thieve(victim, door_of(victim), 200)
    assert not result.notes["equivalent"]
    assert result.queries == 200


@pytest.mark.usefixtures("no_surrogate")
def test_a_small_budget_gives_what_is_known_so_far() -> None:
    victim = random_network(10, 16, 2, 0)
    result = thieve(victim, door_of(victim), 120)
    assert not result.notes["equivalent"]
    assert result.queries <= 120


def test_categories_are_refused() -> None:
    features = (Feature("age", low=0, high=1), Feature("job", values=("nurse", "cook", "clerk")))
    door = Interface(input_shape=(2,), n_classes=2, features=features)
    oracle = LocalOracle(random_network(2, 3, 2, 0), door, budget=100)
    with pytest.raises(AttackFailed, match="column 'job' is a category"):
        FunctionalEquivalence()(oracle, Knowledge(), rng=np.random.default_rng(0))
    assert oracle.queries == 0


class TestKinks:
    """The search on one line, against the places that the weights themselves give."""

    def test_all_kinks_of_a_line_are_found_in_order_and_no_other(self) -> None:
        for seed in range(10):
            victim, rng = random_network(10, 16, 3, seed), np.random.default_rng(seed)
            start, end = rng.uniform(-3, 3, size=(2, 10))
            found = find_kinks(lambda x, net=victim: (net.outputs(x), np.full(len(x), 1e-14)), start, end, most=1000)
            along = victim.w @ (end - start)
            t = -(victim.w @ start + victim.b) / along
            true = np.sort(t[(t > 0) & (t < 1)])
            assert [kink.t for kink in found] == pytest.approx(list(true), abs=1e-7)

    def test_the_unit_behind_a_kink_is_measured_up_to_its_scale(self) -> None:
        victim, rng = random_network(10, 16, 3, 0), np.random.default_rng(0)

        def ask(x: Array) -> tuple[Array, Array]:
            return victim.outputs(x), np.full(len(x), 1e-14)

        kinks = find_kinks(ask, *rng.uniform(-3, 3, size=(2, 10)), most=1000)
        units = measure_units(ask, kinks, np.full(10, -3.0), np.full(10, 3.0), rng)
        assert len(units) == len(kinks) > 2
        true = np.column_stack([victim.w, victim.b]) / np.linalg.norm(victim.w, axis=1)[:, None]
        match = np.abs(np.column_stack([units.w, units.b])[:, None] - true).max(axis=2)
        opposite = np.abs(np.column_stack([units.w, units.b])[:, None] + true).max(axis=2)
        assert np.minimum(match, opposite).min(axis=1).max() < 1e-8

    def test_a_curve_is_not_piecewise_linear(self) -> None:
        with pytest.raises(NotPiecewiseLinear):
            find_kinks(lambda x: (np.sin(x), np.full(len(x), 1e-15)), np.zeros(1), np.ones(1), most=50)
