"""Intervals: golden values worked out by hand, plain twins, and what is said when there is nothing to say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.measures.statistics import (
    bootstrap,
    clopper_pearson,
    clustered,
    clustered_mean,
    from_draws,
    mean_of,
    mean_over_seeds,
    median_iqr,
    quantile,
)


def binomial_tail(p, n, at_least):
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(at_least, n + 1))


def slow_clopper_pearson(successes, n, level):
    """The p at which seeing so many (so few) successes or more (fewer) has probability (1 - level) / 2."""

    def bisect(f):
        low, high = 0.0, 1.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if f(middle) else (low, middle)
        return low

    tail = (1 - level) / 2
    low = bisect(lambda p: binomial_tail(p, n, successes) < tail) if successes else 0.0
    high = bisect(lambda p: 1 - binomial_tail(p, n, successes + 1) > tail) if successes < n else 1.0
    return low, high


@given(st.integers(1, 40), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=50, deadline=None)
def test_clopper_pearson_is_the_definition(n, data, level):
    successes = data.draw(st.integers(0, n))
    found = clopper_pearson(successes, n, level=level)
    low, high = slow_clopper_pearson(successes, n, level)
    assert (found.value, found.n, found.level) == (successes / n, n, level)
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)


def test_clopper_pearson_at_the_edges():
    # Nothing in n: (1 - p)^n = tail, so p = 1 - tail^(1/n).
    none = clopper_pearson(0, 500)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 500), abs=1e-12)
    assert 0.0073 < none.high < 0.0074
    everything = clopper_pearson(500, 500)
    assert (everything.value, everything.high) == (1.0, 1.0)
    assert everything.low == pytest.approx(0.025 ** (1 / 500), abs=1e-12)
    single = clopper_pearson(1, 1)
    assert (single.low, single.high) == (pytest.approx(0.025), 1.0)


def test_an_upper_bound_spends_the_whole_risk_on_one_side():
    none = clopper_pearson(0, 500, sided="upper")
    assert none.high == pytest.approx(1 - 0.05 ** (1 / 500), abs=1e-12)
    assert none.high < 0.006
    some = clopper_pearson(3, 500, sided="upper")
    assert some.low == 0.0
    assert some.high == pytest.approx(clopper_pearson(3, 500, level=0.9).high)


def test_nothing_tried_tells_nothing():
    nothing = clopper_pearson(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high, nothing.n) == (0.0, 1.0, 0)


def test_shares_and_levels_are_checked():
    with pytest.raises(InputError, match="A share needs 0 <= successes <= n; got 3 of 2"):
        clopper_pearson(3, 2)
    with pytest.raises(ParameterError, match="level must be between 0 and 1; got 1"):
        clopper_pearson(1, 2, level=1)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_clusters_of_one_are_plain_trials(trials):
    found = clustered(np.array(trials, float), np.ones(len(trials)))
    plain = clopper_pearson(sum(trials), len(trials))
    assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-9)


def test_clusters_that_move_as_one_count_once():
    found = clustered(np.array([9.0, 9.0, 0.0, 0.0, 0.0]), np.full(5, 9.0))
    plain = clopper_pearson(2, 5)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.4, plain.low, plain.high, 5))


def test_equal_clusters_count_as_all_their_trials():
    found = clustered(np.full(10, 3.0), np.full(10, 9.0))
    plain = clopper_pearson(30, 90)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))


def test_nothing_in_any_cluster_counts_clusters():
    assert clustered(np.zeros(20), np.full(20, 9.0)).high == pytest.approx(clopper_pearson(0, 20).high)
    one = clustered(np.array([4.0]), np.array([9.0]))
    assert (one.value, one.n) == (pytest.approx(4 / 9), 1)
    assert one.high - one.low > 0.9
    assert math.isnan(clustered(np.zeros(2), np.zeros(2)).value)


def test_clusters_that_resemble_each_other_too_little_count_as_many_trials_as_were_made():
    found = clustered(np.array([5.0, 5.0, 5.0, 5.0, 5.0, 4.0]), np.full(6, 10.0))  # less spread than chance would have
    exact = clopper_pearson(29, 60)
    assert (found.low, found.high, found.n) == (pytest.approx(exact.low), pytest.approx(exact.high), 6)


def test_clustered_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        shares = rng.beta(0.6, 1.4, size=60)  # mean 0.3, and clusters far apart
        found = clustered(rng.binomial(9, shares).astype(float), np.full(60, 9.0))
        hits += found.low <= 0.3 <= found.high
    assert clopper_pearson(hits, 400, level=0.999).high >= 0.95
    assert hits < 400  # and is not merely everything


def test_students_t_by_hand():
    # Two values: t with 1 degree of freedom is Cauchy, tan(0.475 pi) = 12.7062; half = 12.7062 * 0.7071 / 1.4142.
    two = mean_of([0.0, 1.0])
    assert (two.value, two.n) == (0.5, 2)
    assert two.high - two.value == pytest.approx(math.tan(0.475 * math.pi) / 2)
    # Three values: with 2 degrees of freedom t = 0.95 sqrt(2 / (1 - 0.95^2)) = 4.30265.
    three = mean_over_seeds([1.0, 2.0, 3.0])
    assert three.value - three.low == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3))
    assert three.unit == "seeds"


def test_one_seed_has_no_interval_but_the_range():
    one = mean_over_seeds([0.8])
    assert (one.value, one.low, one.high, one.n) == (0.8, -math.inf, math.inf, 1)
    share = mean_over_seeds([0.8], within=(0, 1))
    assert (share.low, share.high) == (0, 1)
    none = mean_over_seeds([], within=(0, 1))
    assert math.isnan(none.value)
    assert (none.low, none.high, none.n) == (0, 1, 0)


def test_means_are_cut_to_their_range_and_keep_a_nan():
    cut = mean_of([0.9, 1.0], within=(0, 1))
    assert cut.high == 1
    withheld = mean_over_seeds([0.5, math.nan, 0.7], within=(0, 1))
    assert math.isnan(withheld.value)
    assert (withheld.low, withheld.high, withheld.n) == (0, 1, 3)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_clustered_mean_of_equal_clusters_is_the_mean_of_their_means(clusters):
    values = np.array(clusters)
    found = clustered_mean(values.sum(axis=1), np.full(len(values), 3.0))
    plain = mean_of(values.mean(axis=1))
    assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-9)


def test_a_clustered_mean_weighs_by_size_and_skips_empty_clusters():
    found = clustered_mean(np.array([1.0, 6.0, 0.0]), np.array([1.0, 3.0, 0.0]))
    assert (found.value, found.n) == (7 / 4, 2)


def test_median_and_quartiles():
    found = median_iqr([70, 71, 71])
    assert (found.low, found.value, found.high, found.n, found.level) == (70.5, 71, 71, 3, 0.5)
    censored = median_iqr([70, 71, 72, math.inf, math.inf])
    assert (censored.low, censored.value, censored.high) == (71, 72, math.inf)
    assert median_iqr([70, math.inf, math.inf]).value == math.inf
    assert math.isnan(median_iqr([]).value)
    assert math.isnan(median_iqr([1.0, math.nan]).value)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.floats(0, 1))
@settings(deadline=None)
def test_quantile_is_numpys_where_all_is_finite(values, q):
    assert quantile(np.array(values), q) == pytest.approx(np.quantile(values, q), abs=1e-9)


def test_the_bootstrap_of_a_mean_is_near_students_t():
    values = np.random.default_rng(0).normal(size=400)
    resampled = bootstrap(lambda rows: values[rows].mean(), 400, rng=np.random.default_rng(1), draws=2000)
    t = mean_of(values)
    assert resampled.value == pytest.approx(t.value)
    assert resampled.high - resampled.low == pytest.approx(t.high - t.low, rel=0.1)
    again = bootstrap(lambda rows: values[rows].mean(), 400, rng=np.random.default_rng(1), draws=2000)
    assert resampled == again


def test_draws_without_a_say_and_samples_without_rows():
    assert from_draws(0.5, np.array([0.2, math.nan, 0.4]), 9).high == 0.5  # the value itself is always inside
    nothing = from_draws(0.5, np.array([math.nan]), 9, within=(0, 1))
    assert (nothing.value, nothing.low, nothing.high) == (0.5, 0, 1)
    empty = bootstrap(lambda rows: 1.0, 0, rng=np.random.default_rng(0), within=(0, 1))
    assert math.isnan(empty.value)
    assert (empty.low, empty.high) == (0, 1)
    with pytest.raises(ParameterError, match="draws must be at least 40; got 3"):
        bootstrap(lambda rows: 1.0, 5, rng=np.random.default_rng(0), draws=3)
