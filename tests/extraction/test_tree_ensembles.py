"""Tree ensembles: exact where the budget reaches, honest where it does not, held to what scikit-learn grew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from extraction.toys import WatchedOracle
from portcullis_ml.core.attack import Harvest, Knowledge
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Model, Reveals
from portcullis_ml.defenses.block import Block
from portcullis_ml.extraction._grid import Grid, Identities
from portcullis_ml.extraction._lines import Known
from portcullis_ml.extraction._stairs import Stairs, lower, shrink
from portcullis_ml.extraction._sums import lines, lines_of_each
from portcullis_ml.extraction.tree_ensembles import TreeEnsembles
from portcullis_ml.models.ranked import Ranks, fit_sums
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.steps import Literals, linked, summed, unlinked

FEATURES = (Feature("a", -3.0, 5.0), Feature("b", 0.0, 1e4), Feature("c", 0.0, 1.0))
CODED = (*FEATURES, Feature("d", values=("x", "y", "z")))


def rows(n: int, seed: int, features: tuple[Feature, ...] = FEATURES) -> Array:
    return door(2, features).uniform(n, np.random.default_rng(seed))


def truth(x: Array, classes: int) -> Array:
    value = x[:, 0] / 4 + (x[:, 1] > 4e3) * x[:, 2] + (x[:, 3] == 1 if x.shape[1] > 3 else 0)
    return np.digitize(value, np.quantile(value, np.linspace(0, 1, classes + 1)[1:-1]))


def door(classes: int, features: tuple[Feature, ...] = FEATURES, **shown: Any) -> Interface:
    task = "classification" if classes else "regression"
    return Interface(input_shape=(len(features),), n_classes=classes, task=task, features=features, **shown)


def victim(kind: Any, classes: int, features: tuple[Feature, ...] = FEATURES, **settings: Any) -> Model:
    x = rows(400, 0, features)
    y = truth(x, classes) if classes else x[:, 0] * x[:, 2] + x[:, 1] / 1e4
    return SklearnModel(kind(random_state=0, **settings).fit(x, y), n_classes=classes)


def thieve(model: Model, api: Interface, budget: int = 60_000, **settings: Any) -> Extraction:
    oracle = WatchedOracle(LocalOracle(model, api, budget=budget))
    attack = TreeEnsembles(**{"checks": 2000, "trees": 50, **settings})
    result = attack(oracle, Knowledge(), rng=np.random.default_rng(1))
    assert sum(result.notes["bill"].values()) == result.queries == sum(map(len, oracle.batches))
    return result


def agreement(a: Model, b: Model, x: Array) -> float:
    return float((a.scores(x).argmax(axis=1) == b.scores(x).argmax(axis=1)).mean())


def true_thresholds(estimator: Any) -> list[tuple[int, float]]:
    """(feature, threshold) of every split of every tree, read out of the model: what no thief may do."""
    found = set()
    for tree in np.ravel(estimator.estimators_):
        split = tree.tree_.feature >= 0
        found |= set(zip(tree.tree_.feature[split].tolist(), tree.tree_.threshold[split].tolist(), strict=True))
    return sorted(found)


EXACT = {
    "forest": (RandomForestClassifier, 2, {"n_estimators": 5, "max_depth": 3}),
    "forest, three classes": (RandomForestClassifier, 3, {"n_estimators": 4, "max_depth": 3}),
    "boosted": (GradientBoostingClassifier, 2, {"n_estimators": 6, "max_depth": 3}),
    "boosted, three classes": (GradientBoostingClassifier, 3, {"n_estimators": 3, "max_depth": 2}),
    "forest of values": (RandomForestRegressor, 0, {"n_estimators": 3, "max_depth": 3}),
    "boosted values": (GradientBoostingRegressor, 0, {"n_estimators": 5, "max_depth": 3}),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_small_ensemble_is_the_same_function_everywhere(name: str) -> None:
    kind, classes, settings = EXACT[name]
    model = victim(kind, classes, **settings)
    result = thieve(model, door(classes))
    assert result.notes["complete"] is True
    assert result.notes["link"] in (("share", "logit") if classes else ("value",))  # a guess: both lead there
    x = rows(5000, 9)
    spread = np.ptp(model.scores(x))
    assert np.abs(result.model.scores(x) - model.scores(x)).max() <= 1e-7 * spread


@pytest.mark.parametrize("kind", [RandomForestClassifier, GradientBoostingClassifier])
def test_every_threshold_of_the_copy_is_one_of_the_trees_and_none_costs_nothing(kind: Any) -> None:
    model = victim(kind, 2, n_estimators=5, max_depth=3)
    result = thieve(model, door(2), eps=1e-7)
    true = true_thresholds(model.estimator)  # type: ignore[attr-defined]
    width = {j: f.high - f.low for j, f in enumerate(FEATURES)}
    for j, t in result.model.thresholds():  # type: ignore[attr-defined]
        assert min(abs(t - u) for i, u in true if i == j) <= 1e-7 * width[j]
    assert result.queries > len(true)  # the lower bound


def test_codes_are_told_apart() -> None:
    model = victim(RandomForestClassifier, 2, CODED, n_estimators=3, max_depth=3)
    result = thieve(model, door(2, CODED))
    x = rows(3000, 9, CODED)
    assert result.notes["complete"] is True
    assert np.abs(result.model.scores(x) - model.scores(x)).max() <= 1e-7


def test_all_classes_but_one_are_enough_and_fewer_are_labels() -> None:
    model = victim(RandomForestClassifier, 3, n_estimators=3, max_depth=2)
    two = thieve(model, door(3, reveals=Reveals.TOP_K, k=2))
    one = thieve(model, door(3, reveals=Reveals.TOP_K, k=1), budget=2000)
    x = rows(3000, 9)
    assert np.abs(two.model.scores(x) - model.scores(x)).max() <= 1e-7
    assert one.notes["way"] == "labels"


def test_more_queries_make_a_better_copy_until_it_is_exact() -> None:
    model = victim(RandomForestClassifier, 2, n_estimators=20, max_depth=4)
    x = rows(3000, 9)
    errors = []
    for budget in (300, 3000, 100_000):
        result = thieve(model, door(2), budget=budget)
        errors.append(float(np.abs(result.model.scores(x) - model.scores(x)).mean()))
        assert result.queries <= budget
        assert result.notes["complete"] is (budget == 100_000)
    assert errors[0] > errors[1] > 1e-7 > errors[2]


WIDE = tuple(Feature(f"x{j}", 0.0, 1.0) for j in range(20))


def wide_victim() -> tuple[Model, Array]:
    """A forest of 30 trees on 20 inputs, whose lines alone cost thousands; and points."""
    x = rows(800, 0, WIDE)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + x[:, 3] ** 2 > 1.2).astype(int)
    return SklearnModel(RandomForestClassifier(30, max_depth=4, random_state=0).fit(x, y)), rows(4000, 9, WIDE)


@pytest.mark.parametrize("budget", [400, 1500])
def test_a_budget_that_the_lines_would_eat_buys_points_to_fit_trees_to(budget: int) -> None:
    model, x = wide_victim()
    result = thieve(model, door(2, WIDE), budget=budget)
    assert result.notes["way"] == {400: "surrogate", 1500: "points"}[budget]
    assert result.notes["complete"] is False
    assert result.queries == budget
    assert result.notes["bill"].get("lines", 0) <= 0.15 * budget
    assert result.notes["copy"] != "constant"
    constant = max(np.bincount(model.scores(x).argmax(axis=1))) / len(x)
    assert constant < 0.75 < 0.85 < agreement(model, result.model, x)


def test_a_small_budget_is_worth_what_the_same_money_is_in_random_points() -> None:
    """The control: the same boosted trees, fitted to answers at uniform points alone."""
    model, x = wide_victim()
    api, budget = door(2, WIDE), 1500
    seen = api.uniform(budget, np.random.default_rng(5))
    plain = fit_sums(Ranks((None,) * 20), seen, model.scores(seen)[:, 1:], trees=50, seed=0)
    control = ((plain(x)[:, 0] > 0.5) == model.scores(x).argmax(axis=1)).mean()
    assert agreement(model, thieve(model, api, budget=budget).model, x) > control - 0.02


def test_rows_of_a_pool_are_asked_where_there_is_one() -> None:
    model, _ = wide_victim()
    pool = rows(100, 7, WIDE)
    oracle = WatchedOracle(LocalOracle(model, door(2, WIDE), budget=900))
    result = TreeEnsembles(trees=10)(oracle, Knowledge(pool=pool), rng=np.random.default_rng(0))
    asked = {row.tobytes() for row in result.x}
    assert all(row.tobytes() in asked for row in pool)
    assert result.queries == 900


def test_lines_that_are_joined_are_the_lines_of_one_search() -> None:
    model = victim(RandomForestClassifier, 2, n_estimators=4, max_depth=3)
    grid = Grid.of(door(2), 1e-5)
    bases = grid.uniform(3, np.random.default_rng(0))
    found = []
    for search in (lines, lines_of_each):
        harvest = Harvest(LocalOracle(model, door(2), budget=10**5))
        line, changes, *number = search(Identities(harvest, grid, 2), bases, Known())
        assert number in ([], [3])
        found.append({(*line[n], at) for n, at in zip(changes.line, changes.at, strict=True)})
    assert found[0] == found[1]
    assert len(found[0]) > 10


def test_labels_alone_give_an_approximation() -> None:
    model = victim(RandomForestClassifier, 2, n_estimators=20, max_depth=4)
    result = thieve(model, door(2, reveals=Reveals.LABELS), budget=4000)
    x = rows(3000, 9)
    constant = max(np.bincount(model.scores(x).argmax(axis=1))) / len(x)
    assert constant < 0.8 < 0.93 < agreement(model, result.model, x) < 1


def test_rounding_hides_small_steps_only() -> None:
    model = victim(RandomForestClassifier, 2, n_estimators=10, max_depth=3)
    result = thieve(model, door(2, decimals=3), budget=20_000)
    assert agreement(model, result.model, rows(3000, 9)) > 0.97


class Constant:
    input_shape, n_classes = (3,), 2

    def scores(self, x: Array) -> Array:
        return np.tile([0.25, 0.75], (len(x), 1))


def test_a_constant_victim_is_one_step() -> None:
    result = thieve(Constant(), door(2), checks=500)
    np.testing.assert_allclose(result.model.scores(rows(50, 9)), [[0.25, 0.75]] * 50)
    assert result.notes["thresholds"] == 0


@pytest.mark.parametrize("reveals", [Reveals.PROBS, Reveals.LABELS])
def test_a_closed_door_is_said_to_be_one(reveals: Reveals) -> None:
    guard = Guard(Block(), key=b"k" * 16)
    oracle = LocalOracle(Constant(), door(2, reveals=reveals), budget=100, guard=guard)
    with pytest.raises(AttackFailed, match=r"no answer to start from.*Raise the budget"):
        TreeEnsembles()(oracle, Knowledge(), rng=np.random.default_rng(0))


def test_sums_of_steps_are_what_a_loop_adds_up() -> None:
    rng = np.random.default_rng(0)
    x, literals = (
        rng.integers(0, 9, size=(70, 3)),
        Literals(rng.integers(0, 3, 6), rng.integers(1, 8, 6) + 0.5, rng.integers(0, 2, 6)),
    )
    terms, coef = np.array([[0, 0, 0], [1, 0, 0], [2, 5, 0], [3, 4, 6]]), rng.normal(size=(4, 2))
    slow = np.zeros((len(x), 2))
    for n, row in enumerate(x):
        for term, c in zip(terms, coef, strict=True):
            asked = [q - 1 for q in term if q]
            holds = [row[literals.feature[q]] > literals.edge[q] if literals.kind[q] == 0
                     else row[literals.feature[q]] <= literals.edge[q] for q in asked]  # fmt: skip
            slow[n] += c * all(holds)
    np.testing.assert_allclose(summed(x, literals, terms, coef), slow, atol=1e-12)


def test_links_have_inverses() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=20)
    for link in ("share", "logit"):
        np.testing.assert_allclose(unlinked(linked(p, link), link), p, atol=1e-12)  # type: ignore[arg-type]


def test_a_counterexample_is_led_to_the_corner_of_a_step() -> None:
    """The copy lacks one step at (6, 1, 3) seen from the anchor (2, 5, 3): every wrong point moves to it."""
    grid = Grid.of(Interface(input_shape=(3,), n_classes=2), 0.1)
    anchor, corner = np.array([2, 5, 3]), np.array([6, 1, 3])
    stairs, rng = Stairs(grid, anchor, 1), np.random.default_rng(0)

    def wrong(points: Any) -> Any:
        return stairs.beyond(corner, points).astype(np.int64)

    points = grid.uniform(500, rng)
    points = points[wrong(points) == 1]
    assert len(points) > 5
    bare = shrink(wrong, points, anchor, rng)
    assert (bare[:, 2] == 3).all()
    np.testing.assert_array_equal(lower(wrong, bare, stairs, Known(), rng), np.tile(corner, (len(points), 1)))
