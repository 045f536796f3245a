"""Regressions fitted to answers that are known up to their rounding, and rows with steps along every number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from portcullis_ml.core.types import Array, Feature, Interface
from portcullis_ml.models.intervals import fit_intervals
from portcullis_ml.models.lbfgs import fit_softmax
from portcullis_ml.models.stepped import SteppedEncoding

TABLE = Interface(
    input_shape=(4,),
    n_classes=2,
    features=(
        Feature("age", 17, 30),
        Feature("job", values=("a", "b", "c")),
        Feature("gain", 0, 1e5),
        Feature("t", -1, 1),
    ),
)


def rounded(classes: int, decimals: int, n: int = 300) -> tuple[Array, Array, Array]:
    """Rows with a column of ones, what a regression answers to them after rounding, and its true answers."""
    rng = np.random.default_rng(classes)
    z = np.column_stack([np.ones(n), rng.uniform(-1, 1, (n, 5))])
    p = softmax(z @ (3 * rng.normal(size=(6, classes))), axis=1)
    return z, np.round(p, decimals), p


@pytest.mark.parametrize("classes", [2, 4])
def test_intervals_are_nearer_to_the_truth_than_what_was_shown_and_than_cross_entropy(classes: int) -> None:
    z, shown, p = rounded(classes, 1)
    theta = fit_intervals(z, shown, unit=0.1, penalty=np.full(6, 1e-6), misfit=1e-3)
    ours = np.abs(softmax(z @ theta, axis=1) - p).mean()
    w, b = fit_softmax(z[:, 1:], shown / shown.sum(axis=1, keepdims=True))
    plain = np.abs(softmax(z[:, 1:] @ w.T + b, axis=1) - p).mean()
    assert ours < 0.7 * plain
    assert ours < 0.5 * np.abs(shown - p).mean()


def test_answers_of_nothing_but_zero_and_one_tell_the_side_only() -> None:
    z = np.column_stack([np.ones(40), np.linspace(-1, 1, 40)])
    shown = np.eye(2)[(z[:, 1] > 0).astype(int)]
    theta = fit_intervals(z, shown, unit=1.0, penalty=np.full(2, 1e-2), misfit=1e-3)
    assert np.isfinite(theta).all()
    assert ((z @ theta).argmax(axis=1) == shown.argmax(axis=1)).all()


def test_steps_lie_between_whole_numbers_and_evenly_in_the_logarithm_of_a_long_tail() -> None:
    encoding = SteppedEncoding.of(TABLE, 80)
    edges = dict(encoding.edges)
    assert set(edges) == {0, 2, 3}  # a category has its indicators
    assert (edges[0] % 1 == 0.5).all()
    assert (np.diff(edges[0]) == 1).all()
    assert (edges[2] < 1000).sum() >= len(edges[2]) / 3
    x = TABLE.uniform(50, np.random.default_rng(0))
    assert encoding(x).shape == (50, encoding.width)


def test_no_steps_where_there_is_no_room_for_them() -> None:
    encoding = SteppedEncoding.of(TABLE, 7)
    assert encoding.edges == ()
    assert encoding.width == encoding.linear.width == 5
