from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.types import Array
from portcullis_ml.models.relu import ReluNetwork, fit_outputs


def network(classes: int = 3, seed: int = 0) -> ReluNetwork:
    rng = np.random.default_rng(seed)
    k = max(classes - 1, 1)
    return ReluNetwork(
        rng.normal(size=(5, 4)),
        rng.normal(size=5),
        rng.normal(size=(k, 5)),
        rng.normal(size=(k, 4)),
        rng.normal(size=k),
        classes,
    )


def slowly(net: ReluNetwork, row: Array) -> Array:
    """One row, one unit at a time."""
    logits = [0.0]
    for k in range(len(net.a)):
        total = net.a[k] + sum(net.skip[k, j] * row[j] for j in range(len(row)))
        for i in range(len(net.b)):
            total += net.v[k, i] * max(0.0, net.b[i] + sum(net.w[i, j] * row[j] for j in range(len(row))))
        logits.append(total)
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum())


def test_scores_are_those_of_a_loop_over_units() -> None:
    x = np.random.default_rng(1).normal(size=(20, 4))
    net = network()
    assert np.allclose(net.scores(x), [slowly(net, row) for row in x], atol=1e-12)


def test_a_regression_answers_its_output() -> None:
    x = np.random.default_rng(1).normal(size=(20, 4))
    net = network(classes=0)
    assert net.n_classes == 0
    assert np.array_equal(net.scores(x), net.outputs(x))


@pytest.mark.parametrize("of", ["logits", "log_probs"])
def test_the_gradient_is_that_of_small_differences(of: str) -> None:
    rng = np.random.default_rng(2)
    net, x, weights = network(), rng.normal(size=(6, 4)), rng.normal(size=(6, 3))

    def value(at: Array) -> Array:
        logs = np.log(net.scores(at))
        return ((logs - logs[:, :1] if of == "logits" else logs) * weights).sum(axis=1)

    gradient = net.input_gradient(x, weights, of=of)  # type: ignore[arg-type]
    for j in range(4):
        step = 1e-6 * np.eye(4)[j]
        assert gradient[:, j] == pytest.approx((value(x + step) - value(x - step)) / 2e-6, abs=1e-6)


def test_the_last_layer_is_found_although_a_few_rows_are_wrong() -> None:
    rng = np.random.default_rng(3)
    net, x = network(), rng.normal(size=(200, 4))
    outputs = net.outputs(x)
    outputs[:10] += rng.normal(size=(10, 2))
    found = fit_outputs(x, outputs, net.w, net.b, 3)
    assert np.abs(found.outputs(x[10:]) - outputs[10:]).max() < 1e-6
    assert np.abs(found.v - net.v).max() < 1e-6
