from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable, ParameterError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface, Model, Reveals
from portcullis_ml.extraction._grid import Grid
from portcullis_ml.extraction._lines import Known, first_difference, search
from portcullis_ml.extraction._splitting import Box, merged
from portcullis_ml.extraction.tree_paths import TreePaths
from portcullis_ml.models.boxes import BoxModel
from portcullis_ml.models.tree import LEAF, TreeModel, grow_tree

from .toys import WatchedOracle

MIXED = (
    Feature("age", 17, 90),
    Feature("job", values=tuple("abcdef")),
    Feature("gain", 0, 1e5),
    Feature("sex", values=("f", "m")),
    Feature("rate", -1, 1),
)


def regression(d: int, leaves: int) -> tuple[TreeModel, Interface]:
    """Every leaf has a mean of its own."""
    rng = np.random.default_rng(d)
    x = rng.uniform(-1, 1, (1500, d))
    y = np.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] + rng.normal(size=1500) / 2
    tree = grow_tree(x, y, rng=rng, regression=True, max_leaf_nodes=leaves, min_samples_leaf=2)
    return tree, Interface(input_shape=(d,), task="regression", bounds=(-1, 1))


def mixed(leaves: int, shows: Any = "confidence", seed: int = 0, **changes: Any) -> tuple[TreeModel, Interface]:
    rng = np.random.default_rng(seed)
    door = Interface(input_shape=(5,), n_classes=3, features=MIXED, **changes)
    x = door.uniform(3000, rng)
    z = x[:, 0] / 40 + (x[:, 1] % 2 - 0.5) * x[:, 4] * 3 + (x[:, 3] == 1) * x[:, 2] / 5e4 + rng.normal(size=3000) / 3
    if shows == "means":
        door = door.revealing(task="regression", n_classes=0)
        return grow_tree(x, z, MIXED, rng=rng, regression=True, max_leaf_nodes=leaves), door
    return grow_tree(x, np.digitize(z, [1, 2]), MIXED, rng=rng, shows=shows, max_leaf_nodes=leaves), door


def thieve(victim: Model, door: Interface, budget: int = 10**5, seed: int = 0, **settings: Any) -> Extraction:
    oracle = WatchedOracle(LocalOracle(victim, door, budget=budget))
    result = TreePaths(**settings)(oracle, Knowledge(), rng=np.random.default_rng(seed))
    assert sum(result.notes["bill"].values()) == result.queries == sum(map(len, oracle.batches))
    result.notes["batches"] = len(oracle.batches)
    return result


def true_leaves(tree: TreeModel, door: Interface) -> list[tuple[Array, Array, dict[int, set[int]], Array]]:
    """(low, high, categories, scores) of every leaf that some input reaches, by walking the tree: the plain twin."""
    categories = {j: set(range(f.categories)) for j, f in enumerate(door.features or ()) if f.categorical}
    found = []

    def walk(node: int, low: Array, high: Array, codes: dict[int, set[int]]) -> None:
        if any(not c for c in codes.values()) or (low >= np.minimum(high, door.high)).any() or (high < door.low).any():
            return
        j = tree.feature[node]
        if j == LEAF:
            found.append((low, high, codes, tree.value[node]))
        elif node in tree.goes_left:
            walk(tree.left[node], low, high, codes | {j: codes[j] & set(tree.goes_left[node])})
            walk(tree.right[node], low, high, codes | {j: codes[j] - set(tree.goes_left[node])})
        else:
            here = np.arange(len(low)) == j
            walk(tree.left[node], low, np.where(here, np.minimum(high, tree.threshold[node]), high), codes)
            walk(tree.right[node], np.where(here, np.maximum(low, tree.threshold[node]), low), high, codes)

    edge = np.full(door.n_inputs, np.inf)
    walk(0, -edge, edge, categories)
    return found


def assert_the_true_boxes(model: Any, tree: TreeModel, door: Interface, eps: float) -> None:
    """Every true leaf is one box of the copy, with its scores, every edge within one step of the grid."""
    truth = true_leaves(tree, door)
    assert isinstance(model, BoxModel)
    assert len(model) == len(truth)
    step = eps * (door.high - door.low)
    for low, high, codes, value in truth:
        fits = np.abs(model.value - value).max(axis=1) < 1e-9
        for ours, edges in ((model.low, low), (model.high, high)):
            with np.errstate(invalid="ignore"):
                fits &= ((ours == edges) | (np.abs(ours - edges) <= step)).all(axis=1)
        for j, mask in model.allowed.items():
            fits &= (mask == np.isin(np.arange(mask.shape[1]), list(codes[j]))).all(axis=1)
        assert fits.sum() == 1


def wrong(a: Model, b: Model, door: Interface) -> float:
    x = door.uniform(10_000, np.random.default_rng(99))
    return float((np.abs(a.scores(x) - b.scores(x)).max(axis=1) > 1e-9).mean())


@pytest.mark.parametrize(("d", "leaves"), [(4, 9), (4, 22), (8, 60), (10, 121), (6, 250)])
class TestEveryLeafWithItsTrueBox:
    def test_bottom_up(self, d: int, leaves: int) -> None:
        tree, door = regression(d, leaves)
        result = thieve(tree, door, mode="bottom_up")
        assert_the_true_boxes(result.model, tree, door, 1e-6)
        assert result.queries <= 0.8 * leaves * d * np.log2(1e6)
        assert result.notes["leaves"] == result.notes["identities"] == leaves
        assert wrong(result.model, tree, door) <= 1e-4

    def test_top_down(self, d: int, leaves: int) -> None:
        tree, door = regression(d, leaves)
        result = thieve(tree, door.revealing(missing=True), mode="top_down")
        assert_the_true_boxes(result.model, tree, door, 1e-6)
        assert result.queries <= 2 * leaves * (4 + np.log2(d) + np.log2(1e6))
        assert wrong(result.model, tree, door) <= 1e-4


@pytest.mark.parametrize("leaves", [12, 80])
@pytest.mark.parametrize("missing", [False, True])
def test_numbers_and_categories(leaves: int, missing: bool) -> None:
    tree, door = mixed(leaves, "means", missing=missing)
    result = thieve(tree, door)
    assert result.notes["mode"] == ("top_down" if missing else "bottom_up")
    assert_the_true_boxes(result.model, tree, door, 1e-6)


def test_the_label_and_its_confidence_are_enough() -> None:
    tree, door = mixed(40, reveals=Reveals.TOP_K)
    x = door.uniform(10_000, np.random.default_rng(1))
    copy = thieve(tree, door).model.scores(x)
    np.testing.assert_array_equal(copy.argmax(axis=1), tree.scores(x).argmax(axis=1))
    np.testing.assert_allclose(copy.max(axis=1), tree.scores(x).max(axis=1), atol=1e-9)


def test_leaves_that_answer_alike_need_probes() -> None:
    tree, door = mixed(60)
    hidden = door.revealing(decimals=1)
    exact, rounded, probed = thieve(tree, door), thieve(tree, hidden), thieve(tree, hidden, probes=20)
    x = door.uniform(5000, np.random.default_rng(5))
    truth = tree.scores(x).argmax(axis=1)
    wrongs = [(r.model.scores(x).argmax(axis=1) != truth).mean() for r in (exact, rounded, probed)]
    assert wrongs[0] < 0.01 < wrongs[1]
    assert wrongs[2] < wrongs[1] / 3
    assert rounded.notes["identities"] < 20
    assert set(probed.notes["bill"]) == {"lines", "splitting"}


def test_rounding_hardly_hides_the_leaves_of_a_regression_tree() -> None:
    tree, door = regression(4, 22)
    assert thieve(tree, door.revealing(decimals=3)).notes["leaves"] == 22


def test_a_level_of_a_tree_is_one_batch() -> None:
    tree, door = regression(8, 60)
    assert thieve(tree, door).notes["batches"] < 7 * 25  # waves of leaves times halvings
    assert thieve(tree, door.revealing(missing=True)).notes["batches"] < 20 * 30  # levels of the tree times halvings


@pytest.mark.parametrize("missing", [False, True])
def test_a_short_budget_gives_a_part_of_the_tree(missing: bool) -> None:
    tree, door = regression(4, 22)
    door = door.revealing(missing=missing)
    x = door.uniform(2000, np.random.default_rng(3))
    errors = []
    for budget in (1, 150, 300, 2000):
        result = thieve(tree, door, budget=budget)
        errors.append(np.abs(result.model.scores(x) - tree.scores(x)).mean())
        assert (result.stopped == "budget") == (budget < 2000)
        assert (result.notes["unfinished"] > 0) == (budget < 2000)
    assert errors[3] < 1e-6 < errors[2] < errors[0]


@pytest.mark.parametrize("missing", [False, True])
def test_the_notes_count_what_is_finished_and_say_what_share_of_the_inputs_is_unknown(missing: bool) -> None:
    tree, door = regression(4, 22)
    door = door.revealing(missing=missing)
    x = door.uniform(4000, np.random.default_rng(3))
    for budget in (150, 300, 2000):
        result = thieve(tree, door, budget=budget)
        unknown = 1 - result.model.find(x)[1].mean()
        assert result.notes["unknown"] == pytest.approx(unknown, abs=0.05)
        boxes = len(result.model.low)
        assert result.notes["leaves"] + result.notes["unfinished"] == boxes
        assert (result.notes["leaves"] < boxes) == (budget < 2000)
    assert result.notes["unknown"] < 0.01
    assert result.notes["leaves"] == 22


def test_a_leaf_thinner_than_the_grid_is_not_reachable() -> None:
    tree = TreeModel(
        np.array([0, LEAF, 0, LEAF, LEAF]),
        np.array([0.5001, 0, 0.5004, 0, 0]),
        np.array([1, -1, 3, -1, -1]),
        np.array([2, -1, 4, -1, -1]),
        np.arange(5.0)[:, None],
        input_shape=(1,),
        n_classes=0,
    )
    door = Interface(input_shape=(1,), task="regression")
    assert thieve(tree, door, eps=1e-3).notes["leaves"] == 2
    assert thieve(tree, door, eps=1e-5).notes["leaves"] == 3


def test_a_column_that_cannot_change_and_a_constant_victim() -> None:
    tree, _ = regression(4, 9)
    features = (*(Feature(n, -1, 1) for n in "abc"), Feature("fixed", 0.3, 0.3))
    door = Interface(input_shape=(4,), task="regression", features=features)
    assert wrong(thieve(tree, door).model, tree, door) == 0
    stump = TreeModel(
        np.array([LEAF]), np.zeros(1), np.zeros(1), np.zeros(1), np.ones((1, 1)), input_shape=(3,), n_classes=0
    )
    for missing in (False, True):
        result = thieve(stump, Interface(input_shape=(3,), task="regression", missing=missing))
        assert result.notes["leaves"] == 1
        assert result.queries <= 7


class TestParts:
    def test_search_finds_what_a_scan_finds(self) -> None:
        rng = np.random.default_rng(0)
        thresholds = rng.choice(1000, size=(6, 4))

        def ask(points: Any) -> Any:
            return sum((points[:, j : j + 1] > thresholds[j]).sum(axis=1) * 5**j for j in range(6))

        points, feature = rng.integers(0, 1001, size=(6, 6)), np.arange(6)
        ends = np.repeat(points, 2, axis=0)
        ends[np.arange(12), np.repeat(feature, 2)] = np.tile([0, 1000], 6)
        ids = ask(ends).reshape(6, 2)
        stretches = (feature, np.zeros(6, int), np.full(6, 1000), ids[:, 0], ids[:, 1])
        known = Known()
        for _ in range(2):  # the second time the thresholds are known
            found = search(ask, points, feature, stretches, known)
            for j in range(6):
                np.testing.assert_array_equal(found.at[found.line == j], np.unique(thresholds[j]))
            np.testing.assert_array_equal(known.of(3), np.unique(thresholds[3]))
        assert len(found.probe_at) <= 2 * 24

    def test_search_for_its_own_walls_only(self) -> None:
        def ask(points: Any) -> Any:
            return points[:, 0] // 10

        start = np.array([[55]])
        own = np.array([5])
        stretches = tuple(np.array(v) for v in ([0, 0], [0, 55], [55, 100], [0, 5], [5, 10]))
        found = search(ask, start, np.array([0]), stretches, Known(), own)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.at, [49, 59])

    def test_first_difference_names_a_feature_that_matters(self) -> None:
        rng = np.random.default_rng(1)

        def ask(points: Any) -> Any:
            return points[:, 3] + 2 * points[:, 5]

        near, far = np.zeros((40, 8), int), rng.integers(2, size=(40, 8))
        far[:, 3] = 1
        order = np.argsort(rng.random((40, 8)), axis=1)
        feature, context = first_difference(ask, near, far, np.zeros(40, int), order)
        assert set(feature.tolist()) == {3, 5}
        np.testing.assert_array_equal(ask(context), 0)
        context[np.arange(40), feature] = far[np.arange(40), feature]
        assert (ask(context) != 0).all()

    def test_boxes_cut_in_two_are_joined(self) -> None:
        grid = Grid.of(Interface(input_shape=(5,), n_classes=2, features=MIXED), 1e-3)
        whole = Box.whole(grid, np.zeros(5, np.int64))
        left, right = whole.within(0, 0, 300), whole.within(0, 301, 1000)
        odd, even = np.arange(6) % 2 == 1, np.arange(6) % 2 == 0
        spiral = [
            left.among(1, odd),
            left.among(1, even).within(2, 0, 5),
            left.among(1, even).within(2, 6, 1000),
            right,
        ]
        assert len(merged([box.at(0, 0, 7) for box in spiral])) == 1
        assert len(merged([box.at(0, 0, 7) for box in spiral[1:]])) == 2  # a corner is missing


class TestSentences:
    def test_labels_only(self) -> None:
        tree, door = mixed(12, reveals=Reveals.LABELS)
        with pytest.raises(
            NotApplicable,
            match=r"^tree_paths needs leaf identities or distinct confidences; this API gives labels\. Try retraining",
        ):
            thieve(tree, door)

    def test_top_down_without_incomplete_queries(self) -> None:
        tree, door = mixed(12)
        with pytest.raises(
            NotApplicable, match=r"needs incomplete queries; this API wants every input\. Take mode='bo"
        ):
            thieve(tree, door, mode="top_down")

    @pytest.mark.parametrize(("name", "value"), [("mode", "sideways"), ("eps", 0.0), ("eps", 1.0), ("probes", -1)])
    def test_settings(self, name: str, value: Any) -> None:
        with pytest.raises(ParameterError, match=rf"TreePaths\.{name} must be"):
            TreePaths(**{name: value})

    def test_nothing_answered(self) -> None:
        tree, door = mixed(12)
        oracle = LocalOracle(tree, door, budget=1)
        oracle.query(door.uniform(1, np.random.default_rng(0)))
        with pytest.raises(AttackFailed, match=r"no answer to start from.*Raise the budget"):
            TreePaths()(oracle, Knowledge(), rng=np.random.default_rng(0))
