"""The protocol dataset-inference on digits, and the published test that it runs beside the calibrated one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from portcullis_ml.bench.protocols import PROTOCOLS
from portcullis_ml.bench.protocols import dataset_inference as protocol
from portcullis_ml.bench.protocols.dataset_inference_published import Groups, apart, mixed, one_sided, walked
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Interface, Model, Rows
from portcullis_ml.ownership import CATALOG

PLAN = plan_in("dataset_inference.toml")
DIGITS = load_digits()
ORDER = np.random.default_rng(0).permutation(len(DIGITS.target))
X, Y = DIGITS.data[ORDER] / 16, DIGITS.target[ORDER]
Y = np.where(np.random.default_rng(1).random(len(Y)) < 0.3, (Y + 1) % 10, Y)  # rows that are hard for every model
API = Interface(input_shape=(64,), n_classes=10)


class Means:
    """The class whose mean is nearest, over the rows that it has seen."""

    input_shape, n_classes = (64,), 10

    def __init__(self, rows: slice | Array) -> None:
        self.means = np.array([X[rows][Y[rows] == c].mean(axis=0) for c in range(10)])

    def scores(self, x: Array) -> Array:
        nearness = 2 * x @ self.means.T - (self.means**2).sum(axis=1)
        return np.eye(10)[nearness.argmax(axis=1)]


def rest(seed: int) -> Array:
    """100 rows that are neither private nor public."""
    return 400 + np.random.default_rng(seed).permutation(len(X) - 400)[:100]


PRIVATE, PUBLIC = slice(0, 200), slice(200, 400)
VICTIM = Means(PRIVATE)
INNOCENT = [Means(rest(i)) for i in range(1, 9)]


def walks(model: Model, seed: int) -> Groups:
    rng = np.random.default_rng(seed)
    private, public = (walked(model, X[r], Y[r], starts=10, steps=5, rng=rng) for r in (PRIVATE, PUBLIC))
    return private, public


def test_the_published_code_accuses_innocent_models_and_the_calibrated_test_does_not() -> None:
    own, found = walks(VICTIM, 0), []
    for i, model in enumerate(INNOCENT):
        its = walks(model, i + 1)
        found.append([one_sided(own, its, lines, steps=300, rng=np.random.default_rng(9)) for lines in (mixed, apart)])
    code, formulas = np.array(found).T
    assert (code < 1e-3).mean() >= 0.5
    assert (formulas >= 1e-3).all()
    scheme = CATALOG.build({"unit": "dataset_inference", "rows": 200})
    key = scheme.mint(bytes(32), API, VICTIM, (Rows(X[PRIVATE], Y[PRIVATE]), Rows(X[PUBLIC], Y[PUBLIC])))
    reference = [Means(rest(i)) for i in range(100, 120)]

    def p_value(model: Model) -> float:
        oracle = LocalOracle(model, API, budget=len(key))
        return float(scheme(key, oracle, reference, commitment=key.commit(), rng=np.random.default_rng(0)).p_value)

    assert min(p_value(model) for model in INNOCENT) > 1e-3


def test_the_reshape_of_the_notebook_puts_distances_of_many_rows_into_one_line() -> None:
    features = np.arange(30 * 2 * 3).reshape(30, 2, 3)  # the row is the value // 6
    assert {len(set(line // 6)) for line in apart(features)} == {1}
    assert min(len(set(line // 6)) for line in mixed(features)) == 6


class Stripe:
    """Class 0 where the first number is below 0.5."""

    input_shape, n_classes = (2,), 2

    def scores(self, x: Array) -> Array:
        return np.eye(2)[(x[:, 0] >= 0.5).astype(int)]


def test_a_walk_ends_where_the_class_changes_or_after_all_steps_and_at_once_for_a_wrong_row() -> None:
    x = np.array([[0.49, 0.5], [0.0, 0.5], [0.9, 0.5]])
    found = walked(Stripe(), x, np.zeros(3, np.int64), starts=40, steps=6, rng=np.random.default_rng(0))
    near, far, wrong = found[:, :, 0]  # the greatest change of a number, in steps of at most 0.005
    assert far.max() <= 6 * 0.005
    assert wrong.max() <= 0.005
    assert near.mean() < far.mean()


def test_the_protocol_runs_on_small_rows_and_its_page_has_every_test(tmp_path: Path) -> None:
    assert PROTOCOLS[PLAN["protocol"]] == "portcullis_ml.bench.protocols.dataset_inference:dataset_inference"
    sizes = {"private": 100, "public": 100, "thief": 150, "test": 100, "each": 60, "innocent": 200, "reference": 900}
    plan = {
        **PLAN, **PLAN["quick"]["changes"], "data": "digits", "rows": sizes, "learner": {"network": "mlp", "epochs": 2},
        "fine": {"network": "mlp", "epochs": 1}, "scheme": {"unit": "dataset_inference", "rows": 40},
        "networks": {name: {"network": "prada_1_layer", "epochs": 2} for name in PLAN["networks"]},
        "innocent": dict.fromkeys(PLAN["innocent"], 1),
    }  # fmt: skip
    page = protocol.play(plan, Run(out=tmp_path, jobs=0))
    for words in (*protocol.TESTS.values(), "copy from labels", "half of the private rows", "7e-186", "0 of 6"):
        assert words in page
    assert page == protocol.play(plan, Run(out=tmp_path, jobs=0))


@pytest.mark.parametrize("quick", [False, True])
def test_the_frozen_protocol_describes_cells_that_can_be_built(quick: bool) -> None:
    plan = {**PLAN, **PLAN["quick"]["changes"]} if quick else PLAN
    cells = list(protocol.cells_of(plan))
    assert len({cell.id for cell in cells}) == plan["repetitions"]
    assert CATALOG.build(cells[0].attack).rows == 500
