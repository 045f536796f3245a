"""Membership measures against plain twins and values worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.measures.membership import (
    area_under_curve,
    balanced_accuracy,
    members_found,
    membership_measures,
    needed_for,
    precision_of_top,
    predictive_value,
    rate_name,
)


def plain_area(suspicion, member):
    pairs = [(a > b) + 0.5 * (a == b) for a in suspicion[member] for b in suspicion[~member]]
    return sum(pairs) / len(pairs)


def plain_found(suspicion, member, rate):
    """The best share of members over every threshold whose false positive rate is allowed."""
    best = 0.0
    for t in [*suspicion, -np.inf]:
        if (suspicion[~member] > t).mean() <= rate:
            best = max(best, (suspicion[member] > t).mean())
    return best


@pytest.mark.parametrize("seed", range(20))
def test_fast_equals_obvious_with_ties(seed):
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.arange(60) < 25)
    suspicion = rng.integers(6, size=60) + member * rng.integers(3, size=60)
    assert area_under_curve(suspicion, member).value == pytest.approx(plain_area(suspicion, member))
    for rate in (0.0, 0.05, 0.1, 0.5):
        assert members_found(suspicion, member, rate).value == pytest.approx(plain_found(suspicion, member, rate))


def test_perfect_and_useless_suspicions():
    member = np.arange(400) < 200
    perfect = membership_measures(member.astype(float), member)
    assert perfect["auc"].value == 1
    assert perfect["tpr_at_1_percent"].value == 1
    assert "tpr_at_0.1_percent" not in perfect  # 200 others cannot show a rate of one in a thousand
    useless = membership_measures(np.zeros(400), member)
    assert useless["auc"].value == 0.5
    assert useless["tpr_at_1_percent"].value == 0


def test_delongs_interval_covers_the_true_area():
    """Two normal samples one deviation apart: the true area is Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(0)
    member = np.arange(200) < 100
    covered = 0
    for _ in range(300):
        e = area_under_curve(rng.normal(size=200) + member, member)
        covered += e.low <= 0.7602 <= e.high
    assert covered >= 300 * 0.95 - 4 * np.sqrt(300 * 0.95 * 0.05)


def test_a_candidate_that_was_not_answered_is_the_least_suspected():
    member = np.array([True, True, False, False])
    assert membership_measures(np.array([1.0, np.nan, 0.5, 0.2]), member)["auc"].value == 0.5


def test_one_kind_only_is_refused():
    with pytest.raises(InputError, match="members and non-members"):
        membership_measures(np.zeros(3), np.ones(3, bool))


def test_the_predictive_value_is_that_of_the_counts():
    """90 of 100 members and 1 of 100 others accused: at a prior of 1%, .9 * .01 / (.9 * .01 + .01 * .99) = .4762."""
    suspicion = np.concatenate([np.arange(11, 101), np.full(10, -1), [10.0], np.zeros(99)])
    member = np.arange(200) < 100
    found = predictive_value(suspicion.astype(float), member, 0.01, 0.01)
    assert found.value == pytest.approx(0.9 * 0.01 / (0.9 * 0.01 + 0.01 * 0.99))
    assert found.low < found.value < found.high
    assert predictive_value(np.zeros(200), member, 0.01, 0.1).value == 0


def test_the_top_hundred_counts_ties_by_their_share():
    member = np.arange(400) < 200
    assert precision_of_top(member.astype(float), member, 100).value == 1
    assert precision_of_top(np.zeros(400), member, 100).value == pytest.approx(0.5)


def test_balanced_accuracy_sets_no_threshold_on_the_rows_that_it_judges():
    rng = np.random.default_rng(0)
    member = np.arange(400) < 200
    chance = [balanced_accuracy(rng.normal(size=400), member).value for _ in range(40)]
    assert abs(np.mean(chance) - 0.5) < 0.02  # the best threshold on the same rows would have about .53
    assert balanced_accuracy(member.astype(float), member).value == 1
    shifted = balanced_accuracy(rng.normal(size=4000) + 2 * (np.arange(4000) < 2000), np.arange(4000) < 2000)
    assert shifted.low < 0.8413 < shifted.high  # Phi(1)


def test_averages_come_last_and_few_rows_are_not_read_for_more_than_they_say():
    member = np.arange(400) < 200
    assert list(membership_measures(np.zeros(400), member))[-2:] == ["balanced_accuracy", "auc"]
    few = membership_measures(np.arange(20.0), np.arange(20) < 10)
    assert "precision_of_top_100" not in few
    assert "balanced_accuracy" not in few
    assert needed_for(0.001) == 1000
    assert rate_name(0.001) == "tpr_at_0.1_percent"


@pytest.mark.parametrize(
    ("each", "named"),
    [
        (39, set()),
        (40, {"balanced_accuracy"}),
        (99, {"balanced_accuracy"}),
        (100, {"balanced_accuracy", "precision_of_top_100"}),
    ],
)
def test_figures_that_need_many_candidates_are_named_from_so_many_of_each_kind_on(each, named):
    member = np.arange(2 * each) < each
    found = membership_measures(np.random.default_rng(0).random(2 * each), member)
    assert set(found) & {"balanced_accuracy", "precision_of_top_100"} == named


def test_a_threshold_does_not_part_equal_suspicions():
    """Members 0, 0, 2, 2, 2, 2 and others 0, 0, 1, 1, 1, 1, twice over: above 1 two thirds of the members lie alone."""
    suspicion = np.tile([0.0, 0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 1, 1, 1, 1], 2)
    member = np.tile(np.arange(16) < 8, 2)
    assert balanced_accuracy(suspicion, member).value == pytest.approx((0.5 + 1) / 2)
