"""The contract suite holds for an attack that knows a defense: shown on one that undoes nothing and only checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from portcullis_ml.bench.named import guard_named
from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.types import Interface, Model, Reveals

from .test_contract import TestContract as Contract
from .test_contract import oracle_of, run
from .toys import Setup, ToyLearner


@dataclass(frozen=True, kw_only=True)
class RoundingAware(ExtractionAttack):
    """Uniform questions; notes to how many decimals it was told that answers are rounded, and sees that they are."""

    name: ClassVar[str] = "rounding_aware"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS, learner=True, defense=("rounding",))

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        stages = knowledge.stages("rounding")
        harvest.ask(interface.uniform(harvest.left, rng))
        for stage in stages:
            scores = harvest.answer.scores
            assert scores is not None
            assert np.allclose(scores, scores.round(stage["decimals"]))
        harvest.notes["decimals"] = [stage["decimals"] for stage in stages]
        assert knowledge.learner is not None
        return knowledge.learner.fit(harvest.x, harvest.targets(), rng=rng)


def toy(defense: str = "rounding(decimals=2)") -> Setup:
    return Setup(attack=RoundingAware(), budget=90, knowledge=Knowledge(learner=ToyLearner()), defense=defense)


def test_it_stands_before_the_guard_that_it_is_told_of() -> None:
    assert run(toy()).notes["decimals"] == [2]
    assert oracle_of(toy()).interface.reveals == Reveals.PROBS


def test_a_stage_within_a_watch_is_found() -> None:
    told = guard_named("watch(detector=prada, then=rounding(decimals=1)) + rounding(decimals=3)").stages
    assert [stage["decimals"] for stage in Knowledge(defense=told).stages("rounding")] == [1, 3]
    assert Knowledge().stages("rounding") == Knowledge(defense=[]).stages("rounding") == []


@pytest.mark.parametrize(
    "name",
    [
        "test_one_rng_one_theft",
        "test_runs_with_exactly_what_it_needs",
        "test_one_that_knows_a_defense_also_runs_where_it_knows_that_there_is_none",
        "test_is_not_applicable_without_what_it_needs",
        "test_touches_the_oracle_and_never_asks_past_what_is_left",
    ],
)
def test_the_contract_holds(name: str) -> None:
    getattr(Contract(), name)(toy())


@pytest.mark.parametrize("off_at", [2, 3])
def test_it_resumes_and_pays_nothing_twice(off_at: int) -> None:
    Contract().test_a_killed_run_resumes_and_pays_nothing_twice(toy(), off_at)


def test_a_guard_that_it_is_not_made_for_is_said() -> None:
    with pytest.raises(NotApplicable, match="needs to know of a guard with rounding"):
        run(toy("label_only"), oracle_of(toy()), defense=[{"unit": "label_only"}])
