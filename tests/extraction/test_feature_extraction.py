from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris, make_circles

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, InputError, NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Model, Reveals
from portcullis_ml.extraction._edges import edges_of, shortest, snap
from portcullis_ml.extraction.feature_extraction import FeatureExtraction
from portcullis_ml.models.binned import BinnedLinear, Block, fit_binned

from .toys import WatchedOracle

ADULTISH = (
    Feature("age", 17, 90),
    Feature("job", values=tuple("abcdefgh")),
    Feature("gain", 0, 1e5),
    Feature("sex", values=("f", "m")),
    Feature("hours", 1, 99),
)


def circles() -> tuple[BinnedLinear, Interface]:
    x, y = make_circles(2000, factor=0.5, noise=0.05, random_state=0)
    return fit_binned(x, y), Interface(input_shape=(2,), n_classes=2, bounds=(-1.1, 1.1))


def iris() -> tuple[BinnedLinear, Interface]:
    x, y = load_iris(return_X_y=True)
    features = tuple(Feature(f"f{j}", *x[:, j][[x[:, j].argmin(), x[:, j].argmax()]]) for j in range(4))
    return fit_binned(x, y, features), Interface(input_shape=(4,), n_classes=3, features=features)


def adultish() -> tuple[BinnedLinear, Interface]:
    rng = np.random.default_rng(0)
    door = Interface(input_shape=(5,), n_classes=2, features=ADULTISH)
    x = door.uniform(3000, rng)
    z = x[:, 0] / 40 + (x[:, 1] % 3 == 0) + (x[:, 2] > 3e4) + x[:, 3] * x[:, 4] / 50 + rng.normal(size=3000) / 2
    return fit_binned(x, (z > np.median(z)).astype(int), ADULTISH), door


def digits() -> tuple[BinnedLinear, Interface]:
    x, y = load_digits(return_X_y=True)
    return fit_binned(x / 16, y, bins=0, c=0.01), Interface(input_shape=(64,), n_classes=10)


def thieve(victim: Model, door: Interface, budget: int = 10**5, seed: int = 0, **settings: Any) -> Extraction:
    oracle = WatchedOracle(LocalOracle(victim, door, budget=budget))
    result = FeatureExtraction(**settings)(oracle, Knowledge(), rng=np.random.default_rng(seed))
    assert sum(result.notes["bill"].values()) == result.queries == sum(map(len, oracle.batches))
    return result


def wrong(a: Model, b: Model, door: Interface) -> float:
    x = door.uniform(10_000, np.random.default_rng(99))
    truth = a.scores(x).argmax(axis=1)
    assert len(np.unique(truth)) > 1  # else agreement would say nothing
    return float((truth != b.scores(x).argmax(axis=1)).mean())


def assert_all_edges(model: Any, victim: BinnedLinear, door: Interface, eps: float) -> None:
    for j, (ours, theirs) in enumerate(zip(model.blocks, victim.blocks, strict=True)):
        visible = theirs.edges[(theirs.edges >= door.low[j]) & (theirs.edges < door.high[j])]
        assert len(ours.edges) == len(visible)
        assert np.abs(ours.edges - visible).max(initial=0) <= eps * (door.high[j] - door.low[j])


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize(("make", "published"), [(circles, 278), (iris, 644), (adultish, 1485)])
def test_every_edge_and_the_same_function(make: Any, published: int, missing: bool) -> None:
    victim, door = make()
    result = thieve(victim, door.revealing(missing=missing))
    assert_all_edges(result.model, victim, door, 1e-6)
    assert wrong(result.model, victim, door) == 0
    assert result.notes["additive"]
    assert result.notes["residual"] < 1e-6
    coarse = thieve(victim, door.revealing(missing=missing), eps=5e-4)
    assert_all_edges(coarse.model, victim, door, 5e-4)
    assert coarse.queries < published


def test_with_incomplete_queries_the_copy_answers_incomplete_queries_too() -> None:
    victim, door = adultish()
    x = door.uniform(2000, np.random.default_rng(3))
    x[np.random.default_rng(4).random(x.shape) < 0.4] = np.nan
    copy = thieve(victim, door.revealing(missing=True)).model
    np.testing.assert_allclose(copy.scores(x), victim.scores(x), atol=1e-9)


def test_numbers_that_are_not_binned() -> None:
    victim, door = digits()
    for missing in (True, False):
        result = thieve(victim, door.revealing(missing=missing))
        varying = [j for j, block in enumerate(victim.blocks) if np.ptp(block.slope) > 0]  # type: ignore[arg-type]
        assert result.notes["linear"] == varying
        assert result.notes["edges"] == [0] * 64
        assert wrong(result.model, victim, door) == 0
        assert result.queries < 650  # table 7


def test_bins_and_lines_side_by_side() -> None:
    rng = np.random.default_rng(0)
    line = Block(np.zeros((1, 3)), np.empty(0), rng.normal(size=3))
    victim = BinnedLinear([line, Block(rng.normal(size=(3, 3)), np.array([0.2, 0.21]))], np.zeros(3))
    result = thieve(victim, Interface(input_shape=(2,), n_classes=3), grid=128)
    assert result.notes["linear"] == [0]
    assert_all_edges(result.model, victim, Interface(input_shape=(2,), n_classes=3), 1e-6)


def test_a_bin_hidden_between_equal_ones_needs_a_fine_enough_grid() -> None:
    weights = np.array([[0.0, 1], [0, -1], [0, 1]])
    victim = BinnedLinear([Block(weights, np.array([0.501, 0.521]))], np.zeros(2))
    door = Interface(input_shape=(1,), n_classes=2)
    assert thieve(victim, door, grid=16).notes["edges"] == [0]
    assert thieve(victim, door, grid=64).notes["edges"] == [2]


def test_equal_neighbours_are_one_bin_and_constant_columns_none() -> None:
    weights = np.array([[0.0, 1], [0, 1], [0, -2]])
    victim = BinnedLinear([Block(weights, np.array([0.3, 0.6])), Block(weights[:1], np.empty(0))], np.zeros(2))
    features = (Feature("a", 0, 1), Feature("fixed", 2, 2))
    result = thieve(victim, Interface(input_shape=(2,), n_classes=2, features=features))
    assert result.notes["edges"] == [1, 0]


def test_rows_that_lie_on_an_edge_fall_on_the_same_side() -> None:
    victim, door = iris()
    x = load_iris().data  # whose quantiles are the edges
    on_edges = np.isin(x, np.concatenate([b.edges for b in victim.blocks])).any(axis=1)
    assert on_edges.mean() > 0.5
    for missing in (True, False):
        api = door.revealing(missing=missing)
        copy, coarse = thieve(victim, api), thieve(victim, api, snap=False)
        np.testing.assert_allclose(copy.model.scores(x), victim.scores(x), atol=1e-9)
        assert np.abs(coarse.model.scores(x) - victim.scores(x)).max() > 0.01
        edges = sum(copy.notes["edges"])
        assert edges < copy.notes["bill"]["edges"] <= 3 * edges
        assert copy.queries == coarse.queries + copy.notes["bill"]["edges"]


def test_what_never_varies_has_a_weight_of_its_own_when_it_may_be_left_out() -> None:
    blocks = [Block(np.array([[0.0, 1], [1, 0]]), np.array([0.3])), Block(np.array([[0.0, 2]]), np.empty(0)),
              Block.of_category(np.array([[1.0, 0]]))]  # fmt: skip
    features = (Feature("a", 0, 1), Feature("fixed", 2, 2), Feature("only", values=("x",)))
    victim, door = BinnedLinear(blocks, np.zeros(2)), Interface(input_shape=(3,), n_classes=2, features=features)
    for missing in (True, False):
        result = thieve(victim, door.revealing(missing=missing))
        x = door.uniform(50, np.random.default_rng(0))
        np.testing.assert_allclose(result.model.scores(x), victim.scores(x), atol=1e-9)
        assert result.notes["additive"]


@pytest.mark.parametrize(
    ("a", "b"), [(5.41, 5.47), (-0.3, -0.2), (-1.0, 4.0), (2.6, 2.6000001), (1e5, 1.2e5), (7.0, 7.0)]
)
def test_the_shortest_decimal_is_what_a_scan_of_all_of_them_finds(a: float, b: float) -> None:
    def scan() -> float:
        for decimals in range(-6, 12):
            for whole in range(int(a * 10**decimals) - 2, int(a * 10**decimals) + 3):
                if a <= float(f"{whole}e{-decimals}") <= b:
                    return float(f"{whole}e{-decimals}")
        raise AssertionError

    assert shortest(a, b) == scan()


@pytest.mark.parametrize("nudge", [-2, -1, 0, 1])
@pytest.mark.parametrize("edge", [5.45, -0.1, 1e4])
def test_an_edge_near_a_short_decimal_is_found_to_the_float(edge: float, nudge: int) -> None:
    """`edge` counts as left, and the next float does not."""
    for _ in range(abs(nudge)):
        edge = float(np.nextafter(edge, np.inf * nudge))
    left, right, asked = np.array([edge - 1e-4]), np.array([edge + 1e-4]), []

    def ask(which: Any, values: Any) -> Any:
        asked.extend(values)
        return np.where(values <= edge, 0, 1)

    snap(ask, left, right, np.array([0]), np.array([1]))
    assert edges_of(left, right)[0] == edge
    assert len(asked) <= 3


def test_an_edge_that_is_no_short_decimal_keeps_its_bracket() -> None:
    left, right = np.array([0.1234561]), np.array([0.1234569])
    snap(lambda n, v: np.where(v <= 0.12345678901, 0, 1), left, right, np.array([0]), np.array([1]))
    assert left[0] <= 0.12345678901 < right[0]
    assert 0 < right[0] - left[0] < 1e-6


def test_a_victim_that_is_not_a_sum_is_said_to_be_none() -> None:
    class Product:
        input_shape, n_classes = (2,), 2

        def scores(self, x: Array) -> Array:
            p = 0.1 + 0.8 * (x[:, 0] > 0.5) * (x[:, 1] > 0.5)
            return np.column_stack([1 - p, p])

    result = thieve(Product(), Interface(input_shape=(2,), n_classes=2), seed=1, held_out=40)
    assert not result.notes["additive"]


def test_rounded_answers_give_edges_and_coarse_weights() -> None:
    victim, door = circles()
    result = thieve(victim, door.revealing(decimals=4))
    assert_all_edges(result.model, victim, door, 1e-6)
    assert result.notes["additive"]
    assert wrong(result.model, victim, door) < 0.01


def test_a_short_budget_gives_coarse_edges() -> None:
    victim, door = circles()
    errors = [wrong(victim, thieve(victim, door, budget=b).model, door) for b in (1, 90, 400)]
    assert errors[0] > 0.2 > errors[1] > errors[2] == 0


class TestBinnedLinear:
    def test_a_bin_reaches_up_to_its_right_edge_and_an_omitted_input_adds_nothing(self) -> None:
        block = Block(np.array([[1.0], [2], [3]]), np.array([0.0, 1.0]))
        np.testing.assert_array_equal(block(np.array([-1, 0, 0.5, 1, 1.01, np.nan]))[:, 0], [1, 1, 2, 2, 3, 0])
        model = BinnedLinear([Block.of_category(np.eye(2))], np.zeros(2))
        np.testing.assert_allclose(model.scores(np.array([[np.nan]])), [[0.5, 0.5]])
        assert model.scores(np.array([[1.0]]))[0, 1] > 0.7

    def test_ten_quantile_bins(self) -> None:
        x = np.random.default_rng(0).uniform(size=(5000, 1))
        victim = fit_binned(x, (x[:, 0] > 0.5).astype(int))
        np.testing.assert_allclose(victim.blocks[0].edges, np.arange(1, 10) / 10, atol=0.03)

    def test_sentences(self) -> None:
        with pytest.raises(InputError, match="rising edges and one row of weights more; got 1 and 1"):
            Block(np.ones((1, 2)), np.ones(1))
        with pytest.raises(InputError, match=r"1 blocks do not fit an input_shape of \(2,\)"):
            BinnedLinear([Block(np.ones((1, 2)), np.empty(0))], np.zeros(2), input_shape=(2,))


class TestSentences:
    def test_labels(self) -> None:
        victim, door = circles()
        with pytest.raises(NotApplicable, match=r"feature_extraction needs probs; this API gives labels\. See: "):
            thieve(victim, door.revealing(reveals=Reveals.LABELS))

    @pytest.mark.parametrize(("name", "value"), [("eps", 0.1), ("grid", 3), ("omit", 1), ("snap", 1), ("held_out", -1)])
    def test_settings(self, name: str, value: Any) -> None:
        with pytest.raises(ParameterError, match=rf"FeatureExtraction\.{name} must be"):
            FeatureExtraction(**{name: value})

    def test_nothing_answered(self) -> None:
        victim, door = circles()
        oracle = LocalOracle(victim, door, budget=1)
        oracle.query(np.zeros((1, 2)))
        with pytest.raises(AttackFailed, match="no answer to start from"):
            FeatureExtraction()(oracle, Knowledge(), rng=np.random.default_rng(0))
