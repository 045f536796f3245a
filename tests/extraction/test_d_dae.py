"""D-DAE: how much of a defense a thief undoes who knows its settings; nothing is undone where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction.d_dae import DDae
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.softmax import SoftmaxRegression

API = Interface(input_shape=(6,), n_classes=5)
VICTIM = SoftmaxRegression(np.random.default_rng(0).normal(size=(5, 6)) * 6, np.zeros(5))


def theft(word: str, budget: int = 600) -> tuple[Any, float]:
    """The extraction behind this guard, and how often its copy agrees with the victim."""
    stages = [DEFENSES.build(word)] if word else []
    told = [{"unit": word.partition("(")[0]}] if word else []

    def rehearse(x: Array, scores: Array) -> Answer:
        guard = Guard(*(DEFENSES.build(word) for _ in stages), key=b"t" * 32, interface=API)
        return guard.release(Request("me", x), Answer.of(scores, API)).answer

    guard = Guard(*stages, key=b"k" * 32, interface=API) if stages else None
    knowledge = Knowledge(learner=SklearnLearner(c=100.0), defense=told, rehearse=rehearse if word else None)
    oracle = LocalOracle(VICTIM, API, budget=budget, guard=guard)
    found = DDae(pairs=8000)(oracle, knowledge, rng=np.random.default_rng(1))
    x = API.uniform(2000, np.random.default_rng(9))
    agreement = (found.model.scores(x).argmax(axis=1) == VICTIM.scores(x).argmax(axis=1)).mean()
    return found, float(agreement)


@pytest.mark.parametrize("word", ["reverse_sigmoid(beta=0.7)", "random_vertex(eps=0.9)", "private_answers(eps=20.0)"])
def test_less_than_half_of_the_distance_is_left(word: str) -> None:
    found, _ = theft(word)
    assert max(found.notes["distance_left"]) < 0.5


def test_noise_that_cannot_be_undone_is_left_alone() -> None:
    found, agreement = theft("noise(eps=2.0)")
    assert found.notes["distance_left"][-1] >= 1
    assert agreement > 0.95


def test_behind_rounding_there_is_nothing_to_undo() -> None:
    with pytest.raises(NotApplicable, match="needs to know of a guard with noise or "):
        theft("rounding(decimals=3)")


def test_where_there_is_no_guard_nothing_is_undone() -> None:
    found, agreement = theft("")
    assert "distance_left" not in found.notes
    assert agreement > 0.95


def test_a_copy_behind_a_bent_curve_is_as_good_as_without() -> None:
    bare, bent = theft("")[1], theft("reverse_sigmoid(beta=0.7)")[1]
    assert bent > bare - 0.05
