"""The learner of numbers: nearer than any single family, whatever the unit, and kept in a file."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Feature, Interface
from portcullis_ml.models.auto_numbers import NumbersLearner, NumbersModel
from portcullis_ml.models.load import load_model, save_model

X = np.random.default_rng(1).uniform(-1, 1, size=(120, 3))
Y = (3 * X[:, 0] - 2 * X[:, 1])[:, None]
FEW = NumbersLearner(families=("linear", "boosted"))


def fit(y, learner=FEW, x=X):
    return learner.fit(x, y, rng=np.random.default_rng(0))


@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_a_linear_target_is_learnt_by_the_linear_family_in_any_unit(unit: float) -> None:
    model = fit(Y * unit)
    assert model.chosen["fitted"] == {"linear": 1.0}
    np.testing.assert_allclose(model.scores(X) / unit, Y, atol=1e-4)
    assert model.n_classes == 0


def test_rows_without_a_target_are_left_out_and_one_target_makes_a_constant() -> None:
    gaps = Y.copy()
    gaps[::2] = np.nan
    np.testing.assert_allclose(fit(gaps).scores(X), Y, atol=1e-3)
    flat = fit(np.full((120, 1), 7.0))
    assert flat.n_classes == 0
    assert (flat.scores(X[:3]) == [[7.0]] * 3).all()


def test_categories_are_told_by_the_interface() -> None:
    features = (Feature("word", values=tuple("abc")), Feature("x"), Feature("z"))
    x = X.copy()
    x[:, 0] = np.arange(120) % 3
    y = np.array([5.0, -1.0, 2.0])[x[:, 0].astype(int)][:, None]
    learner = NumbersLearner(families=("linear",)).knowing(
        Interface(input_shape=(3,), task="regression", features=features)
    )
    np.testing.assert_allclose(fit(y, learner, x).scores(x), y, atol=1e-4)


def test_it_is_kept_in_a_skops_file(tmp_path) -> None:
    pytest.importorskip("skops.io")
    model = fit(np.sin(3 * Y))
    path = save_model(model, tmp_path / "copy")
    again = load_model(str(path))
    assert isinstance(again, NumbersModel)
    np.testing.assert_array_equal(again.scores(X), model.scores(X))


def test_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(120, 1\) numbers, some of them known"):
        fit(np.zeros((120, 3)))
    with pytest.raises(InputError, match="some of them known"):
        fit(np.full((120, 1), np.nan))
