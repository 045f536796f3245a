"""Equation solving beyond the softmax: hypotheses told apart, rounding, tables, and the bounds it is held to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.datasets import load_digits, load_iris, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Model
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.extraction._equations import decimals_of, solve_log_ratios
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.models.encoding import Encoding
from portcullis_ml.models.lbfgs import Divergence, fit_softmax
from portcullis_ml.models.ovr import OneVsRest, fit_one_vs_rest
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.softmax import SoftmaxRegression

from .toys import ToySoftmax, WatchedOracle, toy_victim


def door(d: int, c: int, **changes: Any) -> Interface:
    return Interface(input_shape=(d,), n_classes=c, **{"bounds": (-1, 1), **changes})


def thieve(victim: Any, interface: Interface, budget: int, seed: int = 0, **settings: Any) -> Extraction:
    oracle = WatchedOracle(LocalOracle(victim, interface, budget=budget))
    result = EquationSolving(**settings)(oracle, Knowledge(), rng=np.random.default_rng(seed))
    assert sum(result.notes["bill"].values()) == result.queries == sum(map(len, oracle.batches))
    return result


def distance(copy: Model, victim: Model, interface: Interface) -> float:
    """R^TV on uniform points."""
    x = interface.uniform(5000, np.random.default_rng(99))
    return float(np.abs(copy.scores(x) - victim.scores(x)).sum(axis=1).mean() / 2)


def scaled(x: Array) -> Array:
    low, high = x.min(axis=0), x.max(axis=0)
    return np.where(high > low, 2 * (x - low) / np.where(high > low, high - low, 1) - 1, 0)


def table(name: str) -> tuple[Array, Array]:
    if name == "five":
        x, y = make_classification(1000, 20, n_informative=4, n_classes=5, n_clusters_per_class=1, random_state=0)
    else:
        x, y = {"iris": load_iris, "digits": load_digits}[name](return_X_y=True)
    return scaled(x), y


def trained(name: str, *, one_vs_rest: bool = False) -> SklearnModel:
    x, y = table(name)
    estimator = LogisticRegression(max_iter=5000)
    return SklearnModel((OneVsRestClassifier(estimator) if one_vs_rest else estimator).fit(x, y))


def unknowns(victim: Model) -> int:
    return victim.n_classes * (victim.input_shape[0] + 1)


@pytest.mark.parametrize("d", [2, 8, 63, 108])
@pytest.mark.parametrize("norm", [1.0, 8.0])
def test_logistic_parameters_to_a_millionth_with_exactly_d_plus_one(d: int, norm: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        w = rng.normal(size=d)
        w *= norm / np.linalg.norm(w)
        victim = SoftmaxRegression(np.stack([0 * w, w]), np.array([0.0, rng.normal()]))
        for design in ("axes", "uniform"):
            result = thieve(victim, door(d, 2), d + 1, seed=seed, design=design)
            assert result.queries == d + 1
            copy: Any = result.model
            error = np.abs(np.append(copy.w[1] - copy.w[0] - w, copy.b[1] - copy.b[0] - victim.b[1])).max()
            assert error <= 1e-6


@pytest.mark.parametrize(("name", "queries"), [("iris", 5), ("five", 21), ("digits", 65)])
def test_softmax_exactly_with_d_plus_one(name: str, queries: int) -> None:
    victim = trained(name)
    interface = door(victim.input_shape[0], victim.n_classes)
    result = thieve(victim, interface, queries)
    assert result.queries == queries
    assert distance(result.model, victim, interface) <= 1e-9


@pytest.mark.parametrize("name", ["iris", "five", "digits"])
def test_softmax_by_cross_entropy_with_k_queries(name: str) -> None:
    victim = trained(name)
    interface = door(victim.input_shape[0], victim.n_classes)
    result = thieve(victim, interface, unknowns(victim), route="cross_entropy", held_out=0)
    assert result.queries == unknowns(victim)
    assert distance(result.model, victim, interface) <= 1e-7


class TestExtractAndTest:
    @pytest.mark.parametrize("name", ["iris", "five", "digits"])
    def test_one_vs_rest_is_told_apart_and_extracted(self, name: str) -> None:
        victim = trained(name, one_vs_rest=True)
        interface = door(victim.input_shape[0], victim.n_classes)
        result = thieve(victim, interface, 10_000)
        assert result.notes["residual"] > 1e-2  # what the log-ratios leave
        assert result.notes["family"] == "one-vs-rest"
        assert result.notes["linear"] is True
        assert result.notes["errors"]["one_vs_rest"] < 1e-5 < result.notes["errors"]["softmax"]
        assert distance(result.model, victim, interface) <= 1e-6
        # d + 1 for the first hypothesis, 5 to test it, and the same answers count for the second.
        d = victim.input_shape[0]
        assert result.notes["bill"] == {"log_ratio": d + 1, "held_out": 5, "top_up": unknowns(victim) - d - 1}

    def test_softmax_is_accepted_after_d_plus_one_and_the_held_out(self) -> None:
        victim = trained("iris")
        result = thieve(victim, door(4, 3), 10_000)
        assert result.notes["bill"] == {"log_ratio": 5, "held_out": 5}
        assert result.notes["family"] == "softmax"
        assert result.notes["residual"] < 1e-9

    def test_no_family_is_claimed_where_most_held_out_answers_are_saturated(self) -> None:
        """A steep column saturates every random row but few; behind it another is cut into two bins."""

        class Steep(ToySoftmax):
            def scores(self, x: Array) -> Array:
                p = 1 / (1 + np.exp(-(400.0 * x[:, 0] + (x[:, 1] > 0.2))))
                return np.column_stack([1 - p, p])

        victim = Steep(np.zeros((2, 2)), np.zeros(2), (2,))
        results = [thieve(victim, door(2, 2), 60, seed=seed) for seed in range(8)]
        assert all(r.notes.get("family") != "softmax" for r in results)

    def test_a_complement_that_lost_its_digits_is_asked_again_nearer(self) -> None:
        """Weights as a column with a long tail has after scaling: its far end makes 1 - p a handful of last digits."""
        w, b = np.array([60.0, -3.0, 2.0, 0.5]), -1.0

        class Complement(ToySoftmax):
            def scores(self, x: Array) -> Array:
                p = 1 / (1 + np.exp(-(x @ w + b)))
                return np.column_stack([1 - p, p])

        victim = Complement(np.vstack([0 * w, w]), np.array([0.0, b]), (4,))
        poor = thieve(victim, door(4, 2), 5)  # no budget to ask again: an equation of few digits is kept
        assert poor.queries == 5
        assert np.abs((poor.model.w[1] - poor.model.w[0]) / w - 1).max() < 0.1
        result = thieve(victim, door(4, 2), 1000)
        assert 0 < victim.scores(np.array([[0.55, 0, 0, 0]])).min() < 1e-13  # not 0, and worth nothing
        assert result.notes["residual"] < 1e-5
        assert result.notes["family"] == "softmax"  # held-out points near one that is undecided can tell
        assert result.notes["bill"]["log_ratio"] == 5 + result.notes["unusable"]
        recovered = result.model.w[1] - result.model.w[0]
        assert np.abs(recovered - w).max() <= 1e-6

    def test_neither_is_said_to_be_not_linear(self) -> None:
        toy = toy_victim((6,), 3)

        class Curved(ToySoftmax):
            def scores(self, x: Array) -> Array:
                return super().scores(x**2)

        result = thieve(Curved(toy.w, toy.b, (6,)), door(6, 3), 300)
        assert result.notes["family"] == "not linear"
        assert result.notes["linear"] is False
        assert result.queries == 300  # the rest buys the best copy that there is

    def test_exactly_d_plus_one_leaves_nothing_to_test_with(self) -> None:
        result = thieve(trained("iris", one_vs_rest=True), door(4, 3), 5)
        assert result.queries == 5
        assert "family" not in result.notes

    def test_the_route_can_be_given(self) -> None:
        victim = trained("five", one_vs_rest=True)
        result = thieve(victim, door(20, 5), 105, route="one_vs_rest", held_out=0)
        assert result.notes["bill"] == {"top_up": 105}
        assert isinstance(result.model, OneVsRest)
        assert distance(result.model, victim, door(20, 5)) <= 1e-6


class TestRounding:
    def test_cross_entropy_bears_two_decimals_and_logarithms_do_not(self) -> None:
        victim = trained("digits")
        interface = door(64, 10, decimals=2)
        errors = {}
        for route in ("cross_entropy", "log_ratio"):
            settings: dict[str, Any] = {
                "route": route,
                "held_out": 0,
                "oversample": {"log_ratio": 10.0}.get(route, 1.0),
            }
            copy = thieve(victim, interface, 650, **settings).model
            x = interface.uniform(5000, np.random.default_rng(9))
            errors[route] = (copy.scores(x).argmax(axis=1) != victim.scores(x).argmax(axis=1)).mean()
        assert errors["cross_entropy"] < 0.03
        assert errors["cross_entropy"] < errors["log_ratio"]

    def test_auto_takes_the_cross_entropy_where_the_interface_says_rounded(self) -> None:
        result = thieve(trained("iris"), door(4, 3, decimals=4), 1000)
        assert (result.notes["bill"]["top_up"], result.notes["bill"]["held_out"]) == (15, 5)
        assert result.notes["linear"] is True
        assert result.queries < 300  # it stops where the answers are explained to their last digit

    def test_auto_sees_rounding_that_nobody_announced(self) -> None:
        victim, interface = trained("iris"), door(4, 3)
        guard = Guard(Rounding(decimals=3), key=b"0" * 16)
        oracle = LocalOracle(victim, interface, budget=1000, guard=guard)
        result = EquationSolving()(oracle, Knowledge(), rng=np.random.default_rng(0))
        assert result.notes["bill"]["top_up"] > 0
        assert result.notes["family"] == "softmax"
        assert distance(result.model, victim, interface) < 2e-3

    def test_the_order_of_the_sweep(self) -> None:
        """More decimals, better copy (mean of three thefts, three times the unknowns)."""
        victim = trained("five")
        errors = []
        for decimals in (None, 5, 4, 3, 2):
            interface = door(20, 5, decimals=decimals)
            how: dict[str, Any] = {"route": "cross_entropy", "oversample": 3.0, "held_out": 0}
            thefts = [thieve(victim, interface, 315, seed=s, **how) for s in range(3)]
            errors.append(float(np.mean([distance(t.model, victim, interface) for t in thefts])))
        assert errors == sorted(errors)

    def test_weights_by_precision_beat_none(self) -> None:
        rng, errors = np.random.default_rng(0), {True: [], False: []}
        for _ in range(9):
            w = rng.normal(size=8) * 2
            x = rng.uniform(-1, 1, (90, 8))
            p = np.round(expit(x @ w), 2)
            keep = (p > 0) & (p < 1)
            scores = np.column_stack([1 - p, p])[keep]
            for rounded in errors:
                model, _, _ = solve_log_ratios(x[keep], scores, rounded=rounded)
                errors[rounded].append(np.abs(model.w[1] - w).max())
        assert np.mean(errors[True]) < np.mean(errors[False]) / 2

    @pytest.mark.parametrize("decimals", [0, 2, 6])
    def test_decimals_are_read_off_the_answers(self, decimals: int) -> None:
        p = np.random.default_rng(0).dirichlet(np.ones(4), size=20)
        assert decimals_of(np.round(p, decimals)) == decimals
        assert decimals_of(p) is None


class TestTables:
    FEATURES = (
        Feature("age", 17, 90),
        Feature("job", values=("a", "b", "c", "d")),
        Feature("same", 2, 2),
        Feature("sex", values=("f", "m")),
        Feature("gain", 0, 1e5),
    )

    def victim(self, c: int) -> tuple[Any, Interface]:
        interface = Interface(input_shape=(5,), n_classes=c, features=self.FEATURES)
        encoding, rng = Encoding.of(interface), np.random.default_rng(3)
        w, b = rng.normal(size=(c, encoding.width)), rng.normal(size=c)

        class Pipeline:
            input_shape, n_classes = (5,), c

            def scores(self, x: Array) -> Array:
                return SoftmaxRegression(w, b).scores(encoding(x))

        return Pipeline(), interface

    @pytest.mark.parametrize("c", [2, 4])
    @pytest.mark.parametrize("design", ["axes", "uniform"])
    def test_categories_take_a_query_for_every_value_but_the_first(self, c: int, design: str) -> None:
        victim, interface = self.victim(c)
        result = thieve(victim, interface, 1 + 2 + 3 + 1, design=design)
        assert result.queries == 7
        assert result.notes["rank"] == 7
        x = interface.uniform(3000, np.random.default_rng(0))
        assert np.abs(result.model.scores(x) - victim.scores(x)).max() < 1e-9

    def test_one_query_less_is_a_sentence(self) -> None:
        victim, interface = self.victim(3)
        with pytest.raises(AttackFailed, match=r"needs 7 queries for 6 inputs; the budget is 6\. Raise it"):
            thieve(victim, interface, 6)

    def test_a_saturated_category_is_seen_from_elsewhere(self) -> None:
        interface = Interface(input_shape=(2,), n_classes=2, features=(Feature("a"), Feature("b", values=("x", "y"))))

        class Clipped:
            input_shape, n_classes = (2,), 2

            def scores(self, x: Array) -> Array:
                p = expit(4 * x[:, 0] + 4 * x[:, 1])
                p = np.where(p > 0.985, 1.0, p)
                return np.column_stack([1 - p, p])

        result = thieve(Clipped(), interface, 60, held_out=0)
        assert result.notes["unusable"] > 0
        x = np.array([[-0.9, 0], [-0.9, 1], [0.5, 0]])
        np.testing.assert_allclose(result.model.scores(x), Clipped().scores(x), atol=1e-9)


class TestFits:
    """The vectorised losses agree with sums written out, and the gradients with differences."""

    def test_divergence(self) -> None:
        rng = np.random.default_rng(0)
        p, q = rng.dirichlet(np.ones(3), size=(2, 4))
        p[0] = [1, 0, 0]
        slow = sum(
            a * np.log(a / b) for row, other in zip(p, q, strict=True) for a, b in zip(row, other, strict=True) if a
        )
        assert Divergence(p)(np.log(q))[0] == pytest.approx(slow / 4)

    def test_one_vs_rest_scores(self) -> None:
        rng = np.random.default_rng(0)
        model, x = OneVsRest(rng.normal(size=(3, 2)), rng.normal(size=3)), rng.normal(size=(5, 2))
        raw = expit(x @ model.w.T + model.b)
        np.testing.assert_allclose(model.scores(x), raw / raw.sum(axis=1, keepdims=True))
        far = OneVsRest(np.full((3, 2), -500.0), np.zeros(3)).scores(np.ones((1, 2)))
        np.testing.assert_allclose(far, 1 / 3)

    def test_one_vs_rest_parameters(self) -> None:
        rng = np.random.default_rng(1)
        model, x = OneVsRest(rng.normal(size=(3, 4)), rng.normal(size=3)), rng.uniform(-1, 1, (60, 4))
        found = fit_one_vs_rest(x, model.scores(x))
        np.testing.assert_allclose(found.w, model.w, atol=1e-5)
        np.testing.assert_allclose(found.b, model.b, atol=1e-5)

    def test_softmax_with_a_penalty_is_scikit_learns(self) -> None:
        x, y = table("iris")
        w, b = fit_softmax(x, np.eye(3)[y], penalty=0.0)
        assert w[0].any() == b[0] == 0  # class 0 is the reference
        soft = np.random.default_rng(0).dirichlet(np.ones(3), size=len(x))
        w, b = fit_softmax(x, soft)
        reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000)
        reference.fit(np.repeat(x, 3, axis=0), np.tile(np.arange(3), len(x)), sample_weight=soft.ravel())
        np.testing.assert_allclose(SoftmaxRegression(w, b).scores(x), reference.predict_proba(x), atol=1e-5)
