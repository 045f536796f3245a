"""R^2 and errors of a copy's numbers, in units, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.types import Interface
from portcullis_ml.measures.regression import ValueExam, mean_error, r_squared, root_mean_square
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.function import FunctionModel

RNG = np.random.default_rng(0)
F = np.array([0.0, 2.0, 4.0, 6.0])  # variance 5
API = Interface(input_shape=(2,), task="regression", bounds=(-1.0, 1.0))


def victim(x):
    return 3 * x[:, 0] - x[:, 1]


def test_by_hand() -> None:
    g = F + np.array([1.0, -1.0, 1.0, -1.0])
    assert r_squared(F, g, rng=RNG).value == pytest.approx(1 - 1 / 5)
    assert root_mean_square(F, g, rng=RNG).value == pytest.approx(1.0)
    assert mean_error(F, g).value == pytest.approx(1.0)
    assert r_squared(F, np.full(4, 3.0), rng=RNG).value == 0.0
    assert r_squared(F, F, rng=RNG).value == 1.0
    assert np.isnan(r_squared(np.ones(4), g, rng=RNG).value)


@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200, 1e307])
def test_the_unit_changes_no_share_and_every_error(unit: float) -> None:
    g = F + np.array([1.0, -1.0, 1.0, -1.0])
    with np.errstate(all="raise", under="ignore"):
        assert r_squared(F * unit, g * unit, rng=RNG).value == pytest.approx(0.8)
        assert mean_error(F * unit, g * unit).value / unit == pytest.approx(1.0)


def test_a_row_without_an_answer_counts_as_the_mean() -> None:
    assert r_squared(F, np.full(4, np.nan), rng=RNG).value == pytest.approx(0.0)


def test_an_exam_compares_with_the_victim_and_with_the_truth() -> None:
    model = FunctionModel(victim, (2,), 0)
    x = RNG.uniform(-1, 1, size=(200, 2))
    true = victim(x) + RNG.normal(size=200)
    exam = ValueExam.of(model, x, true, interface=API, rng=RNG, points=50)
    same = exam.grade(model, rng=RNG).measures()
    assert same["r2"].value == same["r2_uniform"].value == 1.0
    assert same["mae"].value == 0.0
    assert same["r2_truth"].value == same["victim_r2"].value < 1
    middle = ConstantModel((2,), victim(x).mean(keepdims=True))
    assert exam.grade(middle, rng=RNG).r2.value == pytest.approx(0.0, abs=1e-12)


def test_a_victim_without_variance_on_uniform_points_withholds_that_figure() -> None:
    flat = FunctionModel(lambda x: np.where(x[:, 0] > 5, x[:, 0], 0.0), (2,), 0)
    x = np.array([[6.0, 0], [7, 0], [0, 0]])
    found = ValueExam.of(flat, x, interface=API, rng=RNG, points=20).grade(flat, rng=RNG)
    assert np.isnan(found.r2_uniform.value)
    assert "withheld" in found.notes[0]


def test_a_copy_worse_than_the_mean_lies_below_zero_with_its_whole_interval() -> None:
    f = np.linspace(-1, 1, 50)
    found = r_squared(f, -f, rng=np.random.default_rng(0))
    assert found.value == pytest.approx(-3)
    assert found.low <= found.value <= found.high < 0
