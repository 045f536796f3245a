"""FGSM and PGD against a plain twin, one pixel at a time, and the promises that the callers build on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Differentiable
from portcullis_ml.models.perturb import fgsm, noise_like, pgd


class Softmax:
    """softmax(W x + b), with the gradient written out."""

    def __init__(self, w, b=None, input_shape=None):
        self.w = np.asarray(w, float)  # (classes, inputs)
        self.b = np.zeros(len(self.w)) if b is None else np.asarray(b, float)
        self.input_shape = input_shape or (self.w.shape[1],)
        self.n_classes = len(self.w)

    def scores(self, x):
        z = x.reshape(len(x), -1) @ self.w.T + self.b
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def input_gradient(self, x, weights, *, of):
        if of == "log_probs":
            weights = weights - weights.sum(axis=1, keepdims=True) * self.scores(x)
        return (weights @ self.w).reshape(x.shape)


def a_model(seed, classes=3, shape=(2, 2)):
    rng = np.random.default_rng(seed)
    return Softmax(rng.normal(size=(classes, int(np.prod(shape)))) * 3, rng.normal(size=classes), shape)


def slow_pgd(model, x, label, *, eps, steps, step, low, high, targeted, of):
    """One row, one input at a time, as the card writes it (I10)."""
    start = [min(max(v, low), high) for v in x.ravel().tolist()]
    point = list(start)
    for _ in range(steps):
        row = np.array(point).reshape(1, *x.shape)
        weights = np.zeros((1, model.n_classes))
        weights[0, label] = 1
        gradient = model.input_gradient(row, weights, of=of).ravel()
        for i, g in enumerate(gradient):
            sign = int(g > 0) - int(g < 0)
            moved = point[i] + (1 if targeted else -1) * step * sign
            moved = min(max(moved, start[i] - eps), start[i] + eps)
            point[i] = min(max(moved, low), high)
    return np.array(point).reshape(x.shape)


def test_the_toy_model_is_a_differentiable_model():
    assert isinstance(a_model(0), Differentiable)


@given(
    seed=st.integers(0, 200),
    eps=st.floats(0, 2),
    steps=st.integers(1, 6),
    targeted=st.booleans(),
    of=st.sampled_from(["logits", "log_probs"]),
    batch=st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_pgd_is_the_plain_loop(seed, eps, steps, targeted, of, batch):
    rng = np.random.default_rng(seed)
    model, x, labels = a_model(seed), rng.uniform(-0.2, 1.2, (5, 2, 2)), rng.integers(3, size=5)
    fast = pgd(model, x, labels, eps=eps, steps=steps, bounds=(0, 1), targeted=targeted, of=of, batch=batch)
    step = 2.5 * eps / steps
    slow = [
        slow_pgd(model, *pair, eps=eps, steps=steps, step=step, low=0, high=1, targeted=targeted, of=of)
        for pair in zip(x, labels, strict=True)
    ]
    np.testing.assert_allclose(fast, slow, atol=1e-12)


@given(seed=st.integers(0, 500), eps=st.floats(0, 1), steps=st.integers(1, 10), targeted=st.booleans())
@settings(max_examples=60, deadline=None)
def test_never_further_than_eps_and_never_out_of_the_box(seed, eps, steps, targeted):
    rng = np.random.default_rng(seed)
    x, labels = rng.uniform(0, 1, (6, 2, 2)), rng.integers(3, size=6)
    moved = pgd(a_model(seed), x, labels, eps=eps, steps=steps, bounds=(0, 1), targeted=targeted)
    assert abs(moved - x).max() <= eps + 1e-15  # one rounding of x - eps
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_fgsm_by_hand():
    model = Softmax([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0]])
    x = np.array([[0.5, 0.5, 0.95]])
    # The gradient of log p_0 points along w_0 - w_1 = (1, 0, -2); the second input does not matter and stays.
    away = fgsm(model, x, np.array([0]), eps=0.1, bounds=(0, 1))
    towards = fgsm(model, x, np.array([0]), eps=0.1, bounds=(0, 1), targeted=True)
    np.testing.assert_allclose(away, [[0.4, 0.5, 1.0]])
    np.testing.assert_allclose(towards, [[0.6, 0.5, 0.85]])


def test_logits_and_log_probs_part_ways_where_another_class_shares_the_slope():
    model = Softmax([[1.0, 1.0], [2.0, 0.0]])  # log p_0 falls along the first input though logit 0 rises
    x, labels = np.array([[0.5, 0.5]]), np.array([0])
    by_logit = fgsm(model, x, labels, eps=0.1, bounds=(0, 1), targeted=True, of="logits")
    by_log_prob = fgsm(model, x, labels, eps=0.1, bounds=(0, 1), targeted=True)
    np.testing.assert_allclose(by_logit, [[0.6, 0.6]])
    np.testing.assert_allclose(by_log_prob, [[0.4, 0.6]])


def test_forty_default_steps_reach_the_edge_of_the_ball():
    model = Softmax([[1.0, -1.0], [0.0, 0.0]])
    moved = pgd(model, np.array([[0.5, 0.5]]), np.array([0]), eps=0.25, bounds=(0, 1), targeted=True)
    np.testing.assert_allclose(moved, [[0.75, 0.25]])


def test_bounds_of_each_input():
    model = Softmax([[1.0, 1.0], [0.0, 0.0]])
    bounds = (np.array([-1.0, 0.0]), np.array([1.0, 10.0]))
    moved = pgd(model, np.array([[0.0, 5.0]]), np.array([0]), eps=3, bounds=bounds, targeted=True)
    np.testing.assert_allclose(moved, [[1.0, 8.0]])


def test_inputs_stay_as_they_were_and_eps_0_moves_nothing():
    rng = np.random.default_rng(0)
    x, labels = rng.uniform(size=(4, 2, 2)), np.array([0, 1, 2, 0])
    before = x.copy()
    assert (pgd(a_model(1), x, labels, eps=0.0, bounds=(0, 1)) == x).all()
    pgd(a_model(1), x, labels, eps=0.3, bounds=(0, 1))
    assert (x == before).all()
    assert pgd(a_model(1), x[:0], labels[:0], eps=0.3, bounds=(0, 1)).shape == (0, 2, 2)


def test_float32_inputs_come_back_as_float64():
    moved = fgsm(a_model(1), np.full((1, 2, 2), 0.5, np.float32), np.array([0]), eps=0.1, bounds=(0, 1))
    assert moved.dtype == np.float64


def test_noise_goes_eps_in_every_input_inside_the_box():
    x = np.full((50, 4, 4), 0.5)
    noisy = noise_like(x, eps=0.25, bounds=(0, 1), rng=np.random.default_rng(1))
    assert set(np.unique(noisy - x)) == {-0.25, 0.25}
    assert abs((noisy - x).mean()) < 0.25 * 5 / np.sqrt(800)  # five standard errors of a fair coin
    at_the_edge = noise_like(np.ones((3, 4)), eps=0.25, bounds=(0, 1), rng=np.random.default_rng(1))
    assert set(np.unique(at_the_edge)) == {0.75, 1.0}
    again = noise_like(x, eps=0.25, bounds=(0, 1), rng=np.random.default_rng(1))
    assert (noisy == again).all()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"eps": -0.1}, "eps must be a finite number, at least 0; got -0.1"),
        ({"eps": float("nan")}, "eps must be a finite number, at least 0; got nan"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"step": -1.0}, "step must be a finite number, at least 0, or None; got -1.0"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
    ],
)
def test_settings_are_checked(wrong, sentence):
    good = {"eps": 0.1, "bounds": (0, 1)}
    with pytest.raises(ParameterError, match=sentence):
        pgd(a_model(0), np.zeros((1, 2, 2)), np.array([0]), **(good | wrong))


def test_noise_checks_eps():
    with pytest.raises(ParameterError, match="eps must be"):
        noise_like(np.zeros((1, 2)), eps=-1, bounds=(0, 1), rng=np.random.default_rng(0))


def test_labels_are_checked():
    with pytest.raises(InputError, match=r"2 inputs need 2 labels; got an array of shape \(3,\)"):
        pgd(a_model(0), np.zeros((2, 2, 2)), np.zeros(3, int), eps=0.1, bounds=(0, 1))
    with pytest.raises(InputError, match=r"classes 0 to 2; got -1 to 0\. Leave out rows whose answer was withheld"):
        pgd(a_model(0), np.zeros((2, 2, 2)), np.array([-1, 0]), eps=0.1, bounds=(0, 1))
