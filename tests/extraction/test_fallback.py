"""Exact attacks hand out the better of their copy and a surrogate, by answers that were set aside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from portcullis_ml.core.attack import Harvest, Knowledge
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Feature, Interface
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.extraction._fallback import better_copy, share_aside
from portcullis_ml.extraction.equation_solving import EquationSolving
from portcullis_ml.models.constant import ConstantModel

TABLE = Interface(
    input_shape=(4,),
    n_classes=2,
    features=(
        Feature("age", 17, 90),
        Feature("job", values=("a", "b", "c", "d", "e")),
        Feature("gain", 0, 99_999),
        Feature("hours", 1, 99),
    ),
)


class Binned:
    """A pipeline as people write them: age in bins, a job, a gain whose long tail saturates nearly every random row."""

    input_shape, n_classes = (4,), 2

    def scores(self, x: Array) -> Array:
        age = np.array([-2.0, 0.0, 1.5, 0.5])[np.digitize(x[:, 0], [27.5, 41.5, 60.5])]
        job = np.array([0.0, 1.0, -1.5, 0.7, -0.4])[x[:, 1].astype(int)]
        p = expit(age + job + x[:, 2] / 2500 + (x[:, 3] - 40) / 20 - 1.5)
        return np.column_stack([1 - p, p])


class Crossed:
    """No sum of functions of one column: two columns count only together."""

    input_shape, n_classes = (4,), 2

    def scores(self, x: Array) -> Array:
        p = expit(4 * np.sign((x[:, 0] - 50) * (x[:, 3] - 50)) + 0.3 * (x[:, 1] - 2))
        return np.column_stack([1 - p, p])


def natural(n: int) -> Array:
    """Rows as such a table holds them: most gains are nothing."""
    rng = np.random.default_rng(7)
    gain = np.where(rng.random(n) < 0.9, 0, rng.lognormal(8, 1, n))
    return np.column_stack([rng.integers(17, 91, n), rng.integers(0, 5, n), gain, rng.integers(20, 61, n)]).astype(
        float
    )


def thieve(victim: Any, *, decimals: int | None = None, budget: int = 250, seed: int = 0) -> Extraction:
    guard = None if decimals is None else Guard(Rounding(decimals=decimals), key=bytes(16), interface=TABLE)
    oracle = LocalOracle(victim, TABLE, budget=budget, guard=guard)
    result = EquationSolving()(oracle, Knowledge(), rng=np.random.default_rng(seed))
    assert sum(result.notes["bill"].values()) == result.queries <= budget
    return result


def agreement(result: Extraction, victim: Any, x: Array) -> float:
    return float((result.model.scores(x).argmax(axis=1) == victim.scores(x).argmax(axis=1)).mean())


@pytest.mark.parametrize("decimals", [None, 2])
def test_a_pipeline_with_bins_and_a_long_tail_is_taken_rounded_or_not(decimals: int | None) -> None:
    for seed in range(2):
        result = thieve(Binned(), decimals=decimals, seed=seed)
        assert agreement(result, Binned(), natural(3000)) > 0.95
        assert result.notes["copy"] == "stepped"
        assert result.notes["linear"] is False


@pytest.mark.parametrize("decimals", [None, 2, 0])
def test_another_family_gets_the_surrogate_of_the_same_answers(decimals: int | None) -> None:
    result = thieve(Crossed(), decimals=decimals, budget=400)
    x = natural(3000)
    constant = max(np.bincount(Crossed().scores(x).argmax(axis=1))) / len(x)
    assert result.notes["copy"] == "surrogate"
    assert result.notes["family"] == "not linear"
    assert agreement(result, Crossed(), x) > max(0.85, constant)
    found = {name: score for name, score in result.notes["set_aside"].items() if name != "rows"}
    assert found["surrogate"][0] == max(score[0] for score in found.values())


def harvest_of(n: int) -> Harvest:
    harvest = Harvest(LocalOracle(Crossed(), TABLE, budget=n))
    harvest.ask(TABLE.uniform(n, np.random.default_rng(0)))
    return harvest


def test_a_copy_that_does_better_on_the_rows_set_aside_is_kept() -> None:
    harvest, copy = harvest_of(200), Crossed()
    aside = np.arange(30)
    assert better_copy("steps", copy, harvest, TABLE, aside, np.random.default_rng(0)) is copy
    assert harvest.notes["copy"] == "steps"
    assert harvest.notes["set_aside"]["rows"] == 30
    poor = ConstantModel((4,), np.array([0.4, 0.6]))
    assert better_copy("steps", poor, harvest, TABLE, aside, np.random.default_rng(0)) is not poor
    assert harvest.notes["copy"] == "surrogate"


def test_too_few_rows_set_aside_compare_nothing() -> None:
    poor = ConstantModel((4,), np.array([0.4, 0.6]))
    harvest = harvest_of(50)
    assert better_copy("steps", poor, harvest, TABLE, np.arange(9), np.random.default_rng(0)) is poor
    assert "set_aside" not in harvest.notes


@pytest.mark.parametrize(("n", "aside"), [(0, 0), (39, 0), (40, 20), (400, 40), (10_000, 200)])
def test_how_many_are_set_aside(n: int, aside: int) -> None:
    assert share_aside(n) == aside
