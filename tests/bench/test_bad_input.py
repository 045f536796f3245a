"""What cells of an audit make of victims and budgets from which there is next to nothing to learn.

Every cell is run as a grid runs it: what an attack cannot do must stand in its record as a sentence.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from portcullis_ml.bench.audit_cell import audit_cell
from portcullis_ml.bench.experiment import ExperimentSpec, learner_for
from portcullis_ml.bench.named import attack_named, guard_named
from portcullis_ml.bench.run import run_cells
from portcullis_ml.core.settings import describe
from portcullis_ml.models import auto_pictures
from portcullis_ml.models.families import FAMILIES, Family
from portcullis_ml.models.function import FunctionModel

from .experiments import cell_for

STRANGER = {"unit": "portcullis_ml.bench.controls:PlainStranger"}
ATTACKS = ("retraining", "knockoff", "equation_solving", "copycat", "stranger")
SHAPES = {"table": (5,), "pictures": (4, 4)}


def softmax(margin: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-margin))
    return np.column_stack([1 - p, p])


def first(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)[:, 0]


def rare(x):
    """Class 1 in a corner that nobody asks about."""
    return softmax(50 * (first(x) - 0.999))


def sloped(x):
    return softmax(8 * (first(x) - 0.5))


def sure(x):
    return np.eye(2)[(first(x) > 0.5).astype(int)]


def waved(x):
    """No family of an exact attack holds."""
    return softmax(8 * np.sin(9 * first(x)))


def coloured(x):
    """Red, which is code 2, is always class 1."""
    return softmax(np.where(x[:, 1] == 2, 4.0, 6 * (first(x) - 0.6)))


FUNCTIONS = {"rare": rare, "sloped": sloped, "sure": sure, "waved": waved}
for kind, shape in SHAPES.items():  # rare_table, rare_pictures, ...: victims by name
    globals().update({f"{name}_{kind}": FunctionModel(f, shape, 2) for name, f in FUNCTIONS.items()})
coloured_table = FunctionModel(coloured, (2,), 2)


class Nowhere:
    """A copy that says NaN of every row."""

    def __init__(self, shape, n_classes):
        self.input_shape, self.n_classes = shape, n_classes

    def scores(self, x):
        return np.full((len(x), self.n_classes), np.nan)


@dataclass(frozen=True, kw_only=True)
class Diverging:
    """A learner whose descent goes nowhere."""

    def fit(self, x, targets, *, rng, start=None):
        return Nowhere(x.shape[1:], targets.shape[1])


def experiment(folder, victim: str, kind: str, *, constant: bool = False, pool: int = 60) -> ExperimentSpec:
    """Rows of the table or pictures; where `constant`, all columns but the first have one value."""
    rng = np.random.default_rng(1)
    rows = {"test": rng.uniform(size=(40, *SHAPES[kind])), "pool": rng.uniform(size=(pool, *SHAPES[kind]))}
    rows["test"].reshape(40, -1)[:10, 0] = 1.0
    for name, x in rows.items():
        if constant:
            x.reshape(len(x), -1)[:, 1:] = 0.5
        np.savez(folder / f"{name}.npz", x=x)
    return ExperimentSpec(
        victim=f"{__name__}:{victim}_{kind}", test=str(folder / "test.npz"), pool=str(folder / "pool.npz")
    )


def record(folder, spec: ExperimentSpec, attack: str, **changes: Any) -> dict[str, Any]:
    """The record that a grid keeps of the cell, whatever becomes of it."""
    shape = spec.load().interface.input_shape
    settings: dict[str, Any] = {"learner": describe(learner_for(shape, epochs=None if len(shape) == 1 else 1))}
    settings |= {"names": {"attack": attack}, **changes}
    unit = STRANGER if attack == "stranger" else attack_named(attack)
    (found,) = run_cells([cell_for(spec, unit, **settings)], partial(audit_cell, spec=spec), out=folder / "out", jobs=0)
    return json.loads(json.dumps(found, allow_nan=False))


def labels_only() -> dict[str, Any]:
    return {"defense": guard_named("label_only").stages}


def agreement(found: dict[str, Any]) -> float:
    return found["measures"]["agreement"]["value"]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("attack", ["retraining", "knockoff", "copycat"])
def test_one_class_only_in_the_answers_leaves_a_constant_that_says_so(tmp_path, attack, kind):
    found = record(tmp_path, experiment(tmp_path, "rare", kind), attack, **labels_only())
    assert found["outcome"] == "done", found["reason"]
    assert found["queries"] == 60
    assert found["notes"]["chosen"]["fitted"] == {"constant": 1.0}
    assert agreement(found) == 0.75  # the share of the class that was seen
    assert found["notes"].get("classes_seen", 0.5) == 0.5


def test_a_stranger_with_one_class_in_the_answers_has_a_constant_or_a_network_that_says_it(tmp_path):
    fitted = {}
    for kind in SHAPES:
        (tmp_path / kind).mkdir()
        found = record(tmp_path / kind, experiment(tmp_path / kind, "rare", kind), "stranger", **labels_only())
        assert agreement(found) == 0.75
        fitted[kind] = found["notes"]["chosen"]["fitted"]
    assert fitted == {"table": {"constant": 1.0}, "pictures": {"convolutions": 1.0}}


def test_one_class_in_probabilities_is_no_obstacle_to_those_who_read_them(tmp_path):
    found = record(tmp_path, experiment(tmp_path, "rare", "table"), "equation_solving")
    assert agreement(found) == 1.0
    assert found["notes"]["family"] == "softmax"


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_constant_columns(tmp_path, attack, kind):
    found = record(tmp_path, experiment(tmp_path, "sloped", kind, constant=True), attack)
    assert found["outcome"] == "done", found["reason"]
    assert 0 < found["queries"] <= 60
    if kind == "table" or attack in ("retraining", "equation_solving"):  # networks of one epoch learn little
        assert agreement(found) >= 0.9


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_budget_of_20_leaves_a_copy_and_a_bill(tmp_path, attack, kind):
    for victim, defense in (("sure", {}), ("sloped", labels_only())):
        (tmp_path / victim).mkdir()
        found = record(tmp_path, experiment(tmp_path / victim, victim, kind), attack, budget=20, **defense)
        if attack == "equation_solving" and defense:
            assert found["outcome"] == "not applicable"
            assert found["reason"].startswith("equation_solving needs probs; this API gives labels.")
            continue
        assert found["outcome"] == "done", found["reason"]
        assert 0 < found["queries"] <= 20
        assert 0 <= agreement(found) <= 1
        if attack != "equation_solving":  # the others say what was fitted
            assert found["notes"]["chosen"]["fitted"]


def test_a_budget_that_cannot_pay_for_the_equations_is_a_sentence_in_the_record(tmp_path):
    found = record(tmp_path, experiment(tmp_path, "sloped", "pictures"), "equation_solving", budget=16)
    assert found["outcome"] == "failed"
    assert found["queries"] == 0
    assert found["reason"] == (
        "equation_solving needs 17 queries for 16 inputs; the budget is 16. Raise it, or take an attack that learns "
        "from fewer answers."
    )


def test_equations_of_saturated_answers_fall_back_on_a_surrogate(tmp_path):
    """Twenty answers of exactly 0 or 1 hold no equation, but they were paid for."""
    found = record(tmp_path, experiment(tmp_path, "sure", "table"), "equation_solving", budget=20)
    assert found["queries"] == 20
    assert found["notes"]["copy"] == "surrogate"
    assert found["notes"]["linear"] is False
    assert agreement(found) >= 0.7


def test_ten_rows_set_aside_choose_between_a_copy_and_a_surrogate(tmp_path):
    found = record(
        tmp_path, experiment(tmp_path, "waved", "table"), "equation_solving", budget=33,
        defense=guard_named("rounding(decimals=1)").stages,
    )  # fmt: skip
    assert found["outcome"] == "done", found["reason"]
    aside = found["notes"]["set_aside"]
    assert aside.pop("rows") == 10
    assert found["notes"]["copy"] in aside
    assert all(0 <= score <= 1 for scores in aside.values() for score in scores)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("attack", ["knockoff", "copycat", "retraining(surrogate=learner)"])
def test_a_copy_that_says_nothing_but_nan_has_failed(tmp_path, attack, kind):
    learner = {"unit": f"{__name__}:Diverging"}
    found = record(tmp_path, experiment(tmp_path, "sloped", kind), attack, learner=learner)
    assert found["outcome"] == "failed"
    assert found["reason"].startswith(f"{attack} left a copy that says NaN of every row, so there is nothing to grade.")
    assert found["final"]  # the same would happen again


@pytest.mark.parametrize("attack", ["retraining", "knockoff", "copycat"])
def test_a_family_that_gives_nan_is_left_out(tmp_path, monkeypatch, attack):
    class Lost:
        classes_ = np.arange(2)

        def fit(self, x, y):
            return self

        def predict(self, x):
            return np.full(len(x), np.nan)

        decision_function = predict

    family = Family(lambda task: Lost(), lambda task: Lost())
    for name in ("linear", "boosted"):
        monkeypatch.setitem(FAMILIES, name, family)
    found = record(tmp_path, experiment(tmp_path, "sloped", "table"), attack)
    assert found["outcome"] == "done", found["reason"]
    fitted = {name.partition(" ")[0] for name in found["notes"]["chosen"]["fitted"]}
    assert fitted
    assert fitted.isdisjoint({"linear", "boosted"})
    assert agreement(found) >= 0.8


@pytest.mark.parametrize("attack", ["knockoff", "copycat"])
def test_networks_that_all_give_nan_leave_a_constant(tmp_path, monkeypatch, attack):
    def lost(*args: Any) -> torch.nn.Module:
        module = auto_pictures_training(*args)
        for weights in module.parameters():
            torch.nn.init.constant_(weights, np.nan)
        return module

    auto_pictures_training = auto_pictures.train_network
    monkeypatch.setattr(auto_pictures, "train_network", lost)
    found = record(tmp_path, experiment(tmp_path, "sloped", "pictures"), attack)
    assert found["outcome"] == "done", found["reason"]
    assert found["notes"]["chosen"]["fitted"] == {"constant": 1.0}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_category_that_no_answer_was_about(tmp_path, attack):
    """The pool holds blue and green, the test red as well."""
    rng, words = np.random.default_rng(2), ["blue", "green", "red"]
    for name, n, known in (("test", 40, 3), ("pool", 60, 2)):
        codes, size = rng.integers(known, size=n), rng.uniform(size=n)
        labels = coloured(np.column_stack([size, codes])).argmax(axis=1)
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["size", "colour", "label"])
            table.writerows(
                [f"{s:.4f}", words[c], ["no", "yes"][label]] for s, c, label in zip(size, codes, labels, strict=True)
            )
    spec = ExperimentSpec(
        victim=f"{__name__}:coloured_table", test=str(tmp_path / "test.csv"), pool=str(tmp_path / "pool.csv"),
        target="label",
    )  # fmt: skip
    assert spec.load().interface.features[1].values == ("blue", "green", "red")
    found = record(tmp_path, spec, attack, budget=20)
    assert found["outcome"] == "done", found["reason"]
    assert agreement(found) >= 0.4
