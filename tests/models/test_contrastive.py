"""Contrastive losses beside their plain twins, and what the training of features changes and leaves alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.contrastive import (
    Contrast,
    Lessons,
    class_costs,
    features,
    last_layer,
    pair_weights,
    siamese,
    soft_contrast,
)
from portcullis_ml.models.torch import TorchLearner, TorchModel


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def answers(n: int, c: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(c, 0.3), size=n))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(float((a**2).sum() * (b**2).sum())))


def test_the_siamese_loss_is_its_plain_twin() -> None:
    p1, z1, p2, z2 = (normal(6, 4, seed=s) for s in range(4))
    plain = [-0.5 * (cosine(p1[i], z2[i]) + cosine(p2[i], z1[i])) for i in range(6)]
    np.testing.assert_allclose(siamese(p1, z1, p2, z2), plain)


def test_projections_get_no_gradient() -> None:
    p1, z1, p2, z2 = (normal(6, 4, seed=s).requires_grad_(True) for s in range(4))
    siamese(p1, z1, p2, z2).sum().backward()
    assert p1.grad is not None
    assert p2.grad is not None
    assert z1.grad is None
    assert z2.grad is None


def soft_contrast_slowly(p: Tensor, z: Tensor, y: Tensor) -> float:
    def certainty(row: Tensor) -> float:
        return 1 + sum(float(v) * math.log(v) for v in row if v > 0) / math.log(len(row))

    terms = []
    for i in range(len(p)):
        for j in range(len(p)):
            eta = certainty(y[i]) * certainty(y[j]) * cosine(y[i], y[j])
            if i != j and eta > 1e-6:
                terms.append(-eta * cosine(p[i], z[j]))
    return sum(terms) / len(terms)


def test_the_soft_contrast_is_its_plain_twin() -> None:
    p, z, y = normal(8, 5), normal(8, 5, seed=1), answers(8, 4)
    y[0], y[1] = torch.tensor([0.0, 1.0, 0, 0]), 0.25  # a label alone, and an answer that says nothing
    assert float(soft_contrast(p, z, y)) == pytest.approx(soft_contrast_slowly(p, z, y))


def test_answers_that_say_nothing_attract_nobody() -> None:
    y = torch.full((4, 5), 0.2, dtype=torch.float64)
    assert float(pair_weights(y).max()) < 1e-9
    assert float(soft_contrast(normal(4, 3), normal(4, 3, seed=1), y)) == 0


def test_labels_attract_within_their_class_alone() -> None:
    labels = torch.tensor([0, 1, 0, 2])
    np.testing.assert_allclose(pair_weights(torch.eye(3, dtype=torch.float64)[labels]), labels[:, None] == labels)


def test_rare_classes_cost_more() -> None:
    costs = class_costs(np.array([0, 3, 40, 400]))
    assert costs.sum() == pytest.approx(1)
    assert (np.diff(costs) < 0).all()
    np.testing.assert_allclose(costs[1] / costs[0], (1 - 0.99) / (1 - 0.99**4))


def model(network: str = "mlp", shape: tuple[int, ...] = (4,)) -> TorchModel:
    x, y = np.random.default_rng(0).random((40, *shape)), np.eye(3)[np.arange(40) % 3]
    return TorchLearner(network=network, epochs=1).fit(x, y, rng=np.random.default_rng(1))


def lessons(n: int = 60, asked: int = 20, shape: tuple[int, ...] = (4,)) -> Lessons:
    rng = np.random.default_rng(2)
    y = np.eye(3)[np.arange(asked) % 3]
    return Lessons(rng.random((n, *shape)), rng.random((asked, *shape)), y, y.sum(axis=0).astype(np.int64))


def noisy(x: Tensor) -> Tensor:
    return x + 0.05 * torch.randn(x.shape)


def contrast(epochs: int = 4) -> Contrast:
    return Contrast(noisy, width=8, rate=0.06, epochs=epochs)


def weights(model: TorchModel) -> list[np.ndarray]:
    return [w.numpy().copy() for w in model.module.parameters()]


def test_features_are_trained_and_the_model_given_is_left_alone() -> None:
    start = model()
    before, x = weights(start), lessons().unasked
    trained = contrast()(start, lessons(), epochs=2, rng=np.random.default_rng(3))
    for one, two in zip(before, weights(start), strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.abs(features(trained, x) - features(start, x)).max() > 1e-3
    *_, last, bias = weights(trained)
    np.testing.assert_array_equal(last, before[-2])  # the last layer is the answers' to train
    np.testing.assert_array_equal(bias, before[-1])


def test_one_generator_one_training() -> None:
    one, two, other = (contrast()(model(), lessons(), epochs=2, rng=np.random.default_rng(s)) for s in (3, 3, 4))
    x = lessons().unasked
    np.testing.assert_array_equal(features(one, x), features(two, x))
    assert not np.array_equal(features(one, x), features(other, x))


def half_drawn_anew(x: Tensor) -> Tensor:
    return torch.cat([x[:, :2], torch.rand(len(x), 2)], 1)


def test_features_stop_depending_on_what_views_change() -> None:
    def share(model: TorchModel) -> float:
        x, rng = lessons(200).unasked, np.random.default_rng(0)
        changed = np.concatenate([x[:, :2], rng.random((200, 2))], axis=1)
        one, two = features(model, x), features(model, changed)
        return float(((one - two) ** 2).sum() / ((one - one[::-1]) ** 2).sum())

    start = model()
    training = Contrast(half_drawn_anew, width=8, rate=0.06, epochs=100)
    trained = training(start, lessons(200, 0), epochs=100, rng=np.random.default_rng(3))
    assert share(trained) < 0.5 * share(start)


def test_rows_of_one_answer_come_together() -> None:
    start, x = model(), lessons().unasked
    y = np.eye(3)[(3 * x[:, 0]).astype(int)]
    given = Lessons(x, x, y, y.sum(axis=0).astype(np.int64))
    alone = Lessons(x, x[:0], y[:0], given.counts)
    trained, untold = (contrast(60)(start, g, epochs=60, rng=np.random.default_rng(3)) for g in (given, alone))

    def within(model: TorchModel) -> float:
        f, y = features(model, given.asked), given.answers.argmax(axis=1)
        spread = sum(((f[y == c] - f[y == c].mean(axis=0)) ** 2).sum() for c in range(3))
        return float(spread / ((f - f.mean(axis=0)) ** 2).sum())

    assert within(trained) < 0.8 * within(start)
    assert within(trained) < within(untold)


@pytest.mark.parametrize(("n", "asked"), [(1, 20), (60, 0), (60, 1), (513, 5)])
def test_few_rows_are_no_trouble(n: int, asked: int) -> None:
    trained = contrast()(model(), lessons(n, asked), epochs=1, rng=np.random.default_rng(3))
    assert np.isfinite(features(trained, lessons().unasked)).all()


def test_a_copy_carries_nothing_of_the_training_along() -> None:
    """Hooks that stayed would keep every batch that the network is ever given."""
    trained = contrast()(model(), lessons(), epochs=1, rng=np.random.default_rng(3))
    features(trained, lessons().unasked)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in trained.module.modules())


def test_features_are_what_the_last_layer_takes() -> None:
    held, x = model("digits_cnn", (8, 8)), lessons(shape=(8, 8)).unasked
    layer: Any = held.module[-1]
    logits = features(held, x) @ layer.weight.double().numpy().T + layer.bias.double().numpy()
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), held.scores(x), atol=1e-5)


@pytest.mark.parametrize("module", [nn.Flatten(), nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))])
def test_a_network_without_a_last_linear_layer_is_refused(module: nn.Module) -> None:
    with pytest.raises(InputError, match="ends in one linear layer"):
        last_layer(module, torch.zeros(2, 4))
