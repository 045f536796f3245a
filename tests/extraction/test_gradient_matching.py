"""Gradient matching: what explanations add to training on answers alone, and the loss against a plain twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Labels, Model, Reveals
from portcullis_ml.extraction.gradient_matching import GradientMatching
from portcullis_ml.extraction.retraining import Retraining
from portcullis_ml.models.explain import ExplainedModel, explainer_named
from portcullis_ml.models.gradient_matching import _loss, _map_loss, fit_matching
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.torch import TorchLearner, TorchModel

from .toys import toy_victim

API = Interface(input_shape=(8,), n_classes=4, reveals=Reveals.LABELS, explains=True)


def network_victim(seed: int) -> ExplainedModel:
    """A small network that was trained on four curved classes, with explanations."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(3000, 8))
    curves = [np.sin(6 * x[:, 0]) + x[:, 1], 2 * x[:, 2] * x[:, 3] + x[:, 4], 1.5 * x[:, 5] ** 2 + np.cos(5 * x[:, 6])]
    y = np.argmax([*curves, x[:, 7] + 0.3], axis=0)
    model = TorchLearner(network="mlp", epochs=30).fit(x, np.eye(4)[y], rng=rng)
    return explainer_named("gradient_x_input")(model)


def agreement(copy: Model, victim: Model) -> float:
    x = API.uniform(2000, np.random.default_rng(9))
    return float((copy.scores(x).argmax(axis=1) == victim.scores(x).argmax(axis=1)).mean())


@pytest.mark.parametrize("shown", [API, API.revealing(reveals=Reveals.PROBS)])
def test_explanations_make_a_better_copy_at_equal_queries(shown: Interface) -> None:
    plain = Retraining(strategy="uniform", surrogate="learner")
    learner = TorchLearner(network="table_mlp", epochs=200)
    gains = []
    for seed in range(3):
        victim, rng = network_victim(seed), np.random.default_rng(seed)
        found = GradientMatching()(LocalOracle(victim, shown, budget=100), Knowledge(), rng=rng)
        rng = np.random.default_rng(seed)
        without = plain(LocalOracle(victim, shown, budget=100), Knowledge(learner=learner), rng=rng)
        gains.append(agreement(found.model, victim) - agreement(without.model, victim))
    assert np.mean(gains) > (0.04 if shown is API else 0.0), gains


class Misleading:
    """A victim whose explanations have nothing to do with it."""

    def __init__(self, victim: Model, shape: tuple[int, ...]) -> None:
        self.input_shape, self.n_classes = victim.input_shape, victim.n_classes
        self._victim, self._shape = victim, shape

    def scores(self, x: Array) -> Array:
        return self._victim.scores(x)

    def explain(self, x: Array, classes: Labels) -> Array:
        return np.cos(40 * x[:, :1]) * np.ones((len(x), *self._shape))


def test_explanations_that_mislead_are_found_out_and_left_aside() -> None:
    victim = Misleading(network_victim(0), (8,))
    found = GradientMatching(weight=10.0)(
        LocalOracle(victim, API, budget=200), Knowledge(), rng=np.random.default_rng(0)
    )
    loss = found.notes["cross_entropy"]
    assert loss["without"] < loss["with"]
    assert agreement(found.model, victim) > 0.7


def test_explanations_of_another_shape_are_not_used() -> None:
    victim = Misleading(network_victim(0), (3,))
    found = GradientMatching(epochs=50)(LocalOracle(victim, API, budget=100), Knowledge(), rng=np.random.default_rng(0))
    assert found.notes["explanations"] == "are neither in the shape of a row nor maps of a picture, and were not used"


def pictures(n: int, seed: int) -> Array:
    return np.random.default_rng(seed).random((n, 8, 8))


def test_the_copy_learns_where_the_victim_looks_from_maps() -> None:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        victim = TorchModel(build_network("digits_cnn", (8, 8), 3), (8, 8), 3, network="digits_cnn")
    explain, x = explainer_named("grad_cam").prepare(victim), pictures(150, 0)
    labels, targets = victim.scores(x).argmax(axis=1), victim.scores(x)
    shown, far = explain(x, labels), []
    for weight in (3.0, 0.0):
        rng = np.random.default_rng(1)
        copy = fit_matching(x, targets, shown, labels, network="digits_cnn", epochs=40, weight=weight, rng=rng)
        own = explainer_named("grad_cam").prepare(copy)(x, labels)
        lengths = [np.linalg.norm(m.reshape(len(m), -1), axis=1)[:, None, None] + 1e-9 for m in (own, shown)]
        far.append(np.abs(own / lengths[0] - shown / lengths[1]).mean())
    assert far[0] < 0.7 * far[1], far


def test_the_loss_of_maps_is_that_of_one_row_at_a_time() -> None:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        module = build_network("digits_cnn", (8, 8), 3).eval()
    x, classes = torch.tensor(pictures(4, 0), dtype=torch.float32), torch.tensor([0, 1, 2, 1])
    goals, wanted = torch.softmax(torch.randn(4, 3), 1), torch.rand(4, 3, 3)
    each = torch.tensor([1.0, 0.0, 2.0, 0.5])
    found = _map_loss(module, module[1], x, goals, wanted, classes, each)
    plain = 0.0
    for row, goal, map_, c, weight in zip(x, goals, wanted, classes, each, strict=True):
        maps = module[1](module[0](row[None])).detach().requires_grad_()
        logits = module[2:](maps)
        (slopes,) = torch.autograd.grad(logits[0, c], maps)
        own = torch.relu(sum(slopes[0, k].mean() * maps[0, k] for k in range(maps.shape[1])))
        error = ((own / own.norm().clamp(min=1e-12) - map_ / map_.norm()) ** 2).sum()
        cross = -(goal * torch.log_softmax(logits[0], 0)).sum()
        plain += float((cross + weight * error).detach()) / 4
    assert float(found.detach()) == pytest.approx(plain, rel=1e-5)


def test_a_network_without_convolutions_gives_way_where_maps_are_shown() -> None:
    victim, rng = network_of_pictures(), np.random.default_rng(0)
    api = Interface(input_shape=(8, 8), n_classes=3, explains=True)
    found = GradientMatching(epochs=2)(LocalOracle(victim, api, budget=30), Knowledge(), rng=rng)
    assert set(found.notes["cross_entropy"]) == {"with", "without"}
    assert found.model.network == "digits_cnn"  # type: ignore[attr-defined]


def network_of_pictures() -> ExplainedModel:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        module = build_network("digits_cnn", (8, 8), 3)
    return explainer_named("grad_cam")(TorchModel(module, (8, 8), 3), like=pictures(16, 1))


def test_an_api_that_explains_nothing_is_no_place_for_it() -> None:
    oracle = LocalOracle(network_victim(0), API.revealing(explains=False), budget=9)
    with pytest.raises(NotApplicable, match="gradient_matching needs explanations; this API gives none"):
        GradientMatching()(oracle, Knowledge(), rng=np.random.default_rng(0))
    assert oracle.queries == 0


def fitted(products: Array, **settings: Any) -> TorchModel:
    """A copy of a toy, of 200 rows with these explanations; linear unless said otherwise."""
    victim = toy_victim((6,))
    x = np.random.default_rng(0).uniform(size=(200, 6))
    targets, labels = victim.scores(x), victim.scores(x).argmax(axis=1)
    rng = np.random.default_rng(1)
    all_settings = {"network": "prada_1_layer", "epochs": 20, "weight": 1.0, **settings}
    return fit_matching(x, targets, products, labels, rng=rng, **all_settings)


def test_the_copy_explains_as_the_victim_does() -> None:
    victim = toy_victim((6,))
    x = np.random.default_rng(0).uniform(size=(200, 6))
    labels = victim.scores(x).argmax(axis=1)
    shown = explainer_named("gradient_x_input")(victim).explain(x, labels)
    errors = []
    for weight in (1.0, 0.0):
        copy = fitted(shown, network="mlp", epochs=100, weight=weight)
        products = x * copy.input_gradient(x, np.eye(3)[labels], of="logits")
        errors.append(((products - shown) ** 2).mean())
    assert errors[0] < 0.5 * errors[1], errors


def test_withheld_explanations_are_as_if_none_had_been_asked_for() -> None:
    withheld = fitted(np.full((200, 6), np.nan))
    x = np.random.default_rng(2).uniform(size=(50, 6))
    np.testing.assert_array_equal(withheld.scores(x), fitted(np.ones((200, 6)), weight=0.0).scores(x))
    assert not np.array_equal(withheld.scores(x), fitted(np.ones((200, 6))).scores(x))


def test_the_loss_is_what_a_plain_loop_adds_up() -> None:
    victim = network_victim(0)._model
    assert isinstance(victim, TorchModel)
    rng = np.random.default_rng(3)
    x, goals, wanted = rng.uniform(size=(20, 8)), rng.dirichlet(np.ones(4), 20), rng.normal(size=(20, 8))
    classes, each = rng.integers(4, size=20), rng.uniform(size=20)
    tensors = [torch.tensor(v, dtype=torch.float32) for v in (x, goals, wanted)]
    fast = _loss(victim.module, *tensors, torch.tensor(classes), torch.tensor(each, dtype=torch.float32))
    total = 0.0
    for i in range(20):
        row = x[i : i + 1]
        gradient = victim.input_gradient(row, np.eye(4)[classes[i : i + 1]], of="logits")[0]
        total -= float(goals[i] @ np.log(victim.scores(row)[0]))
        total += float(each[i] * ((x[i] * gradient - wanted[i]) ** 2).sum())
    assert fast.item() == pytest.approx(total / 20, rel=1e-4)
