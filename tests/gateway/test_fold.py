"""The fold, one event at a time: a client's clock, an operator's word, and what a snapshot brings back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import SECRET
from tests.gateway.units import At

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.guard import Guard, Released
from portcullis_ml.core.types import Answer
from portcullis_ml.defenses.block import Block
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.gateway.state.events import JournalEvent
from portcullis_ml.gateway.state.fold import POINTS, SKEW_S, Failed, Fold, Stream


def fold(*stages: Any) -> tuple[Fold, Stream]:
    streams = {"c": Stream("c")}
    return Fold(Guard(*(stages or (Quota(rows=10, per=100.0),)), key=SECRET), streams), streams["c"]


def asked(folded: Fold, stream: Stream, at: float, rows: int = 1) -> Any:
    """What becomes of one request and its answer."""
    seq = stream.position = stream.position + 1
    outcome, _ = folded.apply(stream, seq, JournalEvent("admit", at, x=np.zeros((rows, 2))))
    if outcome is None:
        answer = Answer(np.zeros(rows, np.int64), np.tile([0.625, 0.375], (rows, 1)))
        outcome, _ = folded.apply(stream, 0, JournalEvent("release", of=seq, answer=answer))
    return outcome


@pytest.mark.parametrize(
    ("at", "then"),
    [
        (1_000.0 + 5, 1_005.0),
        (1_000.0 - 5, 1_000.0),  # another replica's clock is a little behind: time stands still
        (1_000.0 - SKEW_S, 1_000.0),
        (1_000.0 - SKEW_S - 1, 939.0),  # the clock was set right
    ],
)
def test_a_clients_clock_stands_still_within_the_skew_and_goes_back_beyond_it(at: float, then: float) -> None:
    folded, stream = fold()
    asked(folded, stream, 1_000.0)
    assert SKEW_S == 60.0
    seen = []
    folded.guard.admit = lambda request: seen.append(request.at)  # type: ignore[method-assign, misc, assignment]
    asked(folded, stream, at)
    assert (stream.last, seen) == (then, [then])


@pytest.mark.parametrize(("word", "blocked"), [("block", "ops"), ("unblock", ""), ("clear", "")])
def test_an_operators_word_ends_a_block_unless_it_is_one(word: str, blocked: str) -> None:
    folded, stream = fold()
    folded.apply(stream, 1, JournalEvent("block", by="first"))
    assert isinstance(asked(folded, stream, 1.0), Refused)
    folded.apply(stream, 2, JournalEvent(word, by="ops"))
    assert stream.blocked == blocked
    assert isinstance(asked(folded, stream, 2.0), Refused if blocked else Released)


def test_clear_forgets_everything_and_a_later_alarm_is_another_one() -> None:
    folded, stream = fold(Quota(rows=4, per=None), Watch(At(row=3), then=Block()))
    for at in range(3):
        asked(folded, stream, float(at))
    assert (stream.generation, len(stream.states)) == (0, 2)
    folded.apply(stream, 9, JournalEvent("clear", by="ops"))
    assert (stream.generation, stream.states, stream.curve, stream.blocked) == (1, {}, [], "")
    assert isinstance(asked(folded, stream, 9.0, rows=2), Released)


def test_unblock_begins_a_new_generation_only_where_a_stage_was_alarmed() -> None:
    folded, stream = fold(Quota(rows=9, per=None), Watch(At(row=2), then=Block()))
    folded.apply(stream, 1, JournalEvent("unblock", by="ops"))
    assert stream.generation == 0
    for at in range(2):
        asked(folded, stream, float(at))
    folded.apply(stream, 9, JournalEvent("unblock", by="ops"))
    assert (stream.generation, set(stream.states), stream.states["0-quota"].rows) == (1, {"0-quota"}, 2)


def test_what_was_reserved_is_given_back_once_and_only_to_a_request_that_waits() -> None:
    folded, stream = fold()
    folded.apply(stream, 1, JournalEvent("admit", 1.0, x=np.zeros((7, 2))))
    assert stream.states["0-quota"].rows == 7
    for _ in range(2):
        assert folded.apply(stream, 2, JournalEvent("undo", of=1)) == (None, [])
        assert (stream.states["0-quota"].rows, stream.pending) == (0, {})
    late = folded.apply(stream, 3, JournalEvent("release", of=1, answer=Answer(np.zeros(7, np.int64))))[0]
    assert isinstance(late, Failed)


def test_rows_requests_and_refusals_are_counted_by_what_became_of_them() -> None:
    folded, stream = fold(Quota(rows=5, per=None), Watch(At(row=2), then=Rounding(decimals=1)), Rounding(decimals=2))
    for rows in (1, 3, 4):  # the last is beyond the quota
        asked(folded, stream, 1.0, rows)
    assert stream.tally == {"requests": 2, "rows": 4, "altered": 3, "refused": 1}
    assert stream.decided["0-quota"] == {"changed": 0, "refused": 1}
    assert stream.decided["1-watch"] == {"changed": 3, "refused": 0}


def test_a_snapshot_brings_everything_back_but_stages_with_other_settings() -> None:
    folded, stream = fold(Quota(rows=50, per=None), Watch(At(row=20), then=Block()))
    for at in range(3):
        asked(folded, stream, float(at))
    folded.apply(stream, 77, JournalEvent("admit", 5.0, x=np.full((2, 2), 0.25)))
    folded.apply(stream, 78, JournalEvent("block", by="ops"))
    stream.generation = 3
    data = b"".join(bytes(part) for part in folded.pack(stream))
    again = Stream("c")
    folded.restore(again, folded.read(data))
    for name in ("tally", "decided", "blocked", "generation", "last", "curve", "prints"):
        assert getattr(again, name) == getattr(stream, name), name
    assert again.states["0-quota"] == stream.states["0-quota"]
    assert list(again.pending) == [77]
    np.testing.assert_array_equal(again.pending[77].x, np.full((2, 2), 0.25))
    assert (again.pending[77].client, again.pending[77].at) == ("c", 5.0)
    other, third = fold(Quota(rows=51, per=None), Watch(At(row=20), then=Block()))
    other.restore(third, other.read(data))
    assert set(third.states) == {"1-watch"}


def test_a_long_stream_keeps_a_bounded_curve_whose_points_lie_evenly() -> None:
    folded, stream = fold(Watch(At(row=10_000), then=Block()))
    for i in range(3 * POINTS):
        asked(folded, stream, float(i))
    rows = [point.rows for point in stream.curve]
    assert POINTS // 2 <= len(rows) <= POINTS
    assert rows[0] == 1
    assert len(set(np.diff(rows).tolist())) == 1
    assert stream.curve[-1].suspicions == {"0-watch": float(rows[-1])}
    assert stream.curve[-1].loudest == rows[-1]
