"""Victims are trained once and read back the next time."""

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.models.victims import train_victim

X = np.random.default_rng(0).random((60, 6, 6))
Y = (X.mean(axis=(1, 2)) > 0.5).astype(int)


@pytest.mark.parametrize("learner", [TorchLearner(network="mlp", epochs=2), SklearnLearner()])
def test_the_second_time_is_read_from_disk(tmp_path, learner):
    trained = []
    victims = [
        train_victim(X, Y, 2, learner, rng=np.random.default_rng(5), cache=cache, progress=lambda *a: trained.append(a))
        for cache in (tmp_path / "victims", tmp_path / "victims", None)
    ]
    assert len(trained) == 2 * trained[0][1]  # the first and the uncached one
    assert len(list((tmp_path / "victims").iterdir())) == 1
    for victim in victims[1:]:
        np.testing.assert_array_equal(victim.scores(X), victims[0].scores(X))
        assert victim.input_shape == (6, 6)


def test_other_data_settings_or_seeds_are_other_victims(tmp_path):
    learner = TorchLearner(network="mlp", epochs=1)
    flipped = 1 - Y
    for x, y, made, seed in (
        (X, Y, learner, 0),
        (X, Y, learner, 1),
        (X, flipped, learner, 0),
        (X + 1e-9, Y, learner, 0),
        (X, Y, TorchLearner(network="mlp", epochs=2), 0),
    ):
        train_victim(x, y, 2, made, rng=np.random.default_rng(seed), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_the_cache_does_not_move_the_generator(tmp_path):
    learner = TorchLearner(network="mlp", epochs=1)
    after = []
    for _ in range(2):
        rng = np.random.default_rng(0)
        train_victim(X, Y, 2, learner, rng=rng, cache=tmp_path)
        after.append(rng.random())
    assert after[0] == after[1]


def test_labels_that_do_not_fit_get_a_sentence():
    learner = TorchLearner(network="mlp", epochs=1)
    with pytest.raises(InputError, match=r"one label for each; got 60 rows and labels \(59,\)"):
        train_victim(X, Y[:59], 2, learner, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match=r"Labels must lie in 0\.\.0; got 0\.\.1"):
        train_victim(X, Y, 1, learner, rng=np.random.default_rng(0))
