"""What a .skops file may hold: trees of neighbours that stay within themselves, and no function but one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_array

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.trusted import inspect_trees

X = np.random.default_rng(0).normal(size=(80, 3))


def neighbours(algorithm: str) -> Any:
    return KNeighborsClassifier(algorithm=algorithm, leaf_size=5).fit(X, X[:, 0] > 0)


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
@pytest.mark.parametrize("forged", ["rows", "spans", "children"])
def test_a_tree_of_neighbours_that_points_outside_itself_is_refused(algorithm: str, forged: str) -> None:
    model = neighbours(algorithm)
    inspect_trees(model, "m.skops")
    _, order, nodes, _ = (np.asarray(part) for part in model._tree.get_arrays())
    if forged == "rows":
        order[3] = 80
    elif forged == "spans":
        nodes["idx_end"][1] = 10_000
    else:
        nodes["is_leaf"][-1] = 0
    with pytest.raises(InputError, match="tree of neighbours that points outside itself"):
        inspect_trees(model, "m.skops")


def test_no_function_but_the_check_of_columns() -> None:
    inspect_trees(FunctionTransformer(functools.partial(check_array, dtype=np.float64)), "m.skops")
    with pytest.raises(InputError, match=r"holds a function, .*Load it yourself; name it as module:object"):
        inspect_trees(FunctionTransformer(functools.partial(np.save, "here")), "m.skops")
