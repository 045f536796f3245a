"""Gaussian-process regression: its gradient, what it learns of columns, its limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from portcullis_ml.core.types import Array
from portcullis_ml.models import gaussian
from portcullis_ml.models.gaussian import GaussianProcess


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def wave(z: Array) -> Array:
    return np.asarray(np.sin(2 * z[:, 0]) + z[:, 1])


def test_the_gradient_is_that_of_the_loss() -> None:
    z, y = rng().normal(size=(30, 5)), rng().normal(size=(30, 2))
    process = GaussianProcess(np.array([0, 1, 2, 2, 2]))
    start = np.array([-1.0, -1.0, -1.0, 0.0, 0.0, -2.0])
    at = start + rng().normal(size=6) * 0.3
    error = check_grad(lambda s: process._loss(s, z, y, start)[0], lambda s: process._loss(s, z, y, start)[1], at)
    assert error < 1e-5


def test_columns_that_matter_get_weight_and_the_others_none() -> None:
    z = rng().normal(size=(200, 6))
    process = GaussianProcess(np.arange(6)).fit(z, wave(z))
    assert process.settings[:2].min() > process.settings[2:6].max() + 3  # logarithms
    new = np.random.default_rng(1).normal(size=(500, 6))
    assert np.corrcoef(process.predict(new), wave(new))[0, 1] > 0.99


def test_more_targets_than_one_and_no_rows() -> None:
    z = rng().normal(size=(60, 2))
    process = GaussianProcess(np.arange(2)).fit(z, np.column_stack([wave(z), -wave(z)]))
    assert np.allclose(process.predict(z)[:, 0], wave(z), atol=0.1)
    assert process.predict(z[:0]).shape == (0, 2)


@pytest.mark.parametrize("n", [1, 3])
def test_hardly_any_rows_and_equal_targets(n: int) -> None:
    z = np.ones((n, 2))
    assert np.allclose(GaussianProcess(np.arange(2)).fit(z, np.full(n, 2.0)).predict(z), 2.0)


def test_more_rows_than_can_be_solved_for_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian, "SOLVED", 100)
    z = rng().normal(size=(300, 2))
    process = GaussianProcess(np.arange(2), seed=3).fit(z, wave(z))
    assert process.rows.shape == (100, 2)
    assert np.corrcoef(process.predict(z), wave(z))[0, 1] > 0.98


def test_rows_that_are_not_finite_raise_an_error_that_auto_reads() -> None:
    with pytest.raises(ValueError, match="infs or NaNs"):
        GaussianProcess(np.arange(1)).fit(np.array([[np.nan], [1.0]]), np.array([0.0, 1.0]))
