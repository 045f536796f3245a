"""What a copy gives away of the training set, against what unseen rows and random points would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from portcullis_ml.bench.audit_cell import representers_note
from portcullis_ml.core.types import Interface
from portcullis_ml.measures.recovered import SHOWN
from portcullis_ml.models.kernel import KernelRegression
from portcullis_ml.models.softmax import SoftmaxRegression

from .experiments import spec
from .toys import cell

RNG = np.random.default_rng(0)
TRAIN = RNG.uniform(0, 4, (15, 8))
DOOR = Interface(input_shape=(8,), n_classes=2, bounds=(0.0, 4.0))


def stage_of(tmp_path, **changes):
    return replace(spec(tmp_path).load(), interface=DOOR, test_x=RNG.uniform(0, 4, (60, 8)), train=TRAIN, **changes)


def leaked(copy, experiment):
    return representers_note(copy, experiment, cell("kernel"))


def copy_of(rows):
    weights = RNG.choice([-1, 1], (len(rows), 2)) * RNG.uniform(1, 2, (len(rows), 2))
    return KernelRegression(rows, weights, np.zeros(2), 0.5)


def test_a_copy_that_holds_training_rows_says_so(tmp_path):
    copy = copy_of(np.concatenate([TRAIN[[3, 7, 11]] + 1e-3, RNG.uniform(0, 4, (1, 8))]))
    copy.weights[3] = 1e-6  # of no weight, so not counted
    found = leaked(copy, stage_of(tmp_path))
    assert (found["found"], found["closer"]) == (3, 3)
    np.testing.assert_allclose(found["difference"], 1e-3 / 4)
    assert found["unseen"] > 0.1
    assert found["random"] > 0.1
    want = {tuple(np.rint(255 * row / 4)) for row in TRAIN[[3, 7, 11]]}
    assert {tuple(row) for row in found["training"]} == want
    np.testing.assert_allclose(found["recovered"], found["training"], atol=1)


def test_chance_is_not_taken_for_a_leak(tmp_path):
    found = leaked(copy_of(RNG.uniform(0, 4, (10, 8))), stage_of(tmp_path))
    assert found["closer"] <= 2
    assert 0.5 < found["difference"] / found["unseen"] < 2


def test_more_representers_than_training_rows(tmp_path):
    copy = copy_of(np.concatenate([RNG.uniform(0, 4, (10, 8)), TRAIN]))
    found = leaked(copy, stage_of(tmp_path))
    assert len(found["recovered"]) == len(found["training"]) == SHOWN


def test_without_a_training_set_the_rows_stand_alone(tmp_path):
    found = leaked(copy_of(TRAIN[:2]), replace(stage_of(tmp_path), train=None))
    assert found["training"] is None
    assert "difference" not in found
    assert len(found["recovered"]) == 2


def test_other_copies_hold_no_rows(tmp_path):
    assert leaked(SoftmaxRegression(np.eye(2, 8), np.zeros(2)), stage_of(tmp_path)) is None
