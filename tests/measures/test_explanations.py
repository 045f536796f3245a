"""Average drop and the order of places, worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array
from portcullis_ml.measures.explanations import average_drop, order_kept, shown_alone

X = np.arange(1.0, 9.0).reshape(2, 2, 2)


class Brightness:
    """Class 1 is the mean of a picture, over 10."""

    input_shape, n_classes = (2, 2), 2

    def scores(self, x: Array) -> Array:
        mean = x.reshape(len(x), -1).mean(axis=1) / 10
        return np.stack([1 - mean, mean], axis=1)


def test_the_drop_is_the_share_of_the_score_that_the_top_places_do_not_hold() -> None:
    """Of 1 2 3 4 the two greatest hold 7/10, of 5 6 7 8 they hold 15/26."""
    found = average_drop(Brightness(), X, np.array([1, 1]), X, share=0.5)
    assert (found.value, found.n) == (pytest.approx((3 / 10 + 11 / 26) / 2), 2)


def test_a_score_that_rises_counts_below_0_or_not_at_all() -> None:
    """Class 0 is 0.75 and 0.35; with half hidden 0.825 and 0.625."""
    rise = np.array([-0.075 / 0.75, -0.275 / 0.35])
    assert average_drop(Brightness(), X, np.array([0, 0]), X).value == pytest.approx(rise.mean())
    assert average_drop(Brightness(), X, np.array([0, 0]), X, positive=True).value == 0


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (3, 8, 12)])
def test_a_map_is_laid_over_the_picture(shape: tuple[int, ...]) -> None:
    maps = np.array([[[0.0, 3.0], [1.0, 2.0]]])
    kept = shown_alone(np.ones((1, *shape)), maps, share=0.25)[0]
    height, breadth = (8, 12) if shape[0] == 3 else (4, 6)
    plane = kept[0] if shape[0] == 3 else kept[..., 0] if len(shape) == 3 else kept
    wanted = np.zeros((height, breadth))
    wanted[: height // 2, breadth // 2 :] = 1
    np.testing.assert_array_equal(plane, wanted)
    assert kept.sum() == wanted.sum() * (kept.size / wanted.size)


def test_the_order_is_compared_by_ranks() -> None:
    rows = np.array([[1.0, 2, 3], [1, 2, 3], [5, 5, 5]])
    assert order_kept(rows, np.array([[10.0, 20, 900], [3, 2, 1], [1, 2, 3]])).value == pytest.approx(0.0)
    assert order_kept(rows[:2], rows[:2] * 7).value == pytest.approx(1.0)


def test_what_cannot_be_compared_is_said_to_be_so() -> None:
    with pytest.raises(ParameterError, match="share must be a number above 0 and at most 1"):
        average_drop(Brightness(), X, np.array([1, 1]), X, share=0.0)
    with pytest.raises(InputError, match="a class and an explanation for each of some rows"):
        average_drop(Brightness(), X, np.array([1]), X)
    with pytest.raises(InputError, match=r"must have that shape or be maps \(h, w\); got"):
        average_drop(Brightness(), X, np.array([1, 1]), np.zeros((2, 7)))
