from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Reveals
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.models.softmax import SoftmaxRegression

from .toys import Closes, ToySoftmax, WatchedOracle, inputs, toy_victim

Design = Literal["axes", "uniform"]


def asked(
    victim: Any, door: Interface, *, budget: int, guard: Guard | None = None, seed: int = 0, **settings: Any
) -> Extraction:
    """The extraction, whatever the copy is."""
    oracle = WatchedOracle(LocalOracle(victim, door, budget=budget, guard=guard))
    return EquationSolving(**settings)(oracle, Knowledge(), rng=np.random.default_rng(seed))


def thieve(
    victim: Any,
    door: Interface,
    *,
    budget: int | None = None,
    guard: Guard | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[Extraction, SoftmaxRegression]:
    budget = door.n_inputs + 1 if budget is None else budget
    result = asked(victim, door, budget=budget, guard=guard, seed=seed, **settings)
    assert isinstance(result.model, SoftmaxRegression)
    return result, result.model


def error(copy: SoftmaxRegression, w: Array, b: Array) -> float:
    """The largest parameter error, with class 0 taken off both: one vector on all classes changes nothing."""
    ours, theirs = np.column_stack([copy.w, copy.b]), np.column_stack([w, b])
    return float(np.abs((ours - ours[0]) - (theirs - theirs[0])).max())


class Logistic:
    """A binary logistic regression as scikit-learn serves it: p_0 is 1 - p_1."""

    n_classes = 2

    def __init__(self, w: Array, b: float) -> None:
        self.w, self.b, self.input_shape = w, b, (len(w),)

    def scores(self, x: Array) -> Array:
        p = 1 / (1 + np.exp(-(x @ self.w + self.b)))
        return np.column_stack([1 - p, p])


@pytest.mark.parametrize("d", [2, 8, 63, 108])
@pytest.mark.parametrize("seed", range(5))
def test_logistic_regression_with_d_plus_one_queries(d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=d)
    victim = Logistic(w * 4 / np.linalg.norm(w), float(rng.normal()))
    result, copy = thieve(victim, Interface(input_shape=(d,), n_classes=2, bounds=(-1, 1)), seed=seed)
    assert result.queries == len(result.x) == d + 1
    assert error(copy, np.stack([np.zeros(d), victim.w]), np.array([0, victim.b])) <= 1e-9


@pytest.mark.parametrize(("d", "c"), [(2, 3), (4, 3), (20, 5), (64, 10), (105, 5)])
@pytest.mark.parametrize("design", ["axes", "uniform"])
def test_softmax_regression_with_d_plus_one_queries(d: int, c: int, design: Design) -> None:
    victim = toy_victim((d,), c, seed=d, scale=0.5)
    result, copy = thieve(victim, Interface(input_shape=(d,), n_classes=c, bounds=(-1, 1)), design=design)
    assert result.queries == d + 1
    assert result.notes["unusable"] == 0
    assert result.notes["rank"] == result.notes["unknowns"] == d + 1
    assert error(copy, victim.w, victim.b) <= 1e-9
    x = inputs(1000, 1, (d,))
    assert np.abs(copy.scores(x) - victim.scores(x)).sum(axis=1).max() / 2 < 1e-9


@pytest.mark.parametrize("load", [load_iris, load_digits])
def test_a_trained_classifier(load: Any) -> None:
    data = load()
    x = data.data / data.data.max()
    trained = LogisticRegression(max_iter=2000).fit(x, data.target)

    class Served:
        input_shape, n_classes = (x.shape[1],), len(trained.classes_)

        def scores(self, x: Array) -> Array:
            return np.asarray(trained.predict_proba(x))

    result, copy = thieve(Served(), Interface(input_shape=(x.shape[1],), n_classes=len(trained.classes_)))
    assert result.queries == x.shape[1] + 1  # 5 for Iris, 65 for digits
    assert error(copy, trained.coef_, trained.intercept_) <= 1e-9
    np.testing.assert_array_equal(copy.scores(x).argmax(axis=1), trained.predict(x))


def test_images_are_flattened_and_the_copy_takes_images() -> None:
    victim = toy_victim((4, 5, 2), 3)
    result, copy = thieve(victim, Interface(input_shape=(4, 5, 2), n_classes=3))
    assert result.x.shape == (41, 4, 5, 2)
    assert copy.input_shape == (4, 5, 2)
    x = inputs(50, 1, (4, 5, 2))
    np.testing.assert_allclose(copy.scores(x), victim.scores(x), atol=1e-9)


def test_columns_of_very_different_ranges() -> None:
    ranges = [(0.0, 1e6), (-1e-3, 1e-3), (2.0, 2.0), (-5.0, 50.0)]
    door = Interface(input_shape=(4,), n_classes=3, features=tuple(Feature(f"c{i}", *r) for i, r in enumerate(ranges)))
    width = door.high - door.low
    w = np.random.default_rng(0).normal(size=(3, 4)) / np.where(width > 0, width, 1.0)
    victim = ToySoftmax(w, np.zeros(3), (4,))
    for design in ("axes", "uniform"):
        result, copy = thieve(victim, door, design=design, budget=10)
        x = door.uniform(100, np.random.default_rng(1))
        np.testing.assert_allclose(copy.scores(x), victim.scores(x), atol=1e-9)
        assert result.notes["rank"] == 4  # the column that never changes cannot be told from the intercept


class TestSaturation:
    def test_zeros_are_asked_again_nearer_and_paid_for(self) -> None:
        class Clipped(ToySoftmax):
            def scores(self, x: Array) -> Array:
                p = super().scores(x)
                p[p < 1e-3] = 0.0
                return p / p.sum(axis=1, keepdims=True)

        victim = Clipped(np.array([[30.0, 0.0, 1.0], [0.0, -2.0, 20.0]]), np.array([-15.0, -10.0]), (3,))
        result, copy = thieve(victim, Interface(input_shape=(3,), n_classes=2), budget=50, held_out=0)
        assert result.notes["unusable"] > 0
        assert result.queries == 4 + result.notes["unusable"]
        assert result.notes["rank"] == 4
        assert error(copy, victim.w, victim.b) <= 1e-9

    def test_a_saturated_middle_is_left(self) -> None:
        class Patchy(ToySoftmax):
            def scores(self, x: Array) -> Array:
                middle = (abs(x - 0.5) < 0.11).all(axis=1)
                return np.where(middle[:, None], [1.0, 0.0], super().scores(x))

        victim = Patchy(np.array([[1.0, 0.5], [0.2, -1.0]]), np.array([0.1, 0.0]), (2,))
        result, copy = thieve(victim, Interface(input_shape=(2,), n_classes=2), budget=40, held_out=0)
        assert result.notes["unusable"] > 0
        assert error(copy, victim.w, victim.b) <= 1e-9

    def test_nothing_but_saturation_is_a_sentence(self) -> None:
        class Certain:
            input_shape, n_classes = (3,), 2

            def scores(self, x: Array) -> Array:
                return np.tile([0.0, 1.0], (len(x), 1))

        with pytest.raises(AttackFailed, match="Each of the 20 answers had a probability of exactly 0"):
            thieve(Certain(), Interface(input_shape=(3,), n_classes=2), budget=20, route="log_ratio")


class TestHeldOut:
    def test_a_linear_victim_passes(self) -> None:
        result, _ = thieve(toy_victim((6,), 3), Interface(input_shape=(6,), n_classes=3), budget=100)
        assert result.queries == 7 + 5
        assert result.notes["linear"] is True
        assert result.notes["residual"] < 1e-9

    def test_another_victim_does_not(self) -> None:
        class Curved(ToySoftmax):
            def scores(self, x: Array) -> Array:
                return super().scores(x**2)

        victim = Curved(*(getattr(toy_victim((6,), 3), f) for f in ("w", "b", "input_shape")))
        result = asked(victim, Interface(input_shape=(6,), n_classes=3), budget=100)
        assert result.notes["linear"] is False
        assert result.notes["copy"] in ("equations", "intervals", "stepped", "surrogate")
        assert result.notes["residual"] > 1e-2

    def test_only_with_what_the_budget_has_to_spare(self) -> None:
        door = Interface(input_shape=(6,), n_classes=3)
        assert "residual" not in thieve(toy_victim((6,), 3), door, budget=7)[0].notes
        assert thieve(toy_victim((6,), 3), door, budget=9)[0].queries == 9
        assert thieve(toy_victim((6,), 3), door, budget=99, held_out=0)[0].queries == 7


class Bent(ToySoftmax):
    """A softmax regression with a little of the squares of its inputs in every class but the first."""

    def __init__(self, amount: float) -> None:
        straight = toy_victim((4,), 3, scale=0.5)
        super().__init__(straight.w, straight.b, straight.input_shape)
        self.amount = amount

    def scores(self, x: Array) -> Array:
        bent = np.log(super().scores(x)) + self.amount * (x**2).sum(axis=1, keepdims=True) * [0, 1, -1]
        return np.exp(bent) / np.exp(bent).sum(axis=1, keepdims=True)


class TestTolerance:
    """A victim counts as linear up to what the digits of its answers leave open, and not beyond."""

    @pytest.mark.parametrize(
        ("precision", "amount", "linear"),
        [("float64", 1e-8, True), ("float64", 1e-5, False), ("float32", 1e-4, True), ("float32", 2e-2, False)],
    )
    def test_of_log_ratios(self, precision: Any, amount: float, linear: bool) -> None:
        door = Interface(input_shape=(4,), n_classes=3, precision=precision)
        assert asked(Bent(amount), door, budget=60, route="log_ratio", held_out=20).notes["linear"] is linear

    @pytest.mark.parametrize(
        ("decimals", "amount", "family"),
        [(None, 1e-8, "softmax"), (None, 2e-5, "not linear"), (3, 1e-3, "softmax"), (3, 0.2, "not linear")],
    )
    def test_of_a_fit_of_all_answers(self, decimals: int | None, amount: float, family: str) -> None:
        door = Interface(input_shape=(4,), n_classes=3, decimals=decimals)
        result = asked(Bent(amount), door, budget=200, route="cross_entropy", oversample=8, held_out=20)
        assert result.notes["family"] == family

    @pytest.mark.parametrize(("decimals", "linear"), [(2, True), (1, False)])
    def test_answers_of_one_decimal_never_show_that_a_copy_is_exact(self, decimals: int, linear: bool) -> None:
        door = Interface(input_shape=(4,), n_classes=3, decimals=decimals)
        assert asked(Bent(0.0), door, budget=400).notes["linear"] is linear


class TestRounding:
    def test_the_axes_amplify_rounding_less_than_uniform_points(self) -> None:
        victim = toy_victim((30,), 3, scale=0.3)
        door = Interface(input_shape=(30,), n_classes=3, decimals=3)

        def worst(design: Design) -> list[float]:
            copies = [thieve(victim, door, route="log_ratio", design=design, seed=s)[1] for s in range(9)]
            return [error(copy, victim.w, victim.b) for copy in copies]

        assert max(worst("axes")) < np.median(worst("uniform"))

    def test_oversampling_averages_it_out(self) -> None:
        victim = toy_victim((10,), 3, scale=0.3)
        door = Interface(input_shape=(10,), n_classes=3, decimals=3)

        def mean_error(oversample: float) -> float:
            how: dict[str, Any] = {"route": "log_ratio", "oversample": oversample, "held_out": 0, "budget": 1000}
            thefts = [thieve(victim, door, seed=s, **how) for s in range(9)]
            assert all(result.queries == round(11 * oversample) for result, _ in thefts)
            return float(np.mean([error(copy, victim.w, victim.b) for _, copy in thefts]))

        assert mean_error(20.0) < mean_error(1.0) / 2


def test_the_smallest_solution_is_kept_when_the_guard_closes() -> None:
    guard = Guard(Closes(after=4), key=b"0" * 16)
    victim = toy_victim((6,), 3)
    result, copy = thieve(victim, Interface(input_shape=(6,), n_classes=3), guard=guard)
    assert result.notes["rank"] == 4
    assert result.notes["unknowns"] == 7
    np.testing.assert_allclose(copy.w[:, 3:], 0, atol=1e-9)  # the axes that it never reached
    np.testing.assert_allclose((copy.w - copy.w[0])[:, :3], (victim.w - victim.w[0])[:, :3], atol=1e-9)


def test_a_budget_below_d_plus_one_is_a_sentence() -> None:
    with pytest.raises(AttackFailed, match=r"needs 7 queries for 6 inputs; the budget is 6\. Raise it"):
        thieve(toy_victim((6,), 3), Interface(input_shape=(6,), n_classes=3), budget=6)


@pytest.mark.parametrize("reveals", [Reveals.LABELS, Reveals.TOP_K])
def test_less_than_probabilities_is_a_sentence(reveals: Reveals) -> None:
    door = Interface(input_shape=(6,), n_classes=3, reveals=reveals)
    with pytest.raises(NotApplicable, match=f"equation_solving needs probs; this API gives {reveals.word}"):
        thieve(toy_victim((6,), 3), door)


@pytest.mark.parametrize("settings", [{"route": "exact"}, {"design": "grid"}, {"oversample": 0.5}, {"held_out": -1}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=rf"EquationSolving\.{next(iter(settings))} must be"):
        EquationSolving(**settings)
