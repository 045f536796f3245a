"""A client's latest answers, before and after the guard, for the dashboard: one row of each request, and of the inputs
nothing. They are in memory only, and as many as `KEPT`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from portcullis_ml.core.guard import Released
from portcullis_ml.core.types import Answer

__all__ = ["KEPT", "Latest", "latest_of", "singled_out", "words"]

KEPT = 8
SHOWN = 3  # scores of a row


class Latest(NamedTuple):
    """One row of an answer: the first that was changed for this client, or the request's first."""

    at: float
    rows: int  # of the request
    before: Answer
    after: Answer  # behind the guard's stages


def singled_out(released: Released) -> int:
    """How many rows got something else than everybody gets."""
    masks = list(released.by_stage.values())
    return int(np.logical_or.reduce(masks).sum()) if masks else 0


def latest_of(at: float, clean: Answer, released: Released) -> Latest:
    """What is kept of an answer that the guard has just released."""
    masks = list(released.by_stage.values())
    first = int(np.logical_or.reduce(masks).argmax()) if masks else 0
    row = slice(first, first + 1)
    return Latest(at, len(clean), *(Answer(a.labels, a.scores).take(row) for a in (clean, released.answer)))


def words(answer: Answer, names: Sequence[str | int]) -> str:
    """One row of an answer: "7 (7: 0.981, 1: 0.012, 3: 0.004)", or of numbers "0.25, 1.5"."""
    scores = None if answer.scores is None else answer.scores[0]
    if answer.labels is None:
        return "withheld" if scores is None or np.isnan(scores).all() else _numbers(scores)
    label = int(answer.labels[0])
    if label < 0:
        return "withheld"
    called = _called(label, names)
    if scores is None or np.isnan(scores).all():
        return f"{called}, without scores"
    known = [k for k in np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable") if not np.isnan(scores[k])]
    best = ", ".join(f"{_called(int(k), names)}: {scores[k]:.3g}" for k in known[:SHOWN])
    return f"{called} ({best})"


def _numbers(scores: np.ndarray) -> str:
    more = ", ..." if len(scores) > SHOWN else ""
    return ", ".join(f"{value:.4g}" for value in scores[:SHOWN].tolist()) + more


def _called(k: int, names: Sequence[str | int]) -> str:
    return str(names[k]) if names else str(k)
