"""What whoever holds a network's file can do to its weights: each does what its name says, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from portcullis_ml.core.errors import InputError, ParameterError  # noqa: E402
from portcullis_ml.models.torch import TorchLearner, TorchModel  # noqa: E402
from portcullis_ml.models.weights import (  # noqa: E402
    fresh_last_layer,
    last_layer_of,
    pruned,
    quantised,
    train_last_layer,
)

RNG = np.random.default_rng(0)
X = RNG.random((60, 8, 8))
Y = np.eye(3)[np.arange(60) % 3]
LEARNER = TorchLearner(network="picture_flat", epochs=2)
MODEL = LEARNER.fit(X, Y, rng=np.random.default_rng(0))


def state(model: TorchModel) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.module.state_dict().items()}


def changed(before: TorchModel, after: TorchModel) -> set[str]:
    one, other = state(before), state(after)
    return {name for name in one if not np.array_equal(one[name], other[name])}


def last() -> set[str]:
    """The names of the last layer's weights and bias."""
    return set(list(state(MODEL))[-2:])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pruning_zeroes_the_share_of_least_magnitude_in_every_layer(share: float) -> None:
    before, after = state(MODEL), state(pruned(MODEL, share))
    layers = [name for name in before if before[name].ndim > 1]
    assert layers
    for name in layers:
        gone = after[name] == 0
        assert gone.sum() == round(share * gone.size)
        assert np.abs(before[name][gone]).max() <= np.abs(before[name][~gone]).min()
        assert np.array_equal(after[name][~gone], before[name][~gone])


def test_pruning_leaves_the_model_and_its_biases_alone() -> None:
    before = state(MODEL)
    after = pruned(MODEL, 0.5)
    assert all(np.array_equal(before[name], value) for name, value in state(MODEL).items())
    assert all(state(MODEL)[name].ndim > 1 for name in changed(MODEL, after))


@pytest.mark.parametrize("levels", [3, 15, 255])
def test_quantised_weights_lie_on_so_many_levels_and_no_further_than_half_a_step(levels: int) -> None:
    before, after = state(MODEL), state(quantised(MODEL, levels))
    for name in (name for name in before if before[name].ndim > 1):
        assert len(np.unique(after[name])) <= levels
        step = 2 * np.abs(before[name]).max() / (levels - 1)
        assert np.abs(after[name] - before[name]).max() <= step / 2 + 1e-6


def test_a_fresh_last_layer_is_the_only_change_and_follows_the_generator() -> None:
    one, same, other = (fresh_last_layer(MODEL, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert changed(MODEL, one) == last()
    assert not changed(one, same)
    assert changed(one, other) == last()


def test_training_the_last_layer_changes_nothing_else_and_learns() -> None:
    start = fresh_last_layer(MODEL, np.random.default_rng(1))
    learner = TorchLearner(network="picture_flat", epochs=60, lr=0.01)
    targets = np.eye(3)[(X.mean(axis=(1, 2)) * 60).astype(int) % 3]
    after = train_last_layer(learner, start, X, targets, rng=np.random.default_rng(0))
    assert changed(start, after) == last()

    def loss(model: TorchModel) -> float:
        return float(-np.log(model.scores(X)[np.arange(60), targets.argmax(axis=1)] + 1e-12).mean())

    assert loss(after) < loss(start) - 0.1


def test_the_owners_last_layer_put_back_undoes_what_was_done_to_it_alone() -> None:
    tampered = fresh_last_layer(MODEL, np.random.default_rng(1))
    assert not changed(MODEL, last_layer_of(MODEL, tampered))
    tuned = LEARNER.fit(X, Y, rng=np.random.default_rng(3), start=MODEL)
    assert changed(tuned, last_layer_of(MODEL, tuned)) == last()


def test_bad_settings_and_networks_get_a_sentence() -> None:
    with pytest.raises(ParameterError, match=r"share must be in \[0, 1\)"):
        pruned(MODEL, 1.0)
    with pytest.raises(ParameterError, match="levels must be an odd int of at least 3"):
        quantised(MODEL, 4)
    bare = TorchModel(torch.nn.Conv2d(1, 3, 8), (1, 8, 8), 3)
    with pytest.raises(InputError, match="ends in a fully connected layer"):
        fresh_last_layer(bare, np.random.default_rng(0))
