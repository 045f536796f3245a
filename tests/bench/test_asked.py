"""The note with pictures of what a thief asked."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from portcullis_ml.bench.asked import asked_note
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.types import Answer, Array, Interface
from portcullis_ml.models.softmax import SoftmaxRegression

COPY = SoftmaxRegression(np.zeros((3, 4)), np.zeros(3))


def stolen(x: Array, labels: list[int], scores: Array | None = None) -> Extraction:
    return Extraction(COPY, x, Answer(np.array(labels), scores), len(x))


def pixels(row: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(row), np.uint8)


def test_each_part_shows_the_first_row_of_every_answered_class():
    x = np.arange(8 * 6).reshape(8, 2, 3) / 47
    note = asked_note(stolen(x, [0, 2, 2, 2, 0, 0, 1, -1]), Interface(input_shape=(2, 3), n_classes=4))
    assert note is not None
    assert note["shape"] == [2, 3]
    assert [(part["first"], part["last"]) for part in note["rounds"]] == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert [set(part["pictures"]) for part in note["rounds"]] == [{0, 2}, {2}, {0}, {1}]
    assert note["rounds"][1]["counts"] == {0: 0, 1: 0, 2: 2, 3: 0}
    np.testing.assert_array_equal(pixels(note["rounds"][1]["pictures"][2]), (255 * x[2]).round().ravel())
    assert note["surest"] == []


def test_the_surest_row_of_each_class_comes_first():
    scores = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [np.nan, np.nan]])
    x = np.eye(4).reshape(4, 2, 2)
    note = asked_note(stolen(x, [0, 0, 1, -1], scores), Interface(input_shape=(2, 2), n_classes=2))
    assert note is not None
    assert [(s["class"], s["score"]) for s in note["surest"]] == [(0, 0.9), (1, 0.7)]
    np.testing.assert_array_equal(pixels(note["surest"][0]["row"]), 255 * x[1].ravel())


@pytest.mark.parametrize(
    ("shape", "shown"), [((3, 64, 64), [32, 32, 3]), ((100, 80), [25, 20]), ((32, 32, 3), [32, 32, 3])]
)
def test_pictures_are_thinned_and_their_channels_come_last(shape, shown):
    interface = Interface(input_shape=shape, n_classes=2, bounds=(-1.0, 1.0))
    note = asked_note(stolen(interface.uniform(1, np.random.default_rng(0)), [1]), interface)
    assert note is not None
    assert note["shape"] == shown
    assert len(pixels(note["rounds"][0]["pictures"][1])) == np.prod(shown)


def test_of_many_classes_the_most_frequent_are_shown():
    labels = [c for c in range(20) for _ in range(c + 1)]
    note = asked_note(stolen(np.zeros((len(labels), 2, 2)), labels), Interface(input_shape=(2, 2), n_classes=20))
    assert note is not None
    assert list(note["rounds"][0]["counts"]) == list(range(8, 20))


def test_tables_have_no_pictures():
    assert asked_note(stolen(np.zeros((2, 4)), [0, 1]), Interface(input_shape=(4,), n_classes=2)) is None
    assert asked_note(stolen(np.zeros((1, 2, 2)), [-1]), Interface(input_shape=(2, 2), n_classes=2)) is None
