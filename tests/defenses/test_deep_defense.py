"""DeepDefense: what holds of its answers, a plain twin of its loss, the cache, and bad input."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.func import functional_call

from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Interface, Request, Rows
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.defenses._misdirecting import misdirecting
from portcullis_ml.defenses.deep_defense import DeepDefense
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.explain import explainer_named
from portcullis_ml.models.misdirection import MARGIN, Descent, _copies, _Search, chosen_layers, misdirected
from portcullis_ml.models.networks import build_network
from portcullis_ml.models.row_network import RowNetwork
from portcullis_ml.models.torch import TorchLearner, TorchModel
from portcullis_ml.recipes.misdirection import Misdirection

KINDS = ("grad_cam", "relevance_cam", "gradient_x_input")
API = Interface(input_shape=(8, 8), n_classes=10, explains=True)
CUT = 12
KEY = b"k" * 32


@cache
def victim() -> TorchModel:
    digits = load_dataset("digits")
    x, y = digits.x[:600], np.asarray(digits.y[:600], np.int64)
    return TorchLearner(network="digits_cnn", epochs=10).fit(x, np.eye(10)[y], rng=np.random.default_rng(0))


@cache
def asked() -> np.ndarray:
    return load_dataset("digits").x_test[:CUT]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    rows = Rows(load_dataset("digits").x[:60])
    made = Misdirection()(victim(), rows, None, rng=np.random.default_rng(0))
    return write_artifact(made, tmp_path_factory.mktemp("it") / "network")


def clean(kind: str, x: np.ndarray) -> Answer:
    scores = victim().scores(x)
    labels = scores.argmax(axis=1)
    return Answer(labels, scores, explainer_named(kind).prepare(victim())(x, labels))


def answered(network: Artifact, kind: str, x: np.ndarray, cuts: tuple[int, ...] = (), **settings: Any) -> Answer:
    defense = DeepDefense(network=network, explanation=kind, **settings)
    guard, truth = Guard(defense, key=KEY, interface=API), clean(kind, x)
    pieces = np.split(np.arange(len(x)), list(cuts))
    return Answer.concat([guard.release(Request("a", x[p]), truth.take(p)).answer for p in pieces])


def same(a: Answer, b: Answer) -> None:
    for one, other in zip(vars(a).values(), vars(b).values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_classes_keep_their_order_and_explanations_nearly(network: Artifact, kind: str) -> None:
    found, truth = answered(network, kind, asked()), clean(kind, asked())
    np.testing.assert_array_equal(found.labels, truth.labels)
    first = np.argsort(-truth.scores, axis=1)[:, :3]
    np.testing.assert_array_equal(np.argsort(-found.scores, axis=1)[:, :3], first)
    assert np.abs(found.scores - truth.scores).sum(axis=1).mean() > 0.1
    pairs = zip(found.explanation, truth.explanation, strict=True)
    kept = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs if a.any() and b.any()]
    assert np.mean(kept) > (0.3 if kind == "gradient_x_input" else 0.5), kept


@pytest.mark.parametrize("kind", [*KINDS, "none"])
@pytest.mark.parametrize("percent", [50, 90])
def test_gradients_are_turned(kind: Any, percent: float) -> None:
    net = RowNetwork(victim().module, (8, 8), kind)
    layers, x = chosen_layers({"1": 77.0, "4": 973.0, "7": 106.0}, percent), torch.tensor(asked(), dtype=torch.float32)
    assert misdirected(net, layers, x, Descent()).cosines.max(1).values.median() < 0.5
    assert misdirected(net, layers, x, Descent(steps=80)).cosines.max(1).values.median() < 0.1


def one_row_loss(
    module: torch.nn.Module, weights: dict[str, torch.Tensor], x: torch.Tensor, how: Descent
) -> torch.Tensor:
    """The loss of one question, Gradient x Input, all layers turned: written down without any batch."""
    own = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}

    def at(parameters: dict[str, torch.Tensor], top: int | None = None) -> Any:
        row = x.clone().requires_grad_()
        logits = functional_call(module, parameters, (row[None],))[0]
        top = int(logits.argmax()) if top is None else top
        slopes = torch.autograd.grad(logits[top], [*parameters.values(), row], create_graph=True)
        flat = torch.cat([s.flatten() for s in slopes[:-1]])
        return logits, flat, (row * slopes[-1]).flatten(), top

    logits, direction, shown, top = (v.detach() if isinstance(v, torch.Tensor) else v for v in at(own))
    order, places = logits.argsort(descending=True, stable=True), shown.argsort(descending=True, stable=True)
    new, turned, now, _ = at(weights, top)
    cosine = (direction @ turned) / (direction.norm() * turned.norm())
    wrong = sum(torch.relu(new[order[i + 1]] - new[order[i]]) for i in range(how.k - 1))
    wrong = wrong + torch.relu(new[order[how.k :]].max() - new[order[how.k - 1]])
    falls = (shown[places[:-1]] - shown[places[1:]]) / shown.abs().max()
    climbs = (now[places[1:]] - now[places[:-1]]) / now.detach().abs().max()
    hinges = [torch.relu(climb + MARGIN * fall) for climb, fall in zip(climbs, falls, strict=True)]
    return cosine.abs() + how.class_weight * wrong + how.map_weight * torch.stack(hinges).mean()


def test_the_loss_and_its_gradient_are_those_of_one_question_at_a_time() -> None:
    net, how = RowNetwork(victim().module, (8, 8), "gradient_x_input"), Descent()
    x = torch.tensor(asked()[:4], dtype=torch.float32, requires_grad=True)
    search, own = _Search(net, list(net.layers), x, how), _copies(net, list(net.layers), 4, start=0.2)
    losses = search.look(own)
    flat = [p for parts in own.values() for p in parts]
    slopes = torch.autograd.grad(losses.sum(), flat)
    names = [f"{layer}.{part}" for layer in net.layers for part in ("weight", "bias")]
    for i in range(4):
        weights = {name: p[i].detach().clone().requires_grad_() for name, p in zip(names, flat, strict=True)}
        loss = one_row_loss(victim().module, weights, x[i].detach(), how)
        torch.testing.assert_close(losses[i], loss, rtol=1e-4, atol=1e-5)
        plain = torch.autograd.grad(loss, list(weights.values()))
        for slope, one in zip(slopes, plain, strict=True):
            torch.testing.assert_close(slope[i], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_pieces_and_a_restart_changes_nothing(network: Artifact, kind: str) -> None:
    whole = answered(network, kind, asked(), steps=4)
    for cuts in ((1, 2, 7), tuple(range(1, CUT))):
        misdirecting.cache_clear()
        same(whole, answered(network, kind, asked(), cuts, steps=4))


def test_a_question_that_was_asked_before_is_not_searched_again(
    network: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(DeepDefense(network=network, steps=4), key=KEY, interface=API, quantum=1 / 255)
    truth = clean("grad_cam", asked())
    first = guard.release(Request("a", asked()), truth).answer
    monkeypatch.setattr("portcullis_ml.models.misdirection.misdirected", None)
    same(first, guard.release(Request("b", asked() + 1e-4), truth).answer)


@pytest.mark.parametrize("classes", [2, 1000])
def test_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = TorchModel(build_network("mlp", (4,), classes), (4,), classes, network="mlp")
    x = np.random.default_rng(0).random((3, 4))
    folder = write_artifact(Misdirection()(model, Rows(x), None, rng=np.random.default_rng(0)), tmp_path / "it")
    defense = DeepDefense(network=folder, explanation="none", steps=3)
    truth = Answer.of(model.scores(x), Interface(input_shape=(4,), n_classes=classes))
    found = Guard(defense, key=KEY, interface=Interface(input_shape=(4,), n_classes=classes))
    answer = found.release(Request("a", x), truth).answer
    np.testing.assert_array_equal(answer.labels, truth.labels)
    np.testing.assert_allclose(answer.scores.sum(axis=1), 1)


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_rows_of_any_size_get_finite_answers(kind: Any) -> None:
    net = RowNetwork(victim().module, (8, 8), kind)
    x = torch.tensor(np.stack([asked()[0] * size for size in (0.0, 1e-20, 1e6, 1e30)]), dtype=torch.float32)
    found = misdirected(net, list(net.layers), x, Descent(steps=3))
    assert torch.isfinite(found.logits).all()
    assert torch.isfinite(found.shown).all()


def test_without_scores_the_explanation_is_misdirected_all_the_same(network: Artifact) -> None:
    truth = clean("grad_cam", asked())
    guard = Guard(DeepDefense(network=network, steps=4), key=KEY, interface=API)
    whole = guard.release(Request("a", asked()), truth).answer
    bare = guard.stages[0].release(
        Request("a", asked()), Answer(truth.labels, None, truth.explanation), truth, None, guard._noises[0]
    )
    assert bare.scores is None
    np.testing.assert_array_equal(bare.explanation, whole.explanation)


# Bad input.


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("explanation", "shap", "one of grad_cam, relevance_cam, gradient_x_input, none"),
        ("sensitivity", 0, "a number above 0 and at most 100"),
        ("alpha", 1.5, r"a number in \[0, 1\]"),
        ("k", 0, "an int of at least 1"),
        ("map_weight", float("nan"), "a number of at least 0"),
        ("steps", 0, r"an int in \[1, 1000\]"),
        ("lr", 2, "a number above 0 and at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(network: Artifact, setting: str, value: Any, sentence: str) -> None:
    with pytest.raises(ParameterError, match=f"DeepDefense.{setting} must be {sentence}"):
        DeepDefense(network=network, **{setting: value})


def test_an_api_that_explains_nothing_or_otherwise_is_said_to_be_so(network: Artifact) -> None:
    with pytest.raises(NotApplicable, match=r"needs an API that explains its answers, by grad_cam; this one has none"):
        DeepDefense(network=network).bind(API.revealing(explains=False))
    with pytest.raises(NotApplicable, match="predicts classes"):
        DeepDefense(network=network).bind(Interface(input_shape=(8, 8), task="regression"))
    wrong, guard = (
        clean("gradient_x_input", asked()),
        Guard(DeepDefense(network=network, steps=1), key=KEY, interface=API),
    )
    with pytest.raises(InputError, match=r"explain as the API does, in shape \(8, 8\); grad_cam gives \(3, 3\)"):
        guard.release(Request("a", asked()), wrong)
    with pytest.raises(ParameterError, match=r"the layer that grad_cam explains must be one of 0, 1, 2.*'9'"):
        DeepDefense(network=network, layer="9").bind(API)
    with pytest.raises(InputError, match=r"takes a layer that gives maps"):
        DeepDefense(network=network, layer="7").bind(API)


def test_the_network_of_another_model_is_refused(network: Artifact) -> None:
    with pytest.raises(InputError, match=r"must take rows of \(8, 8\) and know 4 classes; this one takes \(8, 8\)"):
        DeepDefense(network=network).bind(Interface(input_shape=(8, 8), n_classes=4, explains=True))
    other = Answer.of(np.roll(victim().scores(asked()), 1, axis=1), API)
    guard = Guard(DeepDefense(network=network, steps=1), key=KEY, interface=API)
    with pytest.raises(InputError, match="expected to answer as the model does; it gives other probabilities"):
        guard.release(Request("a", asked()), other)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: {"other.safetensors": data}, "must hold victim.safetensors, as misdirection writes it"),
        (lambda data: {"victim.safetensors": data[:-9]}, r"victim.safetensors was expected to be a whole safetensors"),
        (lambda data: {"victim.safetensors": data.replace(b"digits_cnn", b"digits_knn")}, "networks name must be"),
        (lambda data: {"victim.safetensors": data.replace(b"n_classes", b"n_glasses")}, "must name in its header the"),
    ],
)
def test_a_damaged_artifact_is_refused(network: Artifact, change: Any, sentence: str, tmp_path: Path) -> None:
    folder = write_artifact(Contents(change(network.read().files["victim.safetensors"])), tmp_path / "it")
    with pytest.raises((InputError, ParameterError), match=sentence):
        DeepDefense(network=folder).bind(API)
