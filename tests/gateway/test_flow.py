"""The flow of a request, step by step, without a gate, a journal or an event loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.errors import Refused, Unreachable
from portcullis_ml.core.guard import Alarm, Released
from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.exchange import Notes
from portcullis_ml.gateway.flow import Admit, Ask, Books, Release, Rules, Step, Undo, answered, driven
from portcullis_ml.gateway.state.fold import Failed
from portcullis_ml.gateway.state.journal import Down

X = np.zeros((2, 4))
CLEAN = Answer(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
BARE = Answer(np.array([0, 1]), np.full((2, 2), np.nan))
ALARM = Alarm("watch", "alice", 1, 2.0, 5.0)
RELEASED = Released(BARE, np.array([True, True]), (ALARM,), {"watch": np.array([True, True])})
ENFORCED = Rules()
OUTCOMES: dict[type, Any] = {Admit: 7, Ask: CLEAN, Release: (8, RELEASED), Undo: 9}


class Tried:
    """One flow, its steps taken with the outcomes that a test names."""

    def __init__(self, rules: Rules = ENFORCED, **outcomes: Any) -> None:
        self.steps: list[str] = []
        self.notes, self.alarms = Notes(), list[Alarm]()
        self.books = Books(on_alarm=lambda alarm, line: self.alarms.append(alarm))
        self.outcomes = {kind: outcomes.get(kind.__name__.lower(), plain) for kind, plain in OUTCOMES.items()}
        self.flow = answered("alice", X, 5.0, rules, self.notes, self.books, {})

    def take(self, step: Step) -> Any:
        self.steps.append(type(step).__name__)
        outcome = self.outcomes[type(step)]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def __call__(self) -> Answer:
        return driven(self.flow, self.take)


def test_a_row_is_admitted_asked_and_released() -> None:
    tried = Tried()
    assert tried() is BARE
    assert (tried.steps, tried.alarms) == (["Admit", "Ask", "Release"], [ALARM])
    line = tried.notes.line
    assert (line.seq, line.ended, line.admitted, line.released, line.undone) == (7, 8, 1, 2, 0)
    assert (line.x is X, line.clean is CLEAN, line.rows, line.altered, line.alarms) == (True, True, 2, 2, 1)


def test_a_refused_row_does_not_reach_the_model() -> None:
    tried = Tried(admit=Refused("the quota is spent"))
    with pytest.raises(Refused):
        tried()
    assert (tried.steps, tried.notes.line.reason) == (["Admit"], "the quota is spent")


def test_where_rules_are_not_enforced_a_refused_row_gets_the_models_answer() -> None:
    tried = Tried(Rules(enforced=False), admit=Refused("the quota is spent"))
    assert tried() is CLEAN
    assert (tried.steps, tried.books.metrics.would_refuse) == (["Admit", "Ask"], 1)


def test_where_rules_are_not_enforced_alarms_are_told_and_answers_are_as_they_were() -> None:
    tried = Tried(Rules(enforced=False))
    assert tried() is CLEAN
    assert (tried.alarms, tried.notes.line.altered) == ([ALARM], 2)


def test_what_the_model_does_not_answer_is_undone() -> None:
    tried = Tried(ask=Unreachable("gone", status=502))
    with pytest.raises(Unreachable):
        tried()
    assert tried.steps == ["Admit", "Ask", "Undo"]
    assert (tried.notes.line.undone, tried.notes.line.ended, tried.notes.line.released) == (2, 9, 0)


def test_what_cannot_be_written_down_is_undone_and_not_let_out() -> None:
    tried = Tried(release=Down("full"))
    with pytest.raises(Down):
        tried()
    assert (tried.steps, tried.notes.line.undone) == (["Admit", "Ask", "Release", "Undo"], 0)


def test_what_is_served_although_the_journal_is_down_is_counted() -> None:
    tried = Tried(admit=-1)
    assert tried() is BARE
    assert tried.books.metrics.not_enforced["state"] == 1


@pytest.mark.parametrize("step", ["admit", "release"])
@pytest.mark.parametrize(("on_failure", "expected"), [("open", CLEAN), ("labels", BARE), ("closed", None)])
def test_a_stage_that_fails_leads_to_what_the_rules_say(step: str, on_failure: str, expected: Answer | None) -> None:
    tried = Tried(Rules(on_failure=on_failure), **{step: Failed("a stage")})
    if expected is None:
        with pytest.raises(Failed):
            tried()
    else:
        found = tried()
        assert found.scores is not None
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert tried.books.metrics.not_enforced["guard"] == 1
    assert "Undo" not in tried.steps
