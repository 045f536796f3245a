"""Limits: what follows from a number of queries, and what is said of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from portcullis_ml.bench.limits import limits_of, quota_for, sentences
from portcullis_ml.bench.pilots import Piloted, Reach
from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Estimate


def piloted(value: float = 1_200.0, low: float = 1_001.0, high: float = 1_500.0, **changes: Any) -> Piloted:
    reach = Reach(attack="knockoff", queries=Estimate(value, low, high, 9), best=0.9, at=2_000, runs=9, least=700)
    usual: dict[str, Any] = {
        "reaches": (reach,), "target": 0.8, "measure": "agreement", "constant": 0.1, "most": 3_000, "rows": 500,
        "seconds": 1.0, "why": "sharp",
    }  # fmt: skip
    return Piloted(**(usual | changes))


def exact() -> Piloted:
    n = Estimate(65.0, 65.0, 65.0, 3)
    return piloted(reaches=(Reach(attack="equation_solving", queries=n, best=1.0, at=65, runs=3, exact=True),))


def test_limits_keep_all_accounts_together_below_the_low_end() -> None:
    one, ten = limits_of(piloted(), accounts=[10, 1], days=100)
    assert [one.per[w].rows for w in ("total", "month", "day")] == [1_000, 250, 10]
    assert [ten.per[w].rows for w in ("total", "month", "day")] == [100, 25, 1]
    assert 10 * ten.per["total"].rows < 1_001
    assert (one.per["day"].days, one.per["month"].days) == (120, 121)  # 120 days of 10; the fifth month's first day
    assert one.per["total"].days == math.inf


def test_a_window_that_allows_no_row_is_not_written() -> None:
    limits = limits_of(piloted(), accounts=[100], days=365)
    assert limits[0].per["day"].rows == 0
    with pytest.raises(InputError, match="No quota a day holds against 100 accounts"):
        quota_for(limits, "day", 100)
    assert quota_for(limits, "total", 100).rows == 10


def test_a_linear_model_has_no_limit() -> None:
    assert limits_of(exact(), accounts=[1], days=30) == []
    said = sentences(exact(), [], days=30, price=0.01)
    assert len(said) == 3
    assert "the whole model after 65 queries, d + 1" in said[0]
    assert said[1].startswith("No limit helps: 65 rows")
    assert "0.65" in said[1]
    with pytest.raises(InputError, match="no limit to write"):
        quota_for([], "total", 1)


def test_a_target_that_nobody_reaches_needs_no_limit() -> None:
    nobody = piloted(math.inf, 2_500.0, math.inf)
    assert limits_of(nobody, accounts=[1], days=30) == []
    said = sentences(nobody, [], days=30, price=None)
    assert said[0].startswith("No limit is needed for 80% agreement: no attack here gets there within 3,000 queries")
    assert "90% after 2,000" in said[0]


def test_the_sentences_name_the_attack_the_limit_its_interval_and_n() -> None:
    said = sentences(piloted(), limits_of(piloted(), accounts=[1], days=100), days=100, price=None)
    assert "knockoff" in said[0]
    assert "1,001 to 1,500 (n = 9 runs, 500 test rows)" in said[0]
    assert "no run had it with fewer than 700" in said[0]
    assert "1,000 rows at all, 250 a month, 10 a day" in said[1]
    assert "--price-per-query" in said[1]
    assert (
        "not sharp yet"
        in sentences(piloted(why="time spent"), limits_of(piloted(), accounts=[1], days=9), days=9, price=None)[0]
    )


def test_accounts_and_days_must_be_positive() -> None:
    with pytest.raises(ParameterError, match=r"--accounts must be whole numbers of at least 1.*got \[1, 0\]"):
        limits_of(piloted(), accounts=[1, 0], days=30)
    with pytest.raises(ParameterError, match="--days must be at least 1"):
        limits_of(piloted(), accounts=[1], days=0)
