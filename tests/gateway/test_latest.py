"""What the dashboard keeps of answers: one row each, and how it is told in words."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.guard import Released
from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.state.latest import latest_of, words

NAN = float("nan")


def answer(labels: list[int] | None, scores: list[list[float]] | None) -> Answer:
    return Answer(None if labels is None else np.array(labels), None if scores is None else np.array(scores))


@pytest.mark.parametrize(
    ("given", "names", "said"),
    [
        (answer([1], [[0.1, 0.7, 0.15, 0.05]]), (), "1 (1: 0.7, 2: 0.15, 0: 0.1)"),
        (answer([1], [[0.25, 0.75]]), ("cat", "dog"), "dog (dog: 0.75, cat: 0.25)"),
        (answer([0], [[NAN, 0.75]]), (), "0 (1: 0.75)"),
        (answer([0], [[NAN, NAN]]), ("cat", "dog"), "cat, without scores"),
        (answer([0], None), (), "0, without scores"),
        (answer([-1], [[NAN, NAN]]), (), "withheld"),
        (answer(None, [[1.25]]), (), "1.25"),
        (answer(None, [[1.0, 2.0, 3.0, 4.0]]), (), "1, 2, 3, ..."),
        (answer(None, [[NAN]]), (), "withheld"),
    ],
)
def test_words(given: Answer, names: tuple[str, ...], said: str) -> None:
    assert words(given, names) == said


def test_the_first_row_that_was_changed_for_this_client_is_kept() -> None:
    clean = answer([0, 1, 2], np.eye(3).tolist())
    after = answer([0, 0, 0], [[1.0, 0, 0]] * 3)
    changed = np.array([False, True, True])
    held = latest_of(7.0, clean, Released(after, changed, by_stage={"0-noise": changed}))
    assert (held.at, held.rows, len(held.before), len(held.after)) == (7.0, 3, 1, 1)
    assert (words(held.before, ()), words(held.after, ())) == ("1 (1: 1, 0: 0, 2: 0)", "0 (0: 1, 1: 0, 2: 0)")
    held = latest_of(7.0, clean, Released(clean, changed))
    assert words(held.before, ()).startswith("0 ")
