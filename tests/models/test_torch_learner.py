"""The learner's contract: a new model, a function of (x, targets, rng), and nothing else in the process is touched."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Differentiable, Model
from portcullis_ml.models.load import load_model, save_model
from portcullis_ml.models.torch import TorchLearner, TorchModel

QUICK = dict(network="mlp", epochs=3, batch=16)


def rows(n=60, shape=(8, 8), classes=10, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, *shape))
    return x, np.eye(classes)[rng.integers(classes, size=n)]


@pytest.fixture(scope="module")
def digits():
    from portcullis_ml.data.datasets import load_dataset

    return load_dataset("digits")


@pytest.mark.parametrize("network", ["digits_cnn", "mlp"])
def test_it_learns_digits(digits, network):
    targets = np.eye(10)[digits.y[:400]]
    model = TorchLearner(network=network, epochs=10, lr=3e-3).fit(digits.x[:400], targets, rng=np.random.default_rng(0))
    assert (model.scores(digits.x_test).argmax(axis=1) == digits.y_test).mean() > 0.85


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dropout": 0.5},
        {"optimizer": "sgd"},
        {"patience": 1},
        {"optimizer": "adamw", "schedule": "one_cycle", "weight_decay": 0.1, "shift": 1, "mirror": True},
        {"schedule": "cosine"},
    ],
)
def test_same_rng_same_model_and_another_rng_another(settings):
    x, t = rows()
    learner = TorchLearner(**QUICK, **settings)
    one, two, three = (learner.fit(x, t, rng=np.random.default_rng(s)).scores(x) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - three).max() > 1e-4


def test_global_generators_and_threads_are_left_alone():
    x, t = rows()
    np.random.seed(3)  # noqa: NPY002 (the global generator is what is watched)
    random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state(), torch.get_num_threads()  # noqa: NPY002
    TorchLearner(**QUICK, dropout=0.5).fit(x, t, rng=np.random.default_rng(0)).scores(x)
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert before[1] == random.getstate()
    assert torch.equal(before[2], torch.get_rng_state())
    assert before[3] == torch.get_num_threads()


def test_the_global_seed_changes_nothing():
    x, t = rows()
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        scores.append(TorchLearner(**QUICK).fit(x, t, rng=np.random.default_rng(0)).scores(x))
    np.testing.assert_array_equal(*scores)


def test_start_is_begun_from_and_never_modified():
    x, t = rows()
    start = TorchLearner(**QUICK).fit(x, t, rng=np.random.default_rng(0))
    before = start.scores(x)
    tiny = TorchLearner(network="mlp", epochs=1, lr=1e-12)
    warm = tiny.fit(x, t, rng=np.random.default_rng(1), start=start)
    np.testing.assert_allclose(warm.scores(x), before, atol=1e-6)
    assert warm is not start
    assert warm.module is not start.module
    TorchLearner(**QUICK, lr=0.1).fit(x, t, rng=np.random.default_rng(1), start=start)
    np.testing.assert_array_equal(start.scores(x), before)


def test_labels_are_the_argmax_and_soft_is_not():
    x, _ = rows()
    soft = np.random.default_rng(1).dirichlet(np.ones(10), len(x))
    hard = np.eye(10)[soft.argmax(axis=1)]

    def fit(goals, **settings):
        return TorchLearner(**QUICK, **settings).fit(x, goals, rng=np.random.default_rng(0)).scores(x)

    np.testing.assert_array_equal(fit(soft, targets="labels"), fit(hard, targets="labels"))
    np.testing.assert_allclose(fit(hard, targets="soft"), fit(hard, targets="labels"), atol=1e-5)
    assert np.abs(fit(soft, targets="soft") - fit(soft, targets="labels")).max() > 1e-3


def test_one_step_is_a_plain_pytorch_step():
    x, t = rows(16)
    learner = TorchLearner(network="prada_1_layer", epochs=1, batch=16, optimizer="sgd", lr=0.5, momentum=0.0)
    start = TorchLearner(network="prada_1_layer", epochs=1).fit(x, t, rng=np.random.default_rng(0))
    stepped = learner.fit(x, t, rng=np.random.default_rng(1), start=start)

    linear = start.module[2]
    w, b = linear.weight.double().numpy(), linear.bias.double().numpy()
    flat = x.reshape(16, -1)
    logits = flat @ w.T + b
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(stepped.module[2].weight, w - 0.5 * (p - t).T @ flat / 16, atol=1e-5)
    np.testing.assert_allclose(stepped.module[2].bias, b - 0.5 * (p - t).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_the_rate_follows_its_schedule_over_all_steps(schedule):
    x, t = np.ones((4, 1)), np.tile([1.0, 0.0], (4, 1))
    learner = TorchLearner(
        network="prada_1_layer", epochs=12, optimizer="sgd", momentum=0.0, lr=1e-6, schedule=schedule
    )
    rates = []
    plain = TorchLearner.one_epoch

    def noted(self, module, optimizer, *rest):
        plain(self, module, optimizer, *rest)
        rates.append(optimizer.param_groups[0]["lr"] / 1e-6)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchLearner, "one_epoch", noted)
        learner.fit(x, t, rng=np.random.default_rng(0))
    if schedule == "one_cycle":
        assert rates[0] == pytest.approx((0.5 / 12) / 0.25)
        assert np.argmax(rates) == 3
    assert rates[-1] < 0.05
    assert (np.diff(rates[3:]) < 0).all()
    assert max(rates) <= 1


def test_augmented_pictures_are_moved_and_mirrored_while_training_only(monkeypatch):
    from portcullis_ml.models import torch as adapter

    seen = []
    plain = adapter.augmented
    monkeypatch.setattr(adapter, "augmented", lambda x, *how: seen.append((len(x), *how)) or plain(x, *how))
    x, t = rows(20)
    model = TorchLearner(network="digits_cnn", epochs=2, batch=16, shift=1, mirror=True).fit(
        x, t, rng=np.random.default_rng(0)
    )
    assert seen == [(16, 1, True), (4, 1, True)] * 2
    model.scores(x)
    assert len(seen) == 4
    with pytest.raises(InputError, match=r"shift and mirror move pictures; rows of \(3,\) are none"):
        TorchLearner(network="mlp", mirror=True).fit(np.ones((4, 3)), t[:4], rng=np.random.default_rng(0))


def test_dropout_changes_training_and_not_prediction():
    x, t = rows()
    plain, dropped = (
        TorchLearner(**QUICK, dropout=rate).fit(x, t, rng=np.random.default_rng(0)) for rate in (0.0, 0.5)
    )
    assert np.abs(plain.scores(x) - dropped.scores(x)).max() > 1e-4
    np.testing.assert_array_equal(dropped.scores(x), dropped.scores(x))


def test_withheld_rows_are_left_out():
    x, t = rows()
    hidden = t.copy()
    hidden[::3] = 0.0
    kept = np.flatnonzero(hidden.any(axis=1))
    for targets in ("soft", "labels"):
        learner = TorchLearner(**QUICK, targets=targets)
        np.testing.assert_array_equal(
            learner.fit(x, hidden, rng=np.random.default_rng(0)).scores(x),
            learner.fit(x[kept], t[kept], rng=np.random.default_rng(0)).scores(x),
        )


def test_early_stopping_stops_early_and_keeps_the_best():
    x, t = rows(200)  # labels are noise, so the validation loss soon rises
    seen = []
    learner = TorchLearner(network="mlp", epochs=60, batch=16, lr=1e-2, patience=2)
    learner.fit(x, t, rng=np.random.default_rng(0), progress=lambda epoch, of: seen.append((epoch, of)))
    assert seen[0] == (1, 60)
    assert 3 <= seen[-1][0] < 60


def test_the_gradient_agrees_with_finite_differences():
    x, t = rows(4)
    model = TorchLearner(network="digits_cnn", epochs=2).fit(x, t, rng=np.random.default_rng(0))
    model.module.double()
    model._batches = lambda a: [torch.tensor(a)]  # float64 throughout, so that differences can be trusted
    weights = np.random.default_rng(1).normal(size=(4, 10))

    def value(at, of):
        with torch.no_grad():
            out = model.module(torch.tensor(at))
            out = out if of == "logits" else torch.log_softmax(out, 1)
        return float((out.numpy() * weights).sum())

    for of in ("logits", "log_probs"):
        gradient = model.input_gradient(x, weights, of=of)
        for index in [(0, 0, 0), (1, 3, 4), (2, 7, 7), (3, 5, 2)]:
            up, down = x.copy(), x.copy()
            up[index] += 1e-6
            down[index] -= 1e-6
            assert gradient[index] == pytest.approx((value(up, of) - value(down, of)) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("of", ["logits", "log_probs"])
def test_scores_and_gradients_by_one_pass_are_those_by_two(of):
    x, t = rows(30)
    model = TorchLearner(network="digits_cnn", epochs=1).fit(x, t, rng=np.random.default_rng(0))
    model.batch = 7
    scores, gradient = model.scores_and_gradient(x, t, of=of)
    np.testing.assert_array_equal(scores, model.scores(x))
    np.testing.assert_array_equal(gradient, model.input_gradient(x, t, of=of))
    scores, gradient = model.scores_and_gradient(x[:0], t[:0], of=of)
    assert (scores.shape, gradient.shape) == ((0, 10), (0, 8, 8))


@pytest.mark.parametrize("of", ["logits", "log_probs"])
def test_several_gradients_by_one_forward_pass_are_those_one_by_one(of):
    x, t = rows(30)
    model = TorchLearner(network="digits_cnn", epochs=1).fit(x, t, rng=np.random.default_rng(0))
    model.batch = 7
    weights = np.random.default_rng(1).normal(size=(30, 3, 10))
    together = model.input_gradients(x, weights, of=of)
    for k in range(3):
        np.testing.assert_allclose(together[:, k], model.input_gradient(x, weights[:, k], of=of), rtol=1e-5, atol=1e-8)
    assert model.input_gradients(x[:0], weights[:0], of=of).shape == (0, 3, 8, 8)


def test_batches_equal_their_pieces_and_nothing_is_an_empty_answer():
    x, t = rows(30)
    model = TorchLearner(network="digits_cnn", epochs=1).fit(x, t, rng=np.random.default_rng(0))
    small = TorchModel(model.module, (8, 8), 10, batch=7)
    np.testing.assert_allclose(small.scores(x), model.scores(x), atol=1e-6)
    np.testing.assert_allclose(
        small.input_gradient(x, t, of="logits"), model.input_gradient(x, t, of="logits"), atol=1e-6
    )
    assert model.scores(x[:0]).shape == (0, 10)
    assert model.input_gradient(x[:0], t[:0], of="logits").shape == (0, 8, 8)
    assert model.scores(x).dtype == np.float64
    np.testing.assert_allclose(model.scores(x).sum(axis=1), 1.0, atol=1e-12)
    assert isinstance(model, Model)
    assert isinstance(model, Differentiable)


def test_a_module_with_dropout_answers_the_same_twice():
    model = TorchModel(nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 3)).train(), (4,), 3)
    x = np.ones((5, 4))
    np.testing.assert_array_equal(model.scores(x), model.scores(x))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 0}, "TorchLearner.epochs must be an int of at least 1; got 0."),
        ({"optimizer": "lbfgs"}, "TorchLearner.optimizer must be 'adam', 'adamw' or 'sgd'; got 'lbfgs'."),
        ({"schedule": "steps"}, "TorchLearner.schedule must be one of constant, cosine, one_cycle; got 'steps'."),
        ({"shift": -1}, "TorchLearner.shift must be an int of at least 0; got -1."),
        ({"mirror": 1}, "TorchLearner.mirror must be True or False; got 1."),
        ({"mixed": True}, "TorchLearner.mixed must be False unless the device is a GPU; got True."),
        ({"dropout": 1.0}, r"TorchLearner.dropout must be in \[0, 1\); got 1.0."),
        ({"patience": 0}, "TorchLearner.patience must be at least 1, or None; got 0."),
        ({"lr": float("nan")}, "TorchLearner.lr must be above 0; got nan."),
    ],
)
def test_settings_out_of_range_get_a_sentence(settings, sentence):
    with pytest.raises(ParameterError, match=sentence):
        TorchLearner(**settings)


def test_bad_rows_get_a_sentence():
    x, t = rows(6)
    fit = TorchLearner(**QUICK).fit
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"expected to be \(6, n_classes\), one distribution for each row"):
        fit(x, t[:5], rng=rng)
    with pytest.raises(InputError, match="at least one row with a target; got none"):
        fit(x, t * 0, rng=rng)
    with pytest.raises(InputError, match="finite numbers; got NaN or infinity"):
        fit(np.where(x > 0.9, np.nan, x), t, rng=rng)
    with pytest.raises(ParameterError, match=r"networks name must be one of .* Did you mean mlp"):
        TorchLearner(network="mpl").fit(x, t, rng=rng)
    with pytest.raises(InputError, match="start must be a model of the same network"):
        TorchLearner(network="prada_1_layer").fit(x, t, rng=rng, start=fit(x, t, rng=rng))
    with pytest.raises(InputError, match="start must be a TorchModel of the same network; got int"):
        fit(x, t, rng=rng, start=3)
    with pytest.raises(InputError, match=r"expected to give \(6, 3\) logits; it gave \(6, 10\)"):
        TorchModel(fit(x, t, rng=rng).module, (8, 8), 3).scores(x)
    with pytest.raises(ParameterError, match="of must be 'logits' or 'log_probs'; got 'probs'"):
        fit(x, t, rng=rng).input_gradient(x, t, of="probs")


def test_settings_are_plain_data():
    learner = TorchLearner(network="mlp", epochs=5, patience=3)
    described = describe(learner)
    assert described.pop("unit") == "portcullis_ml.models.torch:TorchLearner"
    assert TorchLearner(**described) == learner


def test_a_table_is_learnt_whatever_its_units() -> None:
    """The same rows in other units, and with a column that does not vary: the copy is as good, where `mlp` fails."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 3))
    y = np.eye(2)[(z[:, 0] + z[:, 1] > 0).astype(int)]
    x = np.column_stack([z[:, 0] * 1e5 + 3e5, z[:, 1] * 1e-3, z[:, 2], np.full(400, 7.0)])
    right = {}
    for network in ("table_mlp", "mlp"):
        learner = TorchLearner(network=network, epochs=30)
        model = learner.fit(x[:300], y[:300], rng=np.random.default_rng(1))
        right[network] = (model.scores(x[300:]).argmax(axis=1) == y[300:].argmax(axis=1)).mean()
    assert right["table_mlp"] > 0.9 > right["mlp"]


def test_what_a_table_was_measured_by_goes_with_the_weights(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3)) * [1e4, 1, 1e-4]
    y = np.eye(2)[(x[:, 0] > 0).astype(int)]
    learner = TorchLearner(network="table_mlp", epochs=2)
    first = learner.fit(x, y, rng=np.random.default_rng(1))
    np.testing.assert_allclose(first.module[0].mean.numpy(), x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(first.module[0].deviation.numpy(), x.std(axis=0), rtol=1e-6)
    again = load_model(str(save_model(first, tmp_path / "copy")), input_shape=(3,), n_classes=2)
    np.testing.assert_array_equal(again.scores(x), first.scores(x))
    shifted = learner.fit(x + 1e6, y, rng=np.random.default_rng(1), start=first)
    np.testing.assert_array_equal(shifted.module[0].mean.numpy(), first.module[0].mean.numpy())
