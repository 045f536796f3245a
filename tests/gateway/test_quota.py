"""The quota: rows, windows, and what is given back."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import ParameterError, Refused
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Request
from portcullis_ml.defenses.quota import Quota

KEY = b"0" * 32


def request(rows: int, at: float = 0.0, client: str = "c") -> Request:
    return Request(client, np.zeros((rows, 2)), at)


def test_rows_are_counted_and_a_request_is_served_whole_or_not_at_all() -> None:
    guard = Guard(Quota(rows=10, per=60), key=KEY)
    guard.admit(request(7))
    with pytest.raises(Refused, match="its quota of rows is used up") as refused:
        guard.admit(request(4, at=20.0))
    assert refused.value.retry_after == 40.0
    guard.admit(request(3, at=20.0))
    guard.admit(request(10, client="another"))


def test_a_window_begins_with_its_first_row_and_ends_by_itself() -> None:
    guard = Guard(Quota(rows=10, per=60), key=KEY)
    guard.admit(request(10, at=1_000.0))
    with pytest.raises(Refused):
        guard.admit(request(1, at=1_059.9))
    guard.admit(request(10, at=1_060.0))


def test_a_quota_for_life_says_nothing_of_coming_back() -> None:
    guard = Guard(Quota(rows=1, per=None), key=KEY)
    guard.admit(request(1))
    with pytest.raises(Refused) as refused:
        guard.admit(request(1, at=1e9))
    assert refused.value.retry_after is None


def test_what_an_unanswered_request_reserved_is_given_back_unless_its_window_is_over() -> None:
    guard = Guard(Quota(rows=10, per=60), key=KEY)
    first = request(6)
    guard.admit(first)
    guard.undo(first)
    guard.admit(request(10, at=1.0))
    with pytest.raises(Refused):
        guard.admit(request(1, at=2.0))
    late = request(4, at=100.0)
    guard.admit(late)
    guard.undo(request(6, at=1.0))  # from the window before: nothing of this one's
    guard.admit(request(6, at=101.0))
    with pytest.raises(Refused):
        guard.admit(request(1, at=102.0))


def test_a_stack_refused_by_its_second_quota_spends_nothing_of_the_first() -> None:
    guard = Guard(Quota(rows=10, per=None), Quota(rows=2, per=1), key=KEY)
    guard.admit(request(2))
    for _ in range(5):
        with pytest.raises(Refused):
            guard.admit(request(2, at=0.5))
    for at in range(1, 5):
        guard.admit(request(2, at=float(at)))
    with pytest.raises(Refused):
        guard.admit(request(1, at=9.0))


def test_a_clock_that_was_set_back_locks_a_quota_for_no_longer_than_its_window() -> None:
    guard = Guard(Quota(rows=10, per=60), key=KEY)
    guard.admit(request(10, at=5_000_000.0))  # the clock ran ahead
    with pytest.raises(Refused) as refused:
        guard.admit(request(1, at=1_000.0))  # set right: what was used stays used
    assert refused.value.retry_after == 60.0
    with pytest.raises(Refused):
        guard.admit(request(1, at=1_059.0))
    guard.admit(request(10, at=1_060.0))


def test_settings_are_checked() -> None:
    with pytest.raises(ParameterError, match=r"Quota\.rows must be an int of at least 1; got 0"):
        Quota(rows=0)
    with pytest.raises(ParameterError, match=r"Quota\.per"):
        Quota(per=0)
