"""Low confidence: the share of doubtful rows, window by window."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.types import Answer, Request
from portcullis_ml.detectors.low_confidence import LowConfidence


def test_the_share_of_doubtful_rows_of_every_window() -> None:
    top = np.random.default_rng(0).uniform(0.34, 1, 95)
    scores = np.column_stack([top, (1 - top) / 2, (1 - top) / 2])
    detector = LowConfidence(below=0.6, window=20)
    state = detector.start()
    suspicion = detector.update(state, Request("a", np.zeros((95, 1))), Answer(np.zeros(95, np.int64), scores))
    assert np.isnan(suspicion[:19]).all()
    for start in (0, 20, 40, 60):
        by_hand = sum(t < 0.6 for t in top[start : start + 20].tolist()) / 20
        assert (suspicion[start + 19 : start + 39] == by_hand).all()
    assert (state.rows, state.doubtful) == (15, sum(t < 0.6 for t in top[80:].tolist()))
    assert detector.suspicion(state) == suspicion[-1]


def test_the_border_is_not_doubtful_and_what_is_no_number_is() -> None:
    detector = LowConfidence(below=0.5, window=2)
    for row, expected in ([0.5, 0.5], 0.0), ([np.nan, np.nan], 1.0):
        answer = Answer(np.zeros(2, np.int64), np.array([row, row]))
        assert detector.update(detector.start(), Request("a", np.zeros((2, 1))), answer)[1] == expected


def test_wrong_input_is_a_sentence() -> None:
    detector = LowConfidence()
    with pytest.raises(NotApplicable, match="low_confidence needs a model that gives probabilities"):
        detector.update(detector.start(), Request("a", np.zeros((2, 1))), Answer(np.zeros(2, np.int64)))
    with pytest.raises(ParameterError, match=r"LowConfidence\.below must be in \(0, 1\]; got 0"):
        LowConfidence(below=0)
