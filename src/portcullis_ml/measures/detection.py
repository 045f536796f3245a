"""Detection: how soon a detector alarms, how many answers were given by then, and how often it alarms falsely.

Juuti, Szyller, Dmitrenko, Marchal, Asokan. "PRADA: Protecting against DNN Model Stealing Attacks",
arXiv:1805.02628v1: streams are fed in the order in which they were made; a benign stream is cut into chunks
of 50 queries, and a chunk is a false positive if it holds at least one alert.

Threat model   one stream is one account; `accounts_of` cuts a thief's stream into many (a Sybil split).
Query cost     none: recorded streams are read again.

A stream that never sets off an alarm has no delay, and leaving it out would make a detector look faster the
more it misses. Its delay counts as infinite: the median stays right while half of the streams are caught,
and is infinite, "not within these streams", when they are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.types import Answer, Array, Estimate, Request
from portcullis_ml.measures.statistics import clopper_pearson, median_iqr

__all__ = [
    "Detection",
    "accounts_of",
    "detection",
    "false_positives",
    "first_alarm",
    "run_accounts",
    "run_detector",
    "share_flagged",
]

Alarms = NDArray[np.bool_]


def run_detector(
    detector: Detector[Any], x: Array, answer: Answer, *, client: str = "client", batch: int = 256, rate: float = 1.0
) -> Array:
    """(n,) suspicions of one client's stream x (n, *input_shape) with its undefended answers, in order.

    batch  rows a request holds; the result is the same for any
    rate   queries a second, from which the time of a request follows
    """
    if len(x) != len(answer):
        raise InputError(f"A stream of {len(x)} rows needs {len(x)} undefended answers; got {len(answer)}.")
    if batch < 1:
        raise ParameterError("batch", "at least 1", batch)
    state = detector.start()
    pieces = [
        detector.update(state, Request(client, x[i : i + batch], i / rate), answer.take(slice(i, i + batch)))
        for i in range(0, len(x), batch)
    ]
    return np.concatenate(pieces) if pieces else np.empty(0)


def run_accounts(
    detector: Detector[Any],
    x: Array,
    answer: Answer,
    *,
    accounts: int,
    turns: Literal["blocks", "round_robin"] = "blocks",
    batch: int = 256,
) -> list[Alarms]:
    """The alarms in every account of a thief who spreads one stream over many: see `accounts_of`."""
    return [
        detector.alarms(run_detector(detector, x[rows], answer.take(rows), client=f"account-{i}", batch=batch))
        for i, rows in enumerate(accounts_of(len(x), accounts, turns))
    ]


def accounts_of(n: int, accounts: int, turns: Literal["blocks", "round_robin"] = "blocks") -> list[NDArray[np.int64]]:
    """The rows of each account when n rows are spread over `accounts` of them: one account after the other,
    or taking turns. Accounts that would get nothing are not opened."""
    if accounts < 1:
        raise ParameterError("accounts", "at least 1", accounts)
    rows = np.arange(n)
    split = np.array_split(rows, accounts) if turns == "blocks" else [rows[i::accounts] for i in range(accounts)]
    return [part for part in split if len(part)]


def first_alarm(alarms: Alarms) -> int | None:
    """The row (1 is the first) at which the first alarm goes off, or None. Alarms are latched from there."""
    return int(np.argmax(alarms)) + 1 if np.any(alarms) else None


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What a detector made of several attack streams; medians with quartiles, infinite where not detected.

    leaked   answers given before the first alarm, the whole stream where there is none
    longest  rows of the longest stream: an infinite delay means "not within so many"
    """

    detected: Estimate  # share of streams with an alarm
    delay: Estimate  # rows until the first alarm, that row included
    leaked: Estimate
    longest: int


def detection(streams: Sequence[Alarms]) -> Detection:
    """streams: for every repetition of an attack, (n,) whether each row is alarming, in the order asked."""
    first = [first_alarm(s) for s in streams]
    return Detection(
        detected=share_flagged(streams),
        delay=median_iqr([math.inf if row is None else row for row in first], unit="streams"),
        leaked=median_iqr(
            [len(s) if row is None else row - 1 for s, row in zip(streams, first, strict=True)], unit="streams"
        ),
        longest=max((len(s) for s in streams), default=0),
    )


def false_positives(streams: Sequence[Alarms], *, chunk: int = 50) -> Estimate:
    """The share of chunks of benign streams that hold an alarm, with the exact interval; n is the chunks.

    The interval takes chunks for independent, as the protocol does; those of one client are not, so read
    it beside `share_flagged`. A shorter chunk at a stream's end counts as one.
    """
    if chunk < 1:
        raise ParameterError("chunk", "at least 1", chunk)
    held = [bool(np.any(s[i : i + chunk])) for s in streams for i in range(0, len(s), chunk)]
    return clopper_pearson(sum(held), len(held), unit="chunks")


def share_flagged(streams: Sequence[Alarms]) -> Estimate:
    """The share of streams (clients, accounts) with at least one alarm."""
    return clopper_pearson(sum(bool(np.any(s)) for s in streams), len(streams), unit="streams")
