from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array, Feature
from portcullis_ml.models.boxes import BoxModel
from portcullis_ml.models.tree import LEAF, TreeModel, grow_tree

FEATURES = (Feature("size", 0, 10), Feature("colour", values=("red", "green", "blue")), Feature("age", 0, 99))


def rows(n: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(0, 10, n), rng.integers(3, size=n), rng.uniform(0, 99, n)])


def table_tree(**settings: Any) -> TreeModel:
    x = rows(600)
    y = (x[:, 1] == 2) * 1 + (x[:, 0] > 4) * (x[:, 2] < 50)
    return grow_tree(x, y, FEATURES, rng=np.random.default_rng(0), **{"max_leaf_nodes": 9, **settings})


def walk(tree: TreeModel, row: Array) -> int:
    """The plain twin of `apply`."""
    node = 0
    while tree.feature[node] != LEAF and not np.isnan(row[tree.feature[node]]):
        value = np.float32(row[tree.feature[node]])
        left = value in tree.goes_left[node] if node in tree.goes_left else value <= tree.threshold[node]
        node = tree.left[node] if left else tree.right[node]
    return int(node)


def test_a_classifier_answers_as_scikit_learn_does() -> None:
    x, y = load_iris(return_X_y=True)
    fitted = DecisionTreeClassifier(random_state=0, max_leaf_nodes=6).fit(x, y)
    tree = TreeModel.of(fitted)
    assert (tree.leaves, tree.n_classes, tree.input_shape) == (6, 3, (4,))
    points = np.random.default_rng(0).uniform(0, 8, size=(500, 4))
    np.testing.assert_array_equal(tree.scores(points), fitted.predict_proba(points))


def test_a_regressor_and_inputs_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(300, 3))
    fitted = DecisionTreeRegressor(random_state=0).fit(x, x @ [1, 2, 3])
    inner = fitted.tree_.feature >= 0
    thresholds, features = fitted.tree_.threshold[inner], fitted.tree_.feature[inner]
    points = rng.uniform(size=(inner.sum(), 3))
    points[np.arange(len(points)), features] = thresholds + 1e-9  # single precision cannot tell them from the threshold
    np.testing.assert_array_equal(TreeModel.of(fitted).scores(points)[:, 0], fitted.predict(points))


@pytest.mark.parametrize("shows", ["shares", "confidence"])
def test_many_rows_walk_as_one_does(shows: Any) -> None:
    tree = table_tree(shows=shows)
    x = rows(400, seed=1)
    x[np.random.default_rng(2).random(x.shape) < 0.3] = np.nan
    assert tree.goes_left
    np.testing.assert_array_equal(tree.apply(x), [walk(tree, row) for row in x])


def test_a_row_stops_at_the_first_split_that_it_omits() -> None:
    tree = table_tree()
    x = np.full((1, 3), np.nan)
    assert tree.apply(x)[0] == 0
    x[0, tree.feature[0]] = 0
    assert tree.apply(x)[0] in (tree.left[0], tree.right[0])


def test_a_category_nobody_knew_goes_with_the_others() -> None:
    tree = TreeModel(
        np.array([0, LEAF, LEAF]),
        np.zeros(3),
        np.array([1, -1, -1]),
        np.array([2, -1, -1]),
        np.array([[0.5, 0.5], [1, 0], [0, 1]]),
        input_shape=(1,),
        n_classes=2,
        goes_left={0: (0, 2)},
    )
    np.testing.assert_array_equal(tree.apply(np.array([[0.0], [1], [2], [7]])), [1, 2, 1, 2])


def test_the_confidence_is_wilsons_and_leaves_a_distribution() -> None:
    shares, shown = table_tree(), table_tree(shows="confidence")
    np.testing.assert_allclose(shown.value.sum(axis=1), 1)
    np.testing.assert_array_equal(shown.value.argmax(axis=1), shares.value.argmax(axis=1))
    # 8 of 10 rows: the lower end of the 95 % interval is 0.4902 (derived by hand); of three classes 1/3 + 2/3 of it.
    from portcullis_ml.models.tree import _confidence

    got = _confidence(np.array([[0.2, 0.8, 0.0]]), np.array([10]))[0]
    np.testing.assert_allclose(got[1], 1 / 3 + 2 / 3 * 0.4902, atol=1e-4)
    np.testing.assert_allclose(got[0], got[2])


def test_pure_leaves_of_different_size_are_told_apart_by_their_confidence() -> None:
    shares, shown = table_tree(), table_tree(shows="confidence")
    leaves = shares.feature == LEAF
    assert len(np.unique(shown.value[leaves], axis=0)) > len(np.unique(shares.value[leaves], axis=0))


class TestBoxes:
    def boxes(self) -> BoxModel:
        edge = np.inf
        return BoxModel(
            np.array([[-edge, -edge], [1.0, -edge]]),
            np.array([[1.0, edge], [2.0, edge]]),
            {1: np.array([[True, False, True], [True, True, True]])},
            np.array([[1.0, 0.0], [0.0, 1.0]]),
            input_shape=(2,),
            n_classes=2,
        )

    def test_the_first_box_answers_and_the_nearest_where_there_is_none(self) -> None:
        found, known = self.boxes().find(np.array([[1.0, 0], [1.1, 1], [0, 1], [2.5, 2], [np.nan, 1]]))
        np.testing.assert_array_equal(found, [0, 1, 0, 1, 1])
        np.testing.assert_array_equal(known, [True, True, False, False, True])

    def test_a_code_nobody_knows_is_in_no_box(self) -> None:
        assert not self.boxes().find(np.array([[0.0, 9], [1.5, 0.5]]))[1].any()


class TestSentences:
    def test_not_a_tree(self) -> None:
        with pytest.raises(InputError, match=r"decision tree was expected; LogisticRegression has no tree_\. Fit it"):
            TreeModel.of(LogisticRegression())

    def test_shows(self) -> None:
        x, y = load_iris(return_X_y=True)
        with pytest.raises(ParameterError, match=r"shows must be 'shares' or 'confidence'; got 'all'"):
            TreeModel.of(DecisionTreeClassifier().fit(x, y), shows="all")  # type: ignore[arg-type]

    def test_arrays_that_do_not_fit(self) -> None:
        with pytest.raises(InputError, match="one entry a node"):
            TreeModel(
                np.array([LEAF]), np.zeros(2), np.zeros(1), np.zeros(1), np.ones((1, 1)), input_shape=(1,), n_classes=0
            )
        with pytest.raises(InputError, match=r"values \(n, 3\)"):
            TreeModel(
                np.array([LEAF]), np.zeros(1), np.zeros(1), np.zeros(1), np.ones((1, 1)), input_shape=(1,), n_classes=3
            )
