"""Membership measures against plain twins and values worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.measures.membership import area_under_curve, members_found, membership_measures


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
