"""PRADA's second version against a plain loop with scipy's Shapiro-Wilk, and W against figures from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import shapiro

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Array, Request
from portcullis_ml.detectors.prada_normality import PradaNormality, normality

from .toys import answer_to, attack, natural


def run(detector: PradaNormality, x: Array) -> Array:
    return detector.update(detector.start(), Request("a", x), answer_to(x))


def plain(x: Array, labels: np.ndarray) -> list[float]:
    """The published test with the published constants: quadratic, nothing cached."""
    G, D, T, seen, suspicion = {}, {}, {}, {}, [math.nan]
    for i, (z, c) in enumerate(zip(x, labels.tolist(), strict=True), start=1):
        if c not in G:
            G[c], D[c], T[c], seen[c] = [z], [0.0], 0.0, []
        else:
            d = min(math.sqrt(((g - z) ** 2).sum()) for g in G[c])
            seen[c].append(d)
            if d > T[c]:
                G[c].append(z)
                D[c].append(d)
                T[c] = max(T[c], np.mean(D[c]) - np.std(D[c]))
        suspicion.append(suspicion[-1])
        if i % 10 == 0:
            values = np.array([d for c in seen if len(seen[c]) >= 10 for d in seen[c]])
            if len(values):
                values = values[abs(values - np.mean(values)) < 3 * np.std(values)]
            if len(values) > 100:
                suspicion[-1] = 1 - shapiro(values).statistic
    return suspicion[1:]


@pytest.mark.parametrize("stream", [natural(400, 0), attack(400, 1), np.random.default_rng(2).random((300, 64))])
def test_agrees_with_the_plain_loop(stream: Array) -> None:
    stream = stream[np.sort(np.unique(stream, axis=0, return_index=True)[1])]
    slow = plain(stream, answer_to(stream).labels)
    np.testing.assert_allclose(run(PradaNormality(), stream), slow, rtol=0, atol=1e-12)  # the sum's order differs


def test_no_verdict_before_a_hundred_distances_and_one_every_ten_queries() -> None:
    out = run(PradaNormality(), natural(300, 0))
    first = int(np.isnan(out).sum())
    assert first >= 100
    assert first % 10 == 9, "row 10, 20, ... of the client brings the verdict"
    assert not np.isnan(out[first:]).any()
    assert (np.flatnonzero(np.diff(out[first:])) % 10 == 9).all()


class TestNormality:
    def test_three_values_on_paper(self) -> None:
        """For n = 3 the weights are -sqrt(1/2), 0, sqrt(1/2): W of 0, 1, 5 is (25 / 2) / 14."""
        assert normality(np.array([0.0, 1.0, 5.0]), outlier=3, at_least=2) == pytest.approx(25 / 28, abs=1e-6)

    def test_the_weights_of_eleven_men(self) -> None:
        """The example of Shapiro and Wilk (Biometrika, 1965), whose paper gives W = 0.79."""
        men = np.array([148, 154, 158, 160, 161, 162, 166, 170, 182, 195, 236.0])
        assert normality(men, outlier=3, at_least=10) == pytest.approx(0.79, abs=0.005)

    def test_a_fixed_stream(self) -> None:
        """The quantiles i / 201 of the exponential distribution; W by Royston's 1995 approximation."""
        values = -np.log1p(-np.arange(1, 201) / 201)
        assert normality(values, outlier=100, at_least=100) == pytest.approx(shapiro(values).statistic, abs=1e-12)
        assert normality(values, outlier=100, at_least=100) == pytest.approx(0.83867, abs=1e-4)

    def test_outliers_are_dropped_by_the_population_deviation(self) -> None:
        values = np.append(np.arange(200.0), 1e4)
        assert normality(values, outlier=3, at_least=100) == shapiro(np.arange(200.0)).statistic

    def test_too_few_or_all_equal_give_no_verdict(self) -> None:
        assert normality(np.arange(100.0), outlier=3, at_least=100) is None
        assert normality(np.empty(0), outlier=3, at_least=100) is None
        assert normality(np.full(200, 2.5), outlier=3, at_least=100) is None


def test_the_suspicion_comes_down_again() -> None:
    """It tells what it sees now; to hold an alarm is the watch's business."""
    detector = PradaNormality(latest=150)
    out = run(detector, np.concatenate([attack(300, 0), natural(1000, 1)]))
    assert detector.alarms(out).any()
    assert out[-1] < np.nanmax(out) / 2


def test_only_the_latest_distances_are_tested() -> None:
    state = PradaNormality(latest=150, at_least=100).start()
    x = natural(600, 0)
    PradaNormality(latest=150).update(state, Request("a", x), answer_to(x))
    assert len(state.values) == len(state.labels) == 150
    assert len(state.recent) == 0


def test_takes_longer_streams_than_the_test_is_defined_for() -> None:
    """6,000 rows: scipy warns beyond 5,000 values, and a warning fails this suite."""
    out = run(PradaNormality(cap=50, every=100), np.random.default_rng(0).random((6000, 64)))
    assert np.nanmax(out) < 0.05, "uniform noise is not seen: a documented blind spot"


def test_a_retry_loop_is_not_an_attack() -> None:
    detector, x = PradaNormality(threshold=0.1), natural(200, 0)
    retry = np.concatenate([x, np.tile(x[-3:], (200, 1))])
    out = run(detector, retry)
    np.testing.assert_array_equal(out[200:], np.full(600, out[199]))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": 0.0}, r"PradaNormality\.threshold must be in \(0, 1\); got 0\.0\."),
        ({"outlier": -1}, r"PradaNormality\.outlier must be greater than 0; got -1\."),
        ({"at_least": 2}, r"PradaNormality\.at_least must be an int in \[3, 4999\]; got 2\."),
        ({"latest": 6000}, r"PradaNormality\.latest must be an int in \(at_least, 5000\]; got 6000\."),
        ({"every": 0}, r"PradaNormality\.every must be an int of at least 1; got 0\."),
    ],
)
def test_says_which_settings_it_takes(settings: dict, sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        PradaNormality(**settings)
