"""Watch: the latch, where the consequence begins, and what a refused client has had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from portcullis_ml.catalog import Catalog
from portcullis_ml.core.errors import ParameterError, Refused
from portcullis_ml.core.guard import Detector, Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.state import MemoryStore, pack, unpack
from portcullis_ml.core.types import Answer, Array, Request
from portcullis_ml.defenses import CATALOG
from portcullis_ml.defenses.block import Block
from portcullis_ml.defenses.label_only import LabelOnly
from portcullis_ml.defenses.log import Log
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors.prada import Prada
from portcullis_ml.detectors.prada_normality import PradaNormality

from .toys import API, Count, Tally, answer_to, rows, same

X = rows(30)
KEY = b"g" * 32


@dataclass(frozen=True, kw_only=True)
class Spike(Detector[Count]):
    """Loud on one row only: the alarm would clear itself."""

    threshold: float = 0.5
    at: int = 10

    def start(self) -> Count:
        return Count()

    def update(self, state: Count, request: Request, answer: Answer) -> Array:
        number = state.rows + 1 + np.arange(len(request))
        state.rows += len(request)
        return (number == self.at).astype(float)


def ask(guard: Guard, x: Array, at: float = 0.0):
    return guard.release(Request("a", x, at), answer_to(x))


class TestLatch:
    def test_the_alarming_row_is_the_first_to_be_treated(self) -> None:
        out = ask(Guard(Watch(Spike(at=10), then=LabelOnly()), key=KEY), X)
        assert np.flatnonzero(np.isnan(out.answer.scores).all(axis=1)).tolist() == list(range(9, 30))
        assert out.altered.tolist() == [False] * 9 + [True] * 21
        assert same(out.answer.take(slice(9)), answer_to(X).take(slice(9)))

    def test_the_detector_reads_on_so_that_answers_do_not_come_sooner(self) -> None:
        guard = Guard(Watch(Spike(at=10), then=LabelOnly()), key=KEY, store=(store := MemoryStore()))
        for x in np.split(X, 6):
            ask(guard, x)
        state = store.load(("a", "0-watch"))
        assert (state.detector.rows, state.row, state.rows, state.suspicion) == (30, 10, 10, 1.0)

    def test_an_alarm_stays_when_the_suspicion_is_gone(self) -> None:
        guard = Guard(Watch(Spike(at=10), then=LabelOnly()), key=KEY)
        for x in np.split(X, 6):
            last = ask(guard, x)
        assert np.isnan(last.answer.scores).all()

    def test_it_is_told_once_with_row_suspicion_and_time(self) -> None:
        guard = Guard(Watch(Tally(threshold=12), then=Log()), key=KEY)
        raised = [(i, a) for i in range(3) for a in ask(guard, X[10 * i : 10 * i + 10], at=float(i)).alarms]
        [(request, alarm)] = raised
        assert request == 1
        assert (alarm.client, alarm.row, alarm.suspicion, alarm.at) == ("a", 13, 13.0, 1.0)

    def test_no_verdict_is_no_alarm(self) -> None:
        watch = Watch(Tally(threshold=-1.0))
        state = watch.start()
        watch.release(Request("a", X[:2]), answer_to(X[:2]), answer_to(X[:2]), state, None)
        assert watch.alarm(state) is None
        assert np.isnan(state.suspicion)

    def test_the_state_tells_rows_and_the_latest_suspicion(self) -> None:
        watch, answer = Watch(Tally(threshold=12)), answer_to(X)
        state = watch.start()
        for i, (seen, suspicion) in enumerate([(10, 10.0), (13, 13.0), (13, 13.0)]):
            part = slice(10 * i, 10 * i + 10)
            watch.release(Request("a", X[part]), answer.take(part), answer.take(part), state, None)
            assert (state.rows, state.suspicion) == (seen, suspicion)

    def test_the_detector_reads_the_undefended_answer(self) -> None:
        raised = []

        @dataclass(frozen=True, kw_only=True)
        class Ear(Tally):
            def update(self, state: Count, request: Request, answer: Answer) -> Array:
                raised.append(answer)
                return super().update(state, request, answer)

        clean = answer_to(X)
        Guard(Rounding(decimals=0), Watch(Ear(), then=Log()), key=KEY).release(Request("a", X), clean)
        assert raised == [clean]


class TestBlocking:
    def test_later_requests_are_refused_before_the_model_runs(self) -> None:
        guard = Guard(Watch(Spike(at=10), then=Block(reason="that is enough", retry_after=5.0)), key=KEY)
        guard.admit(Request("a", X))
        ask(guard, X)
        with pytest.raises(Refused, match="that is enough") as refusal:
            guard.admit(Request("a", X))
        assert refusal.value.retry_after == 5.0
        guard.admit(Request("b", X))

    def test_a_thief_keeps_the_rows_before_the_alarm(self) -> None:
        class Model:
            input_shape, n_classes, asked = API.input_shape, API.n_classes, 0

            def scores(self, x: Array) -> Array:
                self.asked += len(x)
                return answer_to(x).scores

        model = Model()
        oracle = LocalOracle(model, API, budget=100, guard=Guard(Watch(Spike(at=10)), key=KEY))
        with pytest.raises(Refused) as refusal:
            oracle.query(X)
        assert same(refusal.value.answered, answer_to(X).take(slice(9)))
        with pytest.raises(Refused, match="this client was blocked"):
            oracle.query(X)
        assert model.asked == 30
        assert [a.row for a in oracle.alarms] == [10]


@pytest.mark.parametrize("detector", [Prada(), PradaNormality()])
@pytest.mark.parametrize("then", [Block(), Watch(Tally())])
def test_real_detectors_can_be_stored(detector, then) -> None:
    watch = Watch(detector, then=then)
    state = watch.start()
    for x in np.split(rows(120), 4):
        watch.release(Request("a", x), answer_to(x), answer_to(x), state, None)
    stored = unpack(type(watch.start()), pack(state))
    assert pack(stored) == pack(state)
    assert type(stored.detector) is type(detector.start())


def test_a_store_may_keep_bytes_only() -> None:
    """A guard whose states are packed after every request decides as one that keeps objects."""
    watch = Watch(Tally(threshold=12), then=LabelOnly())

    class Bytes(MemoryStore):
        def load(self, key):
            data = super().load(key)
            return None if data is None else unpack(type(watch.start()), data)

        def save(self, key, state):
            super().save(key, pack(state))

    plain, packed = Guard(watch, key=KEY), Guard(watch, key=KEY, store=Bytes())
    for x in np.split(X, 5):
        assert same(ask(plain, x).answer, ask(packed, x).answer)


def test_keeps_labels_as_far_as_its_consequence_does() -> None:
    assert Watch(Tally(), then=LabelOnly()).keeps_labels
    assert not Watch(Tally(), then=Block()).keeps_labels


def test_is_built_from_a_sentence() -> None:
    assert isinstance(CATALOG, Catalog)
    built = CATALOG.build("watch(detector=prada(threshold=6.0), then=label_only)")
    assert built == Watch(Prada(threshold=6.0), then=LabelOnly())
    assert CATALOG.build("watch(detector=prada)").then == Block()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"detector": Block()}, r"Watch\.detector must be a detector, such as Prada\(\); got Block"),
        ({"detector": Tally(), "then": "block"}, r"Watch\.then must be a defense, such as Block\(\); got 'block'"),
    ],
)
def test_checks_its_settings(settings: dict, sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        Watch(**settings)
