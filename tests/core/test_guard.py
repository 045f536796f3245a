from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from portcullis_ml.core.errors import ParameterError, Refused
from portcullis_ml.core.guard import Defense, Guard, changed
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import bound
from portcullis_ml.core.types import Answer, Interface, Request, Reveals
from portcullis_ml.defenses.label_only import LabelOnly
from portcullis_ml.defenses.top_k import TopK
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors.prada import Prada

KEY = b"0" * 32
API = Interface(input_shape=(2,), n_classes=2)


@dataclass
class Count:
    rows: int = 0
    alarm: int = 0


@dataclass(frozen=True, kw_only=True)
class Limit(Defense[Count]):
    """Admits `rows` rows a client; raises the alarm on the row after `alarm_at`."""

    name = "limit"
    rows: int = 10
    alarm_at: int = 10**9

    def start(self) -> Count:
        return Count()

    def admit(self, request: Request, state: Count) -> None:
        if state.rows + len(request) > self.rows:
            raise Refused("quota", retry_after=3.0)
        state.rows += len(request)

    def undo(self, request: Request, state: Count) -> None:
        state.rows -= len(request)

    def release(self, request, answer, clean, state, noise):
        if state.rows > self.alarm_at and not state.alarm:
            state.alarm = state.rows
        return answer

    def alarm(self, state: Count):
        return (state.alarm, 1.5) if state.alarm else None


@dataclass(frozen=True, kw_only=True)
class Swap(Defense[None]):
    """Turns the scores around where the keyed noise says so."""

    name = "swap"

    def release(self, request, answer, clean, state, noise: Noise):
        turn = noise.integers(request.x, 2).astype(bool)
        return Answer.of(np.where(turn[:, None], answer.scores[:, ::-1], answer.scores), API)


def ask(n: int, client: str = "ann", seed: int = 0) -> tuple[Request, Answer]:
    rng = np.random.default_rng(seed)
    return Request(client, rng.random((n, 2)), 1.0), Answer.of(rng.dirichlet([1, 1], n), API)


def test_admit_reserves_and_undo_returns() -> None:
    guard = Guard(Limit(rows=10), key=KEY)
    request, _ = ask(6)
    guard.admit(request)
    with pytest.raises(Refused, match="quota"):
        guard.admit(request)
    guard.undo(request)
    guard.admit(request)


def test_a_refusal_downstream_gives_back_what_was_reserved_upstream() -> None:
    guard = Guard(Limit(rows=10), Limit(rows=5), key=KEY)
    with pytest.raises(Refused):
        guard.admit(ask(6)[0])
    guard.admit(ask(5)[0])
    assert guard.store.load(("ann", "0-limit")).rows == 5


def test_clients_do_not_share_a_quota() -> None:
    guard = Guard(Limit(rows=5), key=KEY)
    guard.admit(ask(5, "ann")[0])
    guard.admit(ask(5, "bob")[0])  # would be refused if ann's rows counted
    assert [guard.store.load((client, "0-limit")).rows for client in ("ann", "bob")] == [5, 5]


def test_an_alarm_is_told_once() -> None:
    guard = Guard(Limit(rows=99, alarm_at=4), key=KEY)
    told = []
    for _ in range(4):
        request, clean = ask(3)
        guard.admit(request)
        told += guard.release(request, clean).alarms
    assert [(a.stage, a.client, a.row, a.at) for a in told] == [("0-limit", "ann", 6, 1.0)]


def test_altered_rows_are_the_ones_that_differ() -> None:
    request, clean = ask(50)
    released = Guard(Swap(), key=KEY).release(request, clean)
    differs = (released.answer.scores != clean.scores).any(1)
    assert (released.altered == differs).all()
    assert 10 < differs.sum() < 40


def test_it_says_which_stage_decided() -> None:
    class Same(Swap):
        same_for_all = True

    request, clean = ask(50)
    released = Guard(Limit(rows=99), Same(), Swap(), key=KEY).release(request, clean)
    assert list(released.by_stage) == ["2-swap"]
    assert released.by_stage["2-swap"].sum() > 10
    everybody = Guard(Same(), key=KEY).release(request, clean)
    assert everybody.altered.any()
    assert not everybody.by_stage
    with pytest.raises(Refused) as refusal:
        Guard(Swap(), Limit(rows=5), key=KEY).admit(request)
    assert refusal.value.stage == "1-limit"


def test_the_same_question_gets_the_same_answer_from_every_client_and_guard_with_that_key() -> None:
    (request, clean), (other, _) = ask(20, "ann"), ask(20, "bob")
    first = Guard(Swap(), key=KEY).release(request, clean)
    second = Guard(Swap(), key=KEY).release(other, clean)
    assert (first.answer.labels == second.answer.labels).all()
    stranger = Guard(Swap(), key=b"1" * 32).release(request, clean)
    assert (first.altered != stranger.altered).any()


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ParameterError, match="at least 16 secret bytes"):
        Guard(key=b"short")


@dataclass(frozen=True, kw_only=True)
class Bound(Defense[None]):
    classes: int = field(default=0, init=False, compare=False)
    name: ClassVar[str] = "bound"

    def bind(self, interface: Interface) -> Bound:
        return bound(self, classes=interface.n_classes)

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        return answer


def test_the_first_binding_counts_and_the_settings_stay() -> None:
    api = Interface(input_shape=(2,), n_classes=3)
    guard = Guard(Bound(), key=KEY)
    assert guard.stages[0].classes == 0
    guard.bind(api)
    guard.bind(api.revealing(n_classes=5))
    assert guard.stages[0].classes == 3
    assert guard.describe() == Guard(Bound(), key=KEY, interface=api).describe() == [{"unit": "bound"}]


def test_what_is_shown_is_what_every_stage_leaves() -> None:
    api = Interface(input_shape=(2,), n_classes=3)
    assert Guard(key=KEY).shown(api) == api
    assert Guard(TopK(k=2), LabelOnly(), key=KEY).shown(api).reveals == Reveals.LABELS
    assert Guard(TopK(k=2), key=KEY).shown(api).k == 2


def test_a_changed_explanation_is_a_changed_row() -> None:
    clean = Answer(np.zeros(3, int), None, np.zeros((3, 2)))
    other = clean.explanation.copy()
    other[1, 0] = 1
    assert changed(clean, Answer(clean.labels, None, other)).tolist() == [False, True, False]
    assert changed(clean, Answer(clean.labels, None, None)).all()


def test_what_was_withheld_before_and_after_has_not_changed() -> None:
    clean = Answer(np.array([0, 1, 1]), np.array([[np.nan, 1.0], [0.5, 0.5], [np.nan, 0.5]]))
    shown = Answer(np.array([0, 1, 1]), np.array([[np.nan, 1.0], [0.4, 0.6], [0.5, 0.5]]))
    assert changed(clean, shown).tolist() == [False, True, True]
    assert changed(clean, Answer(clean.labels)).tolist() == [True] * 3
    assert changed(Answer(clean.labels), clean).tolist() == [False] * 3  # nothing was there to be taken away


def test_a_guard_that_warms_up_has_its_detectors_do_so() -> None:
    class Cold(Prada):
        warmed = 0

        def warm(self) -> None:
            Cold.warmed += 1

    Guard(Watch(detector=Cold()), TopK(k=1), key=KEY).warm()
    assert Cold.warmed == 1
