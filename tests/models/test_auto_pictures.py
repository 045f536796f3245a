"""The learner that chooses among networks: what it finds, its fall-backs, and that it is a function of its inputs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Differentiable, Interface
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.extraction.copycat import Copycat
from portcullis_ml.models import auto_pictures
from portcullis_ml.models.auto_pictures import COPIES, AutoPictures, PictureModel
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.load import load_model, save_model
from portcullis_ml.models.picture_training import Recipe, augmented, train_network
from portcullis_ml.models.schedules import rate_at
from portcullis_ml.models.torch import TorchLearner


def rows(n: int = 60, shape: tuple[int, ...] = (8, 8), classes: int = 4, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.random((n, *shape)), rng.dirichlet(np.ones(classes), n)


def fit(x: Array, p: Array, seed: int = 0, epochs: int | None = 2) -> PictureModel:
    model = AutoPictures(epochs=epochs).fit(x, p, rng=np.random.default_rng(seed))
    assert isinstance(model, PictureModel)
    return model


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Array, Array, Array]:
    """A victim, questions, its answers, and rows that judge."""
    d = load_dataset("digits")
    victim = TorchLearner(network="digits_cnn", epochs=30).fit(
        d.x[:600], np.eye(10)[d.y[:600]], rng=np.random.default_rng(0)
    )
    return victim, d.x[600:900], victim.scores(d.x[600:900]), d.x_test


def test_it_is_no_worse_than_the_plain_loop_on_digits(digits) -> None:
    victim, x, p, test = digits
    truth = victim.scores(test).argmax(axis=1)
    ours = (fit(x, p, epochs=None).scores(test).argmax(axis=1) == truth).mean()
    plain = TorchLearner(network="digits_cnn", epochs=50).fit(x, p, rng=np.random.default_rng(0))
    assert ours >= (plain.scores(test).argmax(axis=1) == truth).mean() - 0.01
    assert ours > 0.9


def test_what_was_compared_is_told_and_the_best_is_fitted(digits) -> None:
    _, x, p, _ = digits
    chosen = fit(x, p, epochs=8).chosen
    assert {"picture_flat", "digits_cnn", "picture_flat, shifted by 1", "picture_pooled, shifted by 1"} <= set(
        chosen["set_aside"]
    )
    assert len(chosen["fitted"]) == COPIES
    assert chosen["rows"] == len(x)
    best = max(agreement for agreement, _ in chosen["set_aside"].values())
    name = " + ".join(dict.fromkeys(chosen["fitted"]))
    assert chosen["set_aside"][name][0] >= best - 3 * np.sqrt(best * (1 - best) / (len(x) // 4)) - 1e-4


def test_the_same_rows_and_generator_give_the_same_bits_and_global_generators_are_left_alone() -> None:
    x, p = rows()
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    first, again, other = (fit(x, p, seed).scores(x) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (16, 16, 3), (5, 9, 2), (2, 3)])
def test_scores_of_a_row_do_not_depend_on_its_neighbours(shape) -> None:
    x, p = rows(24, shape)
    model = fit(x, p, epochs=1)
    together = model.scores(x)
    assert np.allclose(together.sum(axis=1), 1)
    assert np.allclose(together[3:4], model.scores(x[3:4]), atol=1e-5)
    assert np.allclose(together[:5], model.scores(np.concatenate([x[:5], 50 * x[5:]]))[:5], atol=1e-5)
    assert model.scores(x[:0]).shape == (0, 4)


@pytest.mark.parametrize("n", [2, 3, 9, 19])
def test_few_rows_are_not_split(n: int) -> None:
    x, p = rows(n)
    model = fit(x, p, epochs=None)
    assert model.chosen["set_aside"] == {}
    assert np.isfinite(model.scores(x)).all()


def test_twenty_rows_are_split() -> None:
    assert fit(*rows(20)).chosen["set_aside"]


def test_labels_alone_are_learned(digits) -> None:
    victim, x, p, test = digits
    copy = fit(x, np.eye(10)[p.argmax(axis=1)], epochs=15)
    assert (copy.scores(test).argmax(axis=1) == victim.scores(test).argmax(axis=1)).mean() > 0.85


def test_one_class_in_the_answers_gives_the_constant() -> None:
    x, _ = rows()
    model = AutoPictures().fit(x, np.eye(3)[np.full(len(x), 1)], rng=np.random.default_rng(0))
    assert isinstance(model, ConstantModel)
    assert (model.scores(x) == [0, 1, 0]).all()


def test_withheld_answers_are_left_out_and_none_at_all_is_an_error() -> None:
    x, p = rows()
    p[::2] = 0
    assert fit(x, p).chosen["rows"] == len(x) // 2
    with pytest.raises(InputError, match="at least one of them known"):
        fit(x, np.zeros_like(p))
    with pytest.raises(InputError, match="finite numbers"):
        fit(np.full_like(x, np.nan), rows()[1])


def test_a_network_that_gives_nan_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(recipe: Recipe, x: Any, p: Any, epochs: int) -> Any:
        module = train_network(recipe, x, p, epochs)
        if recipe.network in failing:
            for parameter in module.parameters():
                parameter.fill_(float("nan"))
        return module

    monkeypatch.setattr(auto_pictures, "train_network", broken)
    x, p = rows()
    failing = {"picture_flat", "picture_pooled"}
    chosen = fit(x, p).chosen
    assert set(chosen["fitted"]) == {"digits_cnn"}
    assert not [name for name in chosen["set_aside"] if "picture" in name]
    few = fit(x[:10], p[:10]).chosen
    assert few["fitted"] == ["digits_cnn"]
    failing |= {"digits_cnn"}
    nothing = AutoPictures(epochs=1).fit(x, p, rng=np.random.default_rng(0))
    assert isinstance(nothing, ConstantModel)
    assert np.allclose(nothing.scores(x), p.mean(axis=0))


def test_a_copy_is_saved_read_and_differentiated(tmp_path) -> None:
    x, p = rows()
    model = fit(x, p)
    read = load_model(str(save_model(model, tmp_path / "copy")))
    assert np.allclose(read.scores(x), model.scores(x), atol=1e-6)
    assert isinstance(model, Differentiable)
    assert np.abs(model.input_gradient(x, p, of="log_probs")).max() > 0


def test_an_attack_that_trains_it_notes_nothing_of_the_victim() -> None:
    x, p = rows(60, classes=3)
    victim = TorchLearner(network="mlp", epochs=1).fit(x, p, rng=np.random.default_rng(0))
    oracle = LocalOracle(victim, Interface(input_shape=(8, 8), n_classes=3, bounds=(0.0, 1.0)), budget=40)
    found = Copycat()(oracle, Knowledge(pool=x, learner=AutoPictures(epochs=1)), rng=np.random.default_rng(0))
    assert found.model.n_classes == 3


def test_the_best_of_another_kind_is_blended_in_unless_that_is_clearly_worse() -> None:
    x, p = (torch.tensor(a, dtype=torch.float32) for a in rows(80))
    trial = auto_pictures._Trial(x, p)
    flat, wide, pooled = (Recipe(f"picture_{kind}") for kind in ("flat", "flat_wide", "pooled"))
    truth = np.log(trial._truth)
    trial._found = {str(flat): truth, str(wide): 0.9 * truth, str(pooled): 0.8 * truth}
    trial.table = {name: trial._score(found) for name, found in trial._found.items()}
    assert trial.blended([wide, pooled, flat]) == [flat, pooled]  # the second best is of the same kind as the best
    trial._found[str(pooled)] = -truth
    trial.table[str(pooled)] = trial._score(-truth)
    assert trial.blended([wide, pooled, flat]) == [flat]


def test_shifts_move_whole_pictures_and_mirrors_turn_them() -> None:
    x = torch.arange(2 * 4 * 5 * 3, dtype=torch.float32).reshape(2, 4, 5, 3)
    with torch.random.fork_rng():
        shifted = [augmented(x, 1, False) for _ in range(40)]
        mirrored = [augmented(x, 0, True) for _ in range(40)]
    assert all(part.shape == x.shape for part in shifted)
    assert any(torch.equal(part[0, :-1, 1:], x[0, 1:, :-1]) for part in shifted)  # one up, one to the right
    assert {bool(torch.equal(part[0], x[0])) for part in mirrored} == {True, False}
    assert all(torch.equal(part[0], x[0]) or torch.equal(part[0], x[0].flip(1)) for part in mirrored)
    assert torch.equal(augmented(x, 0, False), x)
    assert augmented(x[..., 0], 2, True).shape == (2, 4, 5)


def test_the_rate_rises_for_a_quarter_and_falls_to_nothing() -> None:
    rates = [rate_at("one_cycle", done) for done in (0.0, 0.125, 0.25, 0.625, 1.0)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_settings_are_data() -> None:
    assert describe(AutoPictures(epochs=3))["unit"] == "portcullis_ml.models.auto_pictures:AutoPictures"
    with pytest.raises(ParameterError, match=r"AutoPictures\.epochs must be"):
        AutoPictures(epochs=0)


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 20, 20)])
def test_pictures_with_their_channels_first(shape):
    """As PyTorch has them: the same pictures with their channels last are learned alike, weight by weight."""
    rng = np.random.default_rng(0)
    x = rng.random((60, *shape))
    p = np.eye(2)[(x.mean(axis=(1, 2, 3)) > x.mean()).astype(int)]
    first = AutoPictures(epochs=2).fit(x, p, rng=np.random.default_rng(1))
    last = AutoPictures(epochs=2).fit(np.moveaxis(x, 1, -1), p, rng=np.random.default_rng(1))
    assert first.input_shape == shape
    np.testing.assert_allclose(first.scores(x), last.scores(np.moveaxis(x, 1, -1)), atol=1e-5)
