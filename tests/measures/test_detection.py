"""Delays, leaks and false alarms, by hand and against plain twins."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.types import Answer
from portcullis_ml.measures.detection import (
    accounts_of,
    detection,
    false_positives,
    first_alarm,
    run_accounts,
    run_detector,
    share_flagged,
)
from portcullis_ml.measures.statistics import clopper_pearson

streams_of_alarms = st.lists(st.lists(st.booleans(), max_size=130).map(np.array), min_size=1, max_size=5)


@dataclass
class Tally:
    rows: int = 0


class Counter(Detector[Tally]):
    """Suspicion is the number of rows so far whose label is 1; none before the third row."""

    threshold = 2.0

    def __init__(self):
        self.requests = []

    def start(self):
        return Tally()

    def update(self, state, request, answer):
        self.requests.append(request)
        suspicion = []
        for label in answer.labels:
            state.rows += int(label == 1)
            suspicion.append(state.rows if state.rows else math.nan)
        return np.array(suspicion, float)


def a_stream(labels):
    labels = np.array(labels)
    return np.arange(len(labels), dtype=float)[:, None], Answer(labels, np.eye(2)[labels])


def alarms(length, *rows):
    found = np.zeros(length, bool)
    found[[r - 1 for r in rows]] = True
    return found


def test_a_detector_sees_the_stream_in_order_and_in_time():
    x, answer = a_stream([0, 1, 1, 0, 1])
    detector = Counter()
    suspicion = run_detector(detector, x, answer, client="c", batch=2, rate=10.0)
    np.testing.assert_array_equal(suspicion, [math.nan, 1, 2, 2, 3])
    assert [len(r) for r in detector.requests] == [2, 2, 1]
    assert [r.at for r in detector.requests] == [0.0, 0.2, 0.4]
    assert {r.client for r in detector.requests} == {"c"}
    np.testing.assert_array_equal(np.concatenate([r.x for r in detector.requests]), x)
    np.testing.assert_array_equal(suspicion, run_detector(Counter(), x, answer))
    assert first_alarm(detector.alarms(suspicion)) == 5
    assert run_detector(Counter(), x[:0], answer.take(slice(0))).shape == (0,)


def test_a_stream_needs_its_answers():
    x, answer = a_stream([0, 1, 1])
    with pytest.raises(InputError, match="A stream of 2 rows needs 2 undefended answers; got 3"):
        run_detector(Counter(), x[:2], answer)
    with pytest.raises(ParameterError, match="batch must be at least 1; got 0"):
        run_detector(Counter(), x, answer, batch=0)


def test_first_alarm_counts_from_1():
    assert first_alarm(alarms(9, 1)) == 1
    assert first_alarm(alarms(9, 4, 6)) == 4
    assert first_alarm(alarms(9)) is None
    assert first_alarm(np.zeros(0, bool)) is None


def test_detection_by_hand():
    found = detection([alarms(100, 70), alarms(100, 71, 90), alarms(100, 72), alarms(100), alarms(200)])
    assert found.detected == clopper_pearson(3, 5, unit="streams")
    assert (found.delay.low, found.delay.value, found.delay.high) == (71, 72, math.inf)
    assert (found.leaked.low, found.leaked.value, found.leaked.high) == (70, 71, 100)  # 69 70 71 100 200
    assert (found.longest, found.delay.n) == (200, 5)


def test_what_is_mostly_missed_has_no_finite_delay():
    found = detection([alarms(100, 3), alarms(100), alarms(100)])
    assert found.delay.value == math.inf
    assert found.leaked.value == 100


def test_a_detector_is_no_faster_for_missing_more():
    caught = [alarms(100, 50), alarms(100, 60), alarms(100, 90)]
    assert detection([*caught, alarms(100)]).delay.value >= detection(caught).delay.value


def test_no_streams_tell_nothing():
    found = detection([])
    assert math.isnan(found.detected.value)
    assert math.isnan(found.delay.value)
    assert math.isnan(false_positives([]).value)


@given(streams_of_alarms, st.integers(1, 60))
@settings(deadline=None)
def test_false_positives_are_the_plain_count(streams, chunk):
    wrong = total = 0
    for stream in streams:
        rows = stream.tolist()
        while rows:
            piece, rows = rows[:chunk], rows[chunk:]
            total += 1
            wrong += 1 if any(piece) else 0
    found = false_positives(streams, chunk=chunk)
    expected = clopper_pearson(wrong, total, unit="chunks")
    assert (found.low, found.high, found.n, found.unit) == (expected.low, expected.high, total, "chunks")
    assert share_flagged(streams).n == len(streams)


def test_the_published_protocol_of_five_clients():
    quiet = [np.zeros(5000, bool)] * 5
    found = false_positives(quiet)
    assert (found.value, found.n, found.unit) == (0.0, 500, "chunks")
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 500))
    assert share_flagged(quiet).high == pytest.approx(1 - 0.025 ** (1 / 5))  # five clients prove little
    one = [*quiet[:4], alarms(5000, 51, 100, 4999)]
    assert false_positives(one).value == pytest.approx(2 / 500)
    assert share_flagged(one).value == 0.2
    with pytest.raises(ParameterError, match="chunk must be at least 1; got 0"):
        false_positives(quiet, chunk=0)


@given(st.integers(0, 50), st.integers(1, 60), st.sampled_from(["blocks", "round_robin"]))
@settings(deadline=None)
def test_accounts_share_the_rows_fairly_and_in_order(n, accounts, turns):
    parts = accounts_of(n, accounts, turns)
    assert sorted(row for part in parts for row in part) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert len(parts) == min(accounts, n)
    if parts:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_ways_to_take_turns():
    assert [p.tolist() for p in accounts_of(5, 2)] == [[0, 1, 2], [3, 4]]
    assert [p.tolist() for p in accounts_of(5, 2, "round_robin")] == [[0, 2, 4], [1, 3]]
    with pytest.raises(ParameterError, match="accounts must be at least 1; got 0"):
        accounts_of(5, 0)


def test_a_split_thief_stays_below_the_threshold():
    x, answer = a_stream([1] * 8)
    (single,) = run_accounts(Counter(), x, answer, accounts=1)
    assert first_alarm(single) == 3
    split = run_accounts(Counter(), x, answer, accounts=4)
    assert share_flagged(split).value == 0.0
    halves = run_accounts(Counter(), x, answer, accounts=2, turns="round_robin", batch=3)
    assert [first_alarm(h) for h in halves] == [3, 3]
