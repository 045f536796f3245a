"""Input quantisation: its levels, cuts that are trained, steps that change nothing, copies that it does not stop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.types import Array, Rows
from portcullis_ml.hardening.input_quantisation import InputQuantisation
from portcullis_ml.models.layers import Quantise
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.torch import TorchLearner
from recipes.toys import own

X, Y = load_digits(return_X_y=True)
X = X / 16
PLAIN = TorchLearner(network="mlp", epochs=15)


def quantised(seed: int = 0, rows: Rows | None = None, **settings: Any) -> Any:
    return InputQuantisation(**settings)(PLAIN, rows or Rows(X[:800], Y[:800]), None, rng=np.random.default_rng(seed))


def layer_of(model: Any) -> Quantise:
    return next(m for m in model.module.modules() if isinstance(m, Quantise))


def nearest(x: Array, low: Array, high: Array, levels: int) -> Array:
    """Each number moved to the nearest of so many levels from low to high, one at a time."""
    out = np.empty_like(x)
    for (i, j), value in np.ndenumerate(x):
        steps = [low[j] + k * (high[j] - low[j]) / (levels - 1) for k in range(levels)]
        out[i, j] = min(steps, key=lambda s: abs(s - value))
    return out


@pytest.mark.parametrize("levels", [2, 3, 4, 17])
def test_every_number_goes_to_the_nearest_level_of_its_column(levels: int) -> None:
    seen = np.random.default_rng(0).normal(size=(50, 3)) * [1.0, 10.0, 0.0]
    layer = Quantise((3,), levels)
    layer.measure(torch.tensor(seen, dtype=torch.float32))
    asked = np.random.default_rng(1).normal(size=(40, 3)) * [2.0, 10.0, 0.0]  # some beyond the range
    found = layer(torch.tensor(asked, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(found, nearest(asked, seen.min(0), seen.max(0), levels), atol=1e-5)
    assert max(len(np.unique(column.round(4))) for column in found.T) <= levels


def test_all_pixels_of_a_picture_share_one_range() -> None:
    layer = Quantise((2, 2), 3)
    layer.measure(torch.tensor([[[0.0, 1.0], [0.0, 0.5]], [[0.0, 2.0], [0.0, 0.5]]]))
    assert layer(torch.full((1, 2, 2), 0.6)).flatten().tolist() == [1.0, 1.0, 1.0, 1.0]


def test_trained_cuts_move_and_fixed_ones_do_not() -> None:
    even = torch.tensor([1 / 6, 1 / 2, 5 / 6])
    torch.testing.assert_close(layer_of(quantised(levels=4)).cuts, even)
    moved = layer_of(quantised(levels=4, trained=True)).cuts
    assert (moved - even).abs().min() > 1e-3
    assert (moved.diff() > 0).all()


def test_steps_within_a_level_change_no_answer() -> None:
    model, plain = quantised(levels=3), PLAIN.fit(X[:800], np.eye(10)[Y[:800]], rng=np.random.default_rng(0))
    x, rng = X[800:1300], np.random.default_rng(3)
    low, width = (a.numpy().astype(np.float64) for a in (layer_of(model).low, layer_of(model).width))
    middle = low + width * nearest((x - low) / width, np.zeros(64), np.ones(64), 3)
    within = middle + 0.24 * width * rng.uniform(-1, 1, x.shape)
    np.testing.assert_allclose(model.scores(within), model.scores(middle), atol=1e-6)
    right = {name: (m.scores(x).argmax(axis=1) == Y[800:1300]).mean() for name, m in (("q", model), ("p", plain))}
    assert right["q"] > right["p"] - 0.06 > 0.8


@pytest.mark.parametrize("trained", [False, True])
def test_adversarial_examples_made_on_a_plain_copy_fool_it_less(trained: bool) -> None:
    """What it is for: one step of 0.1 along the sign of the gradient, on pixels from 0 to 1."""
    plain, copy = (PLAIN.fit(X[:n], np.eye(10)[Y[:n]], rng=np.random.default_rng(n)) for n in (800, 400))
    x, y = X[800:], Y[800:]
    step = np.sign(copy.input_gradient(x, np.eye(10)[y], of="log_probs"))
    right = [
        (m.scores(x - 0.1 * step).argmax(axis=1) == y).mean() for m in (plain, quantised(levels=3, trained=trained))
    ]
    assert right[1] > right[0] + 0.04


@pytest.mark.parametrize("trained", [False, True])
def test_a_copy_learns_it_as_well_as_a_plain_victim(trained: bool) -> None:
    """What it does not stop."""
    plain = PLAIN.fit(X[:800], np.eye(10)[Y[:800]], rng=np.random.default_rng(0))
    agreement = []
    for victim in (plain, quantised(levels=4, trained=trained)):
        copy = PLAIN.fit(X[800:1300], victim.scores(X[800:1300]), rng=np.random.default_rng(1))
        agreement.append((copy.scores(X[1300:]).argmax(axis=1) == victim.scores(X[1300:]).argmax(axis=1)).mean())
    assert agreement[1] > agreement[0] - 0.05 > 0.8


def test_wrong_input_is_a_sentence() -> None:
    with pytest.raises(ParameterError, match=r"InputQuantisation\.levels must be an int in \[2, 256\]; got 1"):
        InputQuantisation(levels=1)
    with pytest.raises(NotApplicable, match="input_quantisation needs a learner that trains one of"):
        InputQuantisation()(SklearnLearner(), own(), None, rng=np.random.default_rng(0))
    assert build_network("quantised_4_trained_mlp", (5,), 3)(torch.zeros(2, 5)).shape == (2, 3)
