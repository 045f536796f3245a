"""Rebuilt inputs judged: by the class means, by a classifier trained apart, and with the nearest rows found."""

import numpy as np
import pytest

from portcullis_ml.measures.inversion import inversion_measures, likeness, means_and_nearest

RNG = np.random.default_rng(0)
SHAPES = RNG.random((3, 4, 4))
Y = np.arange(60) % 3
X = SHAPES[Y] + 0.05 * RNG.normal(size=(60, 4, 4))


def test_what_shows_its_class_is_told_from_what_does_not():
    good = 0.1 * SHAPES + 0.7  # paler, and correlation does not mind
    found = inversion_measures(good, np.arange(3), X, Y, np.array([0, 1, 0]))
    assert found["nearest_mean"].value == 1
    assert found["recognized"].value == pytest.approx(2 / 3)
    assert found["recognized"].n == 3
    turned = inversion_measures(SHAPES[[1, 2, 0]], np.arange(3), X, Y, None)
    assert turned["nearest_mean"].value == 0
    assert "recognized" not in turned


def test_the_nearest_row_and_the_mean_are_those_of_a_plain_search():
    means, nearest = means_and_nearest(SHAPES, np.arange(3), X, Y)
    assert means == pytest.approx(np.stack([X[Y == c].mean(axis=0) for c in range(3)]))
    for c in range(3):
        r = [np.corrcoef(SHAPES[c].ravel(), row.ravel())[0, 1] for row in X]
        assert nearest[c] == int(np.argmax(r))


def test_a_flat_picture_resembles_nothing_and_raises_nothing():
    found = inversion_measures(np.zeros((1, 4, 4)), np.array([2]), X, Y, None)
    assert found["nearest_mean"].value == 0


def test_likeness_says_how_near_the_own_class_is_and_how_near_the_others_are():
    means = np.stack([X[Y == c].mean(axis=0) for c in range(3)])
    r = np.corrcoef(np.concatenate([SHAPES, means]).reshape(6, -1))[:3, 3:]
    found = likeness(SHAPES, np.arange(3), X, Y)
    assert found["own_mean"].value == pytest.approx(np.diag(r).mean())
    assert found["other_means"].value == pytest.approx((r.sum() - np.trace(r)) / 6)
    assert found["nearest_row"].value == 1
    turned = likeness(SHAPES[[1, 2, 0]], np.arange(3), X, Y)
    assert turned["nearest_row"].value == 0
    assert turned["own_mean"].value < found["own_mean"].value


def test_no_likeness_is_said_to_lie_beyond_that_of_the_same_picture():
    half = np.stack([SHAPES[0], 0.5 * SHAPES[1] + 0.5 * SHAPES[2], SHAPES[2]])
    found = likeness(half, np.arange(3), X, Y)["own_mean"]
    assert found.value < found.high <= 1
