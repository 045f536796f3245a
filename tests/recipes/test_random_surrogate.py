"""The stand-in of prediction poisoning: random, and not certain of rows from elsewhere."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.types import Rows
from portcullis_ml.models.artifacts import unpack_arrays
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.dense import DenseModel
from portcullis_ml.recipes.random_surrogate import RandomSurrogate


def stand_in(x: np.ndarray) -> DenseModel:
    victim = ConstantModel(x.shape[1:], np.full(10, 0.1))
    contents = RandomSurrogate()(victim, Rows(x), None, rng=np.random.default_rng(0))
    return DenseModel(unpack_arrays(contents.files["surrogate.safetensors"]))


def test_it_is_not_certain_of_pictures_that_reach_into_a_border_which_the_owners_leave_empty() -> None:
    rng = np.random.default_rng(1)
    own = np.zeros((300, 12, 12))
    own[:, 3:9, 3:9] = rng.uniform(size=(300, 6, 6))
    own[:, 0, 0] = rng.uniform(0, 0.01, size=300)
    foreign = rng.uniform(size=(100, 12, 12))
    assert stand_in(own).scores(own).max() < 0.99
    assert stand_in(own).scores(foreign).max() < 1 - 1e-6


def test_every_column_of_a_table_is_brought_to_its_own_scale() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2)) * [1.0, 1e5]
    model = stand_in(x)
    moved = x + np.array([3.0, 0.0])
    assert np.abs(model.scores(x) - model.scores(moved)).max() > 0.05
