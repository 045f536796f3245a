"""PRADA's first version against a loop written from its pseudocode, and against arithmetic on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Answer, Array, Request
from portcullis_ml.detectors._growing_sets import Joining, Seen
from portcullis_ml.detectors.prada import Prada

from .toys import answer_to, attack, natural


def run(detector: Prada, x: Array, labels: np.ndarray | None = None) -> Array:
    answer = answer_to(x) if labels is None else Answer(labels)
    return detector.update(detector.start(), Request("a", x), answer)


def plain(x: Array, labels: np.ndarray, w: int, kappa: float) -> list[float]:
    """Algorithm 1 as the paper writes it: quadratic, nothing cached."""
    G, D, T, s, r = {}, {}, {}, [0], []
    for z, c in zip(x, labels.tolist(), strict=True):
        if c not in G:
            G[c], D[c], T[c] = [z], [0.0], 0.0
        else:
            d = min(math.sqrt(((g - z) ** 2).sum()) for g in G[c])
            if d > T[c]:
                G[c].append(z)
                D[c].append(d)
                T[c] = max(T[c], np.mean(D[c]) - np.std(D[c]))
        s.append(sum(len(g) for g in G.values()))
        i = len(s) - 1
        if i < 2 * w:
            r.append(math.nan)
        else:
            now, before = (s[i] - s[i - w]) / w, (s[i - w] - s[i - 2 * w]) / w
            r.append((before + kappa) / (now + kappa))
    return r


@pytest.mark.parametrize(("w", "kappa"), [(25, 0.05), (5, 0.01), (60, 0.3)])
@pytest.mark.parametrize("stream", [natural(300, 0), attack(300, 1), np.random.default_rng(2).random((300, 64))])
def test_agrees_with_the_pseudocode(stream: Array, w: int, kappa: float) -> None:
    stream = stream[np.sort(np.unique(stream, axis=0, return_index=True)[1])]  # without repeats
    fast = run(Prada(window=w, kappa=kappa), stream)
    np.testing.assert_array_equal(fast, plain(stream, answer_to(stream).labels, w, kappa))


def test_an_elbow_worked_out_on_paper() -> None:
    """Four rows 10 apart all join; two at .1 do not (the threshold is at least 10 (2/3 - sqrt(2)/3) = 1.95).

    With windows of 2: ratios (1 + k)/(1 + k), (1 + k)/(.5 + k), (1 + k)/(0 + k).
    """
    x = np.array([[0.0], [10.0], [20.0], [30.0], [30.1], [29.9]])
    k = 0.05
    out = run(Prada(window=2, kappa=k), x, np.zeros(6, np.int64))
    np.testing.assert_array_equal(out[:3], [np.nan] * 3)
    np.testing.assert_allclose(out[3:], [1.0, 1.05 / 0.55, 1.05 / 0.05], rtol=1e-12)


def test_symmetric_also_hears_growth_restart() -> None:
    x = np.array([[0.0], [10.0], [20.0], [20.1], [20.2], [40.0], [60.0]])
    labels = np.zeros(7, np.int64)
    plainly, both = (run(Prada(window=2, symmetric=s), x, labels) for s in (False, True))
    assert plainly[-1] == pytest.approx(0.05 / 1.05)
    assert both[-1] == pytest.approx(1.05 / 0.05)
    np.testing.assert_array_equal(both[3:], np.maximum(plainly[3:], 1 / plainly[3:]))


def test_detects_within_a_window_of_the_switch() -> None:
    detector = Prada()
    for seed in range(5):
        first = int(detector.alarms(run(detector, attack(300, seed, seeds=60))).argmax()) + 1
        assert 60 < first <= 60 + detector.window


def test_does_not_see_uniform_noise() -> None:
    """Every point is far from every other: growth is steady, and the ratio never leaves 1 (a documented blind spot)."""
    out = run(Prada(), np.random.default_rng(0).random((1500, 64)))
    assert np.nanmax(out) < 1.5


def test_the_class_is_the_models_not_the_defended_one() -> None:
    x = attack(200, 0)
    one_class = run(Prada(), x, np.zeros(len(x), np.int64))
    assert not np.array_equal(one_class, run(Prada(), x), equal_nan=True)


@pytest.mark.parametrize("of", [1, 2, 7])
def test_a_retry_loop_is_not_an_attack(of: int) -> None:
    detector, x = Prada(), natural(100, 0)
    state = detector.start()
    before = detector.update(state, Request("a", x), answer_to(x))[-1]
    retry = np.tile(x[-of:], (200 // of, 1))
    out = detector.update(state, Request("a", retry), answer_to(retry))
    np.testing.assert_array_equal(out, np.full(len(retry), before))


def test_repeats_mixed_in_change_no_verdict() -> None:
    x = attack(300, 0)
    twice = np.repeat(x, 2, axis=0)
    np.testing.assert_array_equal(run(Prada(), twice)[::2], run(Prada(), x))


def test_an_omitted_input_counts_as_zero() -> None:
    x = attack(200, 0)
    x[x == 0] = np.nan
    labels = answer_to(np.nan_to_num(x)).labels
    np.testing.assert_array_equal(run(Prada(), x, labels), run(Prada(), np.nan_to_num(x), labels))


def test_images_are_rows() -> None:
    x = attack(200, 0)
    np.testing.assert_array_equal(run(Prada(), x.reshape(-1, 1, 8, 8), answer_to(x).labels), run(Prada(), x))


class TestJoining:
    def test_keeps_the_greatest_mean_minus_deviation(self) -> None:
        joining, distances = Joining(), [0.0]
        greatest = 0.0
        for d in np.random.default_rng(0).gamma(2.0, size=300):
            joining.append(d)
            distances.append(d)
            greatest = max(greatest, np.mean(distances) - np.std(distances))
            assert joining.threshold == pytest.approx(greatest, rel=1e-12)

    def test_the_first_distance_does_not_freeze_the_set(self) -> None:
        joining = Joining()
        joining.append(6.0)
        assert joining.threshold == pytest.approx(0.0, abs=1e-15)


def test_only_the_latest_questions_are_remembered() -> None:
    seen = Seen(room=100)
    assert not any(seen.again(bytes([i, 0])) for i in range(150))
    assert all(seen.again(bytes([i, 0])) for i in range(50, 150))
    assert not seen.again(bytes([0, 0]))
    assert len(seen.digests) == 100


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": 1.0}, r"Prada\.threshold must be greater than 1; got 1\.0\."),
        ({"window": 1}, r"Prada\.window must be an int of at least 2; got 1\."),
        ({"kappa": 0.0}, r"Prada\.kappa must be in \(0, 1\]; got 0\.0\."),
        ({"symmetric": "yes"}, r"Prada\.symmetric must be True or False; got 'yes'\."),
        ({"cap": 0}, r"Prada\.cap must be an int of at least 1; got 0\."),
        ({"remember": 2.5}, r"Prada\.remember must be an int of at least 1; got 2\.5\."),
    ],
)
def test_says_which_settings_it_takes(settings: dict, sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        Prada(**settings)
