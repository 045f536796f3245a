"""A network that learns rows as they come."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.torch import TorchLearner

LEARNER = TorchLearner(network="digits_cnn", epochs=7, patience=2, schedule="one_cycle")


def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.random((n, 8, 8))
    return x, np.eye(10)[(x.mean(axis=(1, 2)) * 40).astype(int) % 10]


def test_the_first_rows_are_learned_as_by_a_fit() -> None:
    x, t = rows(80)
    copy = LEARNER.incremental()
    assert copy.model is None
    copy.partial_fit(x, t, rng=np.random.default_rng(3))
    fitted = LEARNER.online().fit(x, t, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(copy.model.scores(x), fitted.scores(x))


def test_it_goes_on_from_where_it_was_and_says_so_in_the_same_model() -> None:
    x, t = rows(200)
    copy, rng = LEARNER.incremental(), np.random.default_rng(3)
    copy.partial_fit(x[:1], t[:1], rng=rng)
    model, before = copy.model, copy.model.scores(x)
    for start in range(0, 200, 20):
        copy.partial_fit(x[start : start + 20], t[start : start + 20], rng=rng)
    assert copy.model is model
    loss = [-np.log(p[t.astype(bool)]).mean() for p in (before, model.scores(x))]
    assert loss[1] < loss[0]
    assert not model.module.training


def test_rows_without_any_answer_are_refused_in_a_sentence() -> None:
    x, t = rows(3)
    with pytest.raises(InputError, match="at least one row with a target"):
        LEARNER.incremental().partial_fit(x, 0 * t, rng=np.random.default_rng(0))
