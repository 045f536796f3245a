"""Learning curves: what is planted is found, what was not reached is never."""

from __future__ import annotations

import math

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.measures.curves import FORMS, Form, Runs, fidelity_at, queries_to

ROWS = 2_000


def runs(fidelity: object, queries: list[int], seeds: int = 3, rows: int = ROWS) -> Runs:
    rng = np.random.default_rng(0)
    q = np.repeat(np.array(queries, float), seeds)
    right = rng.random((len(q), rows)) < np.asarray(fidelity(q))[:, None]  # type: ignore[operator]
    return Runs(q, right, np.ones(rows))


def power(q: np.ndarray) -> np.ndarray:
    return 0.95 - 2.0 * q**-0.5  # 0.8 at (2 / 0.15) ** 2 = 178


@pytest.mark.parametrize("form", FORMS)
def test_the_queries_of_a_planted_curve_are_found(form: Form) -> None:
    found = queries_to(0.8, runs(power, [50, 100, 150, 200, 400]), form=form, rng=np.random.default_rng(1))
    assert abs(math.log(found.value / 177.8)) < math.log(1.15)
    assert found.low < 177.8 < found.high
    assert found.high < 2 * found.low
    assert (found.n, found.unit) == (15, "runs")


@pytest.mark.parametrize("form", FORMS)
def test_a_curve_that_ends_below_the_target_never_reaches_it(form: Form) -> None:
    found = queries_to(
        0.9,
        runs(lambda q: 0.7 - 5.0 / q, [50, 100, 200, 400, 1600]),
        form=form,
        rng=np.random.default_rng(1),
    )
    assert found.value == math.inf


def test_only_the_power_law_goes_beyond_what_was_run() -> None:
    some = runs(power, [20, 40, 60, 80])
    assert queries_to(0.8, some, form="monotone", rng=np.random.default_rng(1)).value == math.inf
    assert 100 < queries_to(0.8, some, rng=np.random.default_rng(1)).value < 400


@pytest.mark.parametrize("form", FORMS)
def test_the_fitted_curve_is_near_the_planted_one(form: Form) -> None:
    at = np.array([60.0, 178.0, 350.0])
    found = fidelity_at(at, runs(power, [50, 100, 150, 200, 400]), form)
    assert found == pytest.approx(power(at), abs=0.03)
    assert (np.diff(found) > 0).all()


def test_fewer_test_rows_make_a_wider_interval() -> None:
    few, many = (
        queries_to(0.8, runs(power, [50, 100, 200, 400], rows=n), rng=np.random.default_rng(1)) for n in (100, 5_000)
    )
    assert few.high / few.low > 1.5 * many.high / many.low


def test_rows_count_as_they_are_weighed() -> None:
    right = np.tile(np.array([True, False]), (3, 1))
    assert Runs(np.array([1.0, 2.0, 3.0]), right, np.array([1.5, 0.5])).fidelity() == pytest.approx([0.75] * 3)


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ParameterError, match=r"target must be a fidelity above 0 and below 1.*got 1\.2"):
        queries_to(1.2, runs(power, [50, 100, 200]), rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="at least 3 different numbers of queries; got 2"):
        queries_to(0.8, runs(power, [50, 100]), rng=np.random.default_rng(0))
    with pytest.raises(ParameterError, match="form must be one of power_law, monotone"):
        queries_to(0.8, runs(power, [50, 100, 200]), form="spline", rng=np.random.default_rng(0))  # type: ignore[arg-type]
