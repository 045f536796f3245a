"""Fidelity of a copy beyond agreement: plain slow twins, figures by hand, and what would mean nothing."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from portcullis_ml.measures.fidelity import (
    auc_agreement,
    balanced_agreement,
    class_f,
    fidelity,
    rank_correlation,
    rarest,
)

label_pairs = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n).map(np.array)] * 2)
)
scores = st.integers(5, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 6), min_size=n, max_size=n).map(np.array)] * 2)
)


def rng():
    return np.random.default_rng(5)


def two(column):
    """(n,) scores of the second of two classes -> (n, 2)."""
    return np.column_stack([1 - column, column])


def slow_balanced(f, g):
    shares = []
    for c in sorted(set(f.tolist())):
        rows = [i for i in range(len(f)) if f[i] == c]
        shares.append(sum(g[i] == c for i in rows) / len(rows))
    return sum(shares) / len(shares)


def slow_auc(positive, score):
    pairs = [(a, b) for a, b in product(range(len(score)), repeat=2) if positive[a] and not positive[b]]
    return sum(1.0 if score[a] > score[b] else 0.5 if score[a] == score[b] else 0.0 for a, b in pairs) / len(pairs)


def slow_ranks(values):
    """By counting: the mean place of a value among all that are smaller or as great."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


def slow_spearman(one, other):
    a, b = slow_ranks(one), slow_ranks(other)
    mean = (len(one) + 1) / 2
    up = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    below = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    return up / below if below else 0.0


@given(label_pairs)
@settings(max_examples=40, deadline=None)
def test_balanced_agreement_is_the_definition_and_sklearns(pair):
    f, g = pair
    found = balanced_agreement(f, g, 4)
    assert found.value == pytest.approx(slow_balanced(f, g))
    assert found.value == pytest.approx(recall_score(f, g, labels=np.unique(f), average="macro", zero_division=0))
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(label_pairs)
@settings(max_examples=40, deadline=None)
def test_the_f_of_a_class_is_sklearns(pair):
    f, g = pair
    c = rarest(f, 4)
    assert np.bincount(f)[c] == min(n for n in np.bincount(f) if n)
    found = class_f(f, g, c, rng=rng(), draws=50)
    assert found.value == pytest.approx(f1_score(f, g, labels=[c], average="macro", zero_division=0))
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(scores)
@settings(max_examples=40, deadline=None)
def test_rank_correlation_is_the_definition(pair):
    one, other = (two(x / 6) for x in pair)
    found = rank_correlation(one, other)
    if np.ptp(pair[0]) == 0:
        assert math.isnan(found.value)
        return
    assert found.value == pytest.approx(slow_spearman(*pair))
    assert -1 <= found.low <= found.value <= found.high <= 1
    if np.ptp(pair[1]) > 0:
        assert found.value == pytest.approx(spearmanr(*pair).statistic)


@given(scores)
@settings(max_examples=40, deadline=None)
def test_the_area_counts_pairs_in_order(pair):
    labels, score = (pair[0] > 3).astype(np.int64), pair[1] / 6
    found = auc_agreement(labels, two(score))
    if len(set(labels.tolist())) < 2:
        assert math.isnan(found.value)
        return
    assert found.value == pytest.approx(slow_auc(labels == 1, score))
    assert found.value == pytest.approx(roc_auc_score(labels, score))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_several_classes_are_taken_one_against_the_rest():
    f, g = rng().dirichlet(np.ones(3), size=(2, 40))
    labels = f.argmax(axis=1)
    ranks = [slow_spearman(f[:, c], g[:, c]) for c in range(3)]
    areas = [slow_auc(labels == c, g[:, c]) for c in range(3)]
    assert rank_correlation(f, g).value == pytest.approx(sum(ranks) / 3)
    assert auc_agreement(labels, g).value == pytest.approx(sum(areas) / 3)


def test_a_constant_copies_no_order_and_half_of_two_classes():
    f = two(np.linspace(0.1, 0.6, 60))
    constant = np.tile([0.9, 0.1], (60, 1))
    found = fidelity(f, constant, None, rng=rng())
    assert found["rank_correlation"].value == 0
    assert found["auc_agreement"].value == 0.5
    assert found["balanced_agreement"].value == 0.5
    assert found["minority_f_agreement"].value == 0
    assert "minority_f" not in found


def test_few_rows_without_an_error_are_not_certainty():
    f = np.array([0] * 100 + [1] * 3)
    assert balanced_agreement(f, f, 2).low < 0.7
    assert auc_agreement(f, two(f * 0.5)).low < 0.4  # three rows are three pairs, whatever they are compared with


def test_intervals_cover_what_many_rows_say():
    """95% intervals of 200 rows hold the figure of 200,000 in 90 to 100 of 100 draws."""
    draw = rng()

    def sample(n):
        hidden = draw.normal(size=n)
        f, g = hidden + draw.normal(scale=0.5, size=n), hidden + draw.normal(scale=0.5, size=n)
        f, g = two(1 / (1 + np.exp(1.5 - f))), two(1 / (1 + np.exp(1.5 - g)))
        return f, g

    def figures(f, g):
        labels = f.argmax(axis=1), g.argmax(axis=1)
        return rank_correlation(f, g), auc_agreement(labels[0], g), balanced_agreement(*labels, 2)

    truth = [e.value for e in figures(*sample(200_000))]
    held = np.zeros(3)
    for _ in range(100):
        held += [e.low <= t <= e.high for e, t in zip(figures(*sample(200)), truth, strict=True)]
    assert (held >= 90).all(), held


def test_what_the_copy_is_worth_on_the_truth():
    true = np.array([0, 0, 0, 1, 1, 0])
    copy = two(np.array([0.1, 0.2, 0.6, 0.7, 0.4, 0.3]))
    found = fidelity(two(np.array([0.2, 0.1, 0.3, 0.9, 0.8, 0.4])), copy, true, rng=rng())
    assert found["minority_f"].value == pytest.approx(0.5)  # one hit, one wrong, one missed
    assert found["macro_f"].value == pytest.approx((0.75 + 0.5) / 2)
    gaps = {0.9: 1, 0.8: 1, 0.6: 0, 0.7: 2}  # score of the answer -> how many of its rows are right
    rows = {0.9: 1, 0.8: 1, 0.6: 2, 0.7: 2}
    assert found["calibration_error"].value == pytest.approx(sum(abs(gaps[s] - s * rows[s]) for s in gaps) / 6)


def test_rows_that_the_copy_does_not_score_come_last():
    f = two(np.linspace(0.1, 0.9, 20))
    copy = f.copy()
    copy[0] = np.nan
    assert fidelity(f, copy, None, rng=rng())["rank_correlation"].value == pytest.approx(1.0)


def test_no_share_of_the_classes_is_said_to_be_above_one():
    f = np.repeat([0, 1], [400, 2])
    found = balanced_agreement(f, np.where(np.arange(402) == 0, 1, f), 2)
    assert found.value < found.high <= 1
