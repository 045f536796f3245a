"""Curves against a plain twin; the risk of a row; what can be told without the model."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from portcullis_ml.core.types import Rows
from portcullis_ml.measures.blind import blind_suspicion, classes_differ
from portcullis_ml.measures.membership import area_under_curve
from portcullis_ml.measures.roc import exposed, risk, roc_points


@pytest.mark.parametrize("seed", range(10))
def test_every_point_of_a_curve_is_what_its_threshold_gives(seed):
    rng = np.random.default_rng(seed)
    member = rng.random(300) < 0.4
    suspicion = np.round(rng.normal(size=300) + member, 1)
    suspicion[:5] = np.nan
    heard = np.where(np.isnan(suspicion), -np.inf, suspicion)
    plain = {((heard[~member] >= t).mean(), (heard[member] >= t).mean()) for t in heard} | {(0.0, 0.0)}
    fpr, tpr = roc_points(suspicion, member)
    assert set(zip(fpr, tpr, strict=True)) <= plain
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()


def test_a_long_curve_is_thinned_and_keeps_its_left_end():
    rng = np.random.default_rng(0)
    member = np.arange(20_000) < 10_000
    fpr, tpr = roc_points(rng.normal(size=20_000) + member, member, points=100)
    assert len(fpr) <= 102
    assert fpr[fpr > 0][0] == 1e-4
    assert np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2) == pytest.approx(0.7602, abs=0.02)


def test_the_risk_of_a_row_is_the_share_of_others_as_suspected():
    suspicion = np.array([9.0, 2.0, np.nan, 1.0, 2.0, 3.0])
    member = np.array([True, True, True, False, False, False])
    assert risk(suspicion, member) == pytest.approx([1 / 4, 3 / 4, 1, 1, 2 / 3, 1 / 3])
    assert exposed(suspicion, member, 2).tolist() == [0, 1]


def test_a_shift_between_members_and_others_is_seen_without_a_model():
    rng = np.random.default_rng(0)
    member = np.arange(300) < 150
    y = rng.integers(3, size=300)
    same = Rows(rng.normal(size=(300, 4)), y)
    shifted = Rows(same.x + 1.0 * member[:, None], y)
    assert area_under_curve(blind_suspicion(shifted, member, rng=rng), member).low > 0.6
    found = area_under_curve(blind_suspicion(same, member, rng=rng), member)
    assert found.low < 0.55


def test_members_chosen_by_class_are_found():
    rng = np.random.default_rng(0)
    member = np.arange(400) < 200
    assert classes_differ(rng.integers(4, size=400), member) is None
    assert classes_differ(np.where(member, 0, rng.integers(4, size=400)), member) < 1e-3
    assert classes_differ(np.zeros(400, np.int64), member) is None


def test_the_p_value_of_unlike_classes_is_that_of_the_counts():
    y, member = np.array([0] * 30 + [1] * 10 + [0] * 12 + [1] * 28), np.arange(80) < 40
    assert classes_differ(y, member) == pytest.approx(chi2_contingency([[30, 10], [12, 28]]).pvalue)
