"""In distribution: a thief who rehearses the known detector goes on where the naive one is shut out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.guard import Defense, Detector, Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Interface, Model, Request
from portcullis_ml.defenses.block import Block
from portcullis_ml.defenses.out_of_domain import OutOfDomain
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.extraction._rehearsed import Rehearsed
from portcullis_ml.extraction.in_distribution import InDistribution
from portcullis_ml.extraction.knockoff import Knockoff

from .toys import ToyLearner, toy_victim

BOX = Interface(input_shape=(2, 3), n_classes=3)
VICTIM = toy_victim()
TOLD = [{"unit": "watch"}, {"unit": "out_of_domain"}]


@dataclass
class Window:
    rows: int = 0
    far: int = 0
    suspicion: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class Far(Detector[Window]):
    """The share of every 20 questions whose first input is above 1/2."""

    threshold: float = 0.4

    def start(self) -> Window:
        return Window()

    def update(self, state: Window, request: Request, answer: Answer) -> Array:
        found = np.empty(len(request))
        for i, x in enumerate(request.x.reshape(len(request), -1)):
            state.rows, state.far = state.rows + 1, state.far + int(x[0] > 0.5)
            if state.rows == 20:
                state.suspicion, state.rows, state.far = state.far / 20, 0, 0
            found[i] = state.suspicion
        return found


def points(n: int, seed: int, low: float, high: float) -> Array:
    x = np.random.default_rng(seed).uniform(size=(n, 2, 3))
    x[:, 0, 0] = low + (high - low) * x[:, 0, 0]
    return x


SEEDS, POOL = points(10, 0, 0, 0.5), points(400, 1, 0, 1)  # half of the pool is far


def theft(attack: ExtractionAttack, *stages: Defense[Any], pool: Array = POOL, budget: int = 200) -> Extraction:
    guard = Guard(*stages, key=b"k" * 16, interface=BOX)
    own: list[tuple[Array, Array]] = []

    def train(copy: Model, rows: Array, outside: Array) -> Guard:
        own.append((rows, outside))
        return Guard(*stages, key=b"t" * 16, interface=BOX)

    knowledge = Knowledge(pool=pool, seeds=SEEDS, learner=ToyLearner(), defense=TOLD, train=train)
    found = attack(LocalOracle(VICTIM, BOX, budget=budget, guard=guard), knowledge, rng=np.random.default_rng(3))
    found.notes.update(trainings=own, learner=knowledge.learner)
    return found


WATCH = Watch(Far(), then=Block())
QUIET = InDistribution(first=5, batch=20, tries=3)


def test_it_goes_on_where_the_naive_thief_is_shut_out() -> None:
    naive, knowing = theft(Knockoff(batch=20), WATCH), theft(QUIET, WATCH)
    assert naive.stopped == "this client was blocked"
    assert naive.queries < 60
    assert (knowing.stopped, knowing.queries) == ("budget", 200)


def test_cover_is_billed_and_learned_once() -> None:
    found = theft(QUIET, WATCH, pool=points(400, 1, 0.5, 1))  # the whole pool is far
    cover = {row.tobytes() for row in SEEDS}
    asked_again = sum(row.tobytes() in cover for row in found.x)
    assert found.stopped == "budget"
    assert found.notes["cover"] == asked_again >= 90
    assert found.queries == len(found.x) == 200
    learned = [row.tobytes() for row in found.notes["learner"].fits[-1][0]]
    assert len(learned) == len(set(learned)) < 200


def test_the_guard_is_trained_on_rows_near_the_seeds_and_on_foreign_ones() -> None:
    (near, foreign), *more = theft(QUIET, WATCH, budget=100).notes["trainings"]
    np.testing.assert_array_equal(near[:10], SEEDS)
    assert near[:, 0, 0].mean() < foreign[:200, 0, 0].mean() - 0.2
    assert len(more) == 1  # at 5 rows, then where four times as much is known


def test_rows_that_the_filter_flags_are_asked_last() -> None:
    stage = OutOfDomain(score="msp", threshold=0.4, then="label_only")
    naive, knowing = (theft(a, stage, budget=150) for a in (Knockoff(batch=20), QUIET))
    assert naive.answer.scores is not None
    assert knowing.answer.scores is not None
    flagged = [np.isnan(found.answer.scores).any(axis=1).mean() for found in (naive, knowing)]
    assert flagged[1] < flagged[0] / 2, flagged
    assert knowing.notes["looked_at"] > 150


def test_a_wrapped_attack_gets_the_answers_to_its_own_questions_in_order() -> None:
    found = theft(InDistribution(of=Knockoff(batch=16), first=5, batch=20), WATCH)
    assert (found.stopped, found.queries) == ("budget", 200)
    assert found.notes["cover"] > 0
    paid = [n for n, _ in found.history]
    assert paid == sorted(paid)
    x = BOX.uniform(500, np.random.default_rng(9))
    right = (found.model.scores(x).argmax(axis=1) == VICTIM.scores(x).argmax(axis=1)).mean()
    assert right > 0.8  # answers to other rows would teach it nothing


def test_suspicion_is_looked_at_without_being_caused() -> None:
    rehearsed = Rehearsed.of(VICTIM, Guard(WATCH, key=bytes(16)), points(10, 5, 0.6, 1))
    far = points(20, 6, 0.6, 1)
    assert rehearsed.suspicion(far) == rehearsed.suspicion(far) == pytest.approx(1 / 0.4)
    rehearsed.heard(points(20, 7, 0, 0.4))
    assert rehearsed.suspicion(far) < 1 / 0.4
