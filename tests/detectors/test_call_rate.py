"""So many calls in an hour, counted as a plain loop counts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Answer, Array, Request
from portcullis_ml.detectors.call_rate import CallRate


def watched(detector: CallRate, calls: list[tuple[float, int]]) -> Array:
    """The suspicions of requests of so many rows, each at its time."""
    state = detector.start()
    answers = [
        detector.update(state, Request("a", np.zeros((n, 4)), at), Answer(np.zeros(n, np.int64))) for at, n in calls
    ]
    return np.concatenate(answers)


def test_the_five_hundredth_call_of_an_hour_is_an_alarm() -> None:
    detector = CallRate()
    alarms = detector.alarms(watched(detector, [(7.0 * i, 1) for i in range(510)]))
    assert alarms.argmax() == 499
    assert not detector.alarms(watched(detector, [(7.3 * i, 1) for i in range(2_000)])).any()


def test_rows_of_one_request_are_calls() -> None:
    detector = CallRate(threshold=9)
    assert detector.alarms(watched(detector, [(0.0, 25)])).argmax() == 9


def test_a_call_counts_for_exactly_the_time_that_is_set() -> None:
    detector = CallRate(threshold=5, per_s=10.0)
    assert watched(detector, [(0.0, 2), (9.0, 1), (10.0, 1), (30.0, 1)]).tolist() == [1, 2, 3, 2, 1]


def test_a_clock_that_goes_back_forgets_nothing() -> None:
    detector = CallRate(threshold=5, per_s=10.0)
    assert watched(detector, [(100.0, 2), (3.0, 1), (101.0, 1)]).tolist() == [1, 2, 3, 4]


@settings(max_examples=50, deadline=None)
@given(
    gaps=st.lists(st.tuples(st.sampled_from([0.0, 0.5, 3.0, 11.0]), st.integers(0, 4)), max_size=30),
    threshold=st.integers(1, 12),
)
def test_counts_as_the_plain_loop_does(gaps: list[tuple[float, int]], threshold: int) -> None:
    at, calls = 0.0, []
    for gap, n in gaps:
        at += gap
        calls.append((at, n))
    detector = CallRate(threshold=threshold, per_s=10.0)
    found = watched(detector, [(0.0, 0), *calls])
    one_by_one = [t for t, n in calls for _ in range(n)]
    slow = [
        min(sum(t - 10.0 < earlier for earlier in one_by_one[: i + 1]), threshold + 1) for i, t in enumerate(one_by_one)
    ]
    assert found.tolist() == slow


@pytest.mark.parametrize(("setting", "wrong"), [("threshold", 0), ("threshold", 2_000_000), ("per_s", 0)])
def test_a_setting_out_of_range_is_named(setting: str, wrong: float) -> None:
    with pytest.raises(ParameterError, match=setting):
        CallRate(**{setting: wrong})
