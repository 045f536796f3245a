"""Records become pairs, and seeds become estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from tests.report.fakes import estimate, record

from portcullis_ml.core.types import Estimate
from portcullis_ml.repetitions import across
from portcullis_ml.report.numbers import count, duration, percent, points
from portcullis_ml.report.results import NONE, read


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_over_seeds_the_interval_is_students_t() -> None:
    values = [0.6, 0.8, 0.7, 0.65]
    e = across([Estimate(v, v, v, 100, unit="rows") for v in values])
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (e.value, e.low, e.high) == pytest.approx((np.mean(values), low, high))
    assert (e.n, e.unit) == (4, "seeds")


def test_seeds_that_agree_do_not_shrink_the_interval_of_the_rows() -> None:
    e = across([Estimate(0.8, 0.75, 0.84, 300)] * 5)
    assert (e.value, e.low, e.high) == pytest.approx((0.8, 0.75, 0.84))


def test_a_share_stays_a_share() -> None:
    e = across([Estimate(1.0, 0.99, 1.0, 100), Estimate(0.9, 0.85, 0.95, 100)])
    assert e.high == 1.0
    assert e.low >= 0.0


def test_a_ratio_may_pass_one_in_the_mean() -> None:
    e = across([Estimate(1.05, 0.9, 1.2, 50), Estimate(0.95, 0.8, 1.1, 50)])
    assert e.value == pytest.approx(1.0)
    assert e.high > 1.1


def test_one_seed_stands_as_it_is() -> None:
    e = Estimate(0.8, 0.75, 0.84, 300, unit="rows")
    assert across([e]) is e


def test_the_largest_budget_is_the_one_in_the_matrix_and_all_are_on_the_curve() -> None:
    """And no round of the longer run among them: it is another run."""
    records = [record("a", NONE, budget=b, final_agreement=f) for b, f in ((100, 0.3), (800, 0.6))]
    pair = read(records).pairs["a", NONE]
    assert pair.budget == 800
    assert [q for q, _ in pair.curve("agreement")] == [100, 800]
    assert pair.measures["agreement"].value == records[1]["measures"]["agreement"]["value"]


def test_a_seed_that_ended_early_keeps_its_copy_on_the_curve() -> None:
    def run(seed: int, points: dict[int, float]) -> dict[str, object]:
        made = record("a", NONE, seed=seed, queries=max(points))
        made["curve"] = [{"queries": q, "measures": {"agreement": estimate(v, 0)}} for q, v in points.items()]
        return made | {"measures": {"agreement": estimate(points[max(points)], 0)}}

    curve = read([run(0, {10: 0.2, 100: 0.4}), run(1, {10: 0.4})]).pairs["a", NONE].curve("agreement")
    assert [(q, e.value) for q, e in curve] == [(10, pytest.approx(0.3)), (100, pytest.approx(0.4))]


def test_what_is_not_a_number_was_not_measured() -> None:
    made = record("a", NONE)
    made["measures"]["agreement"] = {"value": math.nan, "low": 0.0, "high": 1.0, "n": 0}
    made["measures"]["accuracy"] = {"value": 0.5, "low": None, "high": None, "n": 1}
    measures = read([made]).pairs["a", NONE].measures
    assert "agreement" not in measures
    assert (measures["accuracy"].low, measures["accuracy"].high) == (-math.inf, math.inf)


def test_outcomes_of_a_pair() -> None:
    failed = record("a", NONE, seed=1) | {"outcome": "failed", "reason": "A crash.", "measures": {}}
    pair = read([record("a", NONE), failed]).pairs["a", NONE]
    assert (pair.outcome, pair.reason, len(pair.done)) == ("done", "A crash.", 1)
    assert read([failed]).pairs["a", NONE].outcome == "failed"


def test_first_alarms_by_seed() -> None:
    rang = record("a", "watch", alarms=[{"stage": "1-x", "row": 90}, {"stage": "0-y", "row": 71}])
    assert read([rang, record("a", "watch", seed=1)]).pairs["a", "watch"].alarms == [71, None]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(Estimate(0.841, 0.81, 0.874, 3)), "84% [81, 87]"),
        (percent(Estimate(0.841, 0.81, 0.874, 3), 1), "84.1% [81.0, 87.4]"),
        (percent(Estimate(12.5, -3.0, math.inf, 3)), "12.5 [−3, ∞]"),
        (percent(Estimate(1.05, 0.9, 1.2, 3)), "105% [90, 120]"),
        (points(Estimate(0.003, -0.001, 0.006, 3)), "0.3 points [−0.1, 0.6]"),
        (points(Estimate(-0.0001, -0.0002, 0.01, 3)), "0.0 points [0.0, 1.0]"),
        (count(1, "query"), "1 query"),
        (count(1600, "query"), "1,600 queries"),
        (duration(3.21), "3.2 s"),
        (duration(59.7), "1 min 0 s"),
        (duration(7500), "2 h 5 min"),
    ],
)
def test_numbers_in_words(written: str, expected: str) -> None:
    assert plain(written) == expected
