"""Calibration: a detector's threshold from benign clients, at a stated rate of false alarms per client and day.

Bates, Angelopoulos, Lei, Malik, Jordan. "Distribution-Free, Risk-Controlling Prediction Sets", Journal of the ACM 68,
2021: the lowest threshold at which an upper bound of the risk is still within what was asked for.

The risk is the chance that an honest client is called on a given day: the share of a client's days (in UTC) on which
their greatest suspicion is above the threshold, as a mean over clients. A client counts once, however busy, because
what one client asks today resembles what they asked yesterday. Days on which a detector reached no verdict on a client
do not count: nobody can be called on them, and they would make any threshold look good.

Threat model   none: every client here is taken for honest. A thief among them raises the threshold.
Query cost     none: recorded streams are read again.

The threshold is set on one part of the clients, with the exact one-sided bound for as many trials as there are
clients; the figures come from the others (`statistics.clustered`, which widens where clients differ). Clients must
resemble those to come. A suspicion that never falls, as of `coverage`, is only known for as many days as were recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.types import Answer, Array, Estimate, Request
from portcullis_ml.measures.statistics import clopper_pearson, clustered

__all__ = ["Calibration", "ClientStream", "calibrate", "called", "clients_needed", "greatest_by_day", "threshold_for"]

DAY = 86_400.0
BATCH = 256


@dataclass(frozen=True)
class ClientStream:
    """What one client asked: x (n, *input_shape), at (n,) seconds since 1970 in order, undefended answers (n)."""

    client: str
    x: Array
    at: Array
    answer: Answer


@dataclass(frozen=True)
class Calibration:
    """A threshold, and what it and the one before it do to clients who were not used to choose it."""

    threshold: float
    before: float
    chosen_on: int  # clients
    held_out: Estimate  # clients called a day at `threshold`; n is the clients
    held_out_before: Estimate  # and at `before`
    client_days: int  # of the held-out clients


def greatest_by_day(detector: Detector[Any], stream: ClientStream) -> Array:
    """(days,) the greatest suspicion on each day on which there was a verdict. The state goes on from day to day."""
    state, days = detector.start(), np.floor(stream.at / DAY)
    found = []
    for day in np.unique(days):
        rows = np.flatnonzero(days == day)
        parts = [
            detector.update(state, Request(stream.client, stream.x[part], float(stream.at[part[0]])),
                            stream.answer.take(part))
            for part in np.array_split(rows, math.ceil(len(rows) / BATCH))
        ]  # fmt: skip
        suspicion = np.concatenate(parts)
        if not np.isnan(suspicion).all():
            found.append(float(np.nanmax(suspicion)))
    return np.array(found)


def clients_needed(rate: float, level: float = 0.95) -> int:
    """How many clients it takes for an upper bound of `rate` at this level, where not one of them is called."""
    if not 0 < rate < 1:
        raise ParameterError("rate", "a share of clients a day, between 0 and 1", rate)
    return math.ceil(math.log(1 - level) / math.log(1 - rate))


def called(days: Sequence[Array], threshold: float, level: float = 0.95) -> Estimate:
    """The mean share of a client's days on which they are called, of clients whose greatest suspicions these are."""
    shares = np.array([(greatest > threshold).mean() for greatest in days])
    each = float(np.mean([len(greatest) for greatest in days])) if days else 0.0
    return clustered(shares * each, np.full(len(shares), each), level=level, unit="clients")


def threshold_for(days: Sequence[Array], rate: float, level: float = 0.95) -> float:
    """The lowest threshold at which the rate's upper bound over these clients is at most `rate`.

    InputError where there are too few of them for such a bound.
    """
    needed = clients_needed(rate, level)
    if len(days) < needed:
        reach = f"ask for {_reachable(len(days), level):.2g} with those, or " if len(days) > 2 else ""
        raise InputError(
            f"A rate of {rate:g} a client and day needs {needed:,} clients to set a threshold on and as many to check "
            f"it with, each with a verdict; there are {len(days):,} and as many. Please {reach}record for longer."
        )

    def within(threshold: float) -> bool:
        shares = [float((greatest > threshold).mean()) for greatest in days]
        return clopper_pearson(sum(shares), len(shares), level=level, sided="upper").high <= rate

    candidates = np.unique(np.concatenate(days))
    low, high = 0, len(candidates) - 1  # at the last nobody is called, so it is within the rate
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if within(float(candidates[middle])) else (middle + 1, high)
    return _rounded_up(float(candidates[low]))


def calibrate(
    detector: Detector[Any],
    streams: Sequence[ClientStream],
    *,
    rate: float,
    rng: np.random.Generator,
    level: float = 0.95,
    told: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """A threshold at this rate from a half of the clients, and what it does to the other half.

    detector   bound to the model's interface
    told       called with how many streams have been read, after each
    """
    days = []
    for done, stream in enumerate(streams, 1):
        greatest = greatest_by_day(detector, stream)
        if len(greatest):
            days.append(greatest)
        told(done)
    order = rng.permutation(len(days))
    chosen_on, held_out = ([days[i] for i in half] for half in (order[::2], order[1::2]))
    if len(held_out) < clients_needed(rate, level):
        chosen_on = held_out  # the error names the smaller half
    threshold = _allowed(detector, threshold_for(chosen_on, rate, level), rate)
    return Calibration(
        threshold, detector.threshold, len(chosen_on), called(held_out, threshold, level),
        called(held_out, detector.threshold, level), sum(map(len, held_out)),
    )  # fmt: skip


def _allowed(detector: Detector[Any], threshold: float, rate: float) -> float:
    """The threshold, or the one before where that is higher and this one is below what the detector takes."""
    try:
        replace(detector, threshold=threshold)  # type: ignore[type-var]
    except ParameterError as error:
        if threshold < detector.threshold:
            return detector.threshold
        raise InputError(
            f"{detector.name} cannot be set to {rate:g} a client and day, since honest clients reach a suspicion of "
            f"{threshold:g}: {error} Leave it out, or ask for a higher rate."
        ) from error
    return threshold


def _reachable(n: int, level: float) -> float:
    """The lowest rate that n clients can show, rounded up to two digits."""
    return _rounded_up(1 - (1 - level) ** (1 / n), 2)


def _rounded_up(value: float, digits: int = 4) -> float:
    """The least number of so many digits that is not below `value`."""
    if value == 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    found = float(f"{math.ceil(value / unit) * unit:.{digits}g}")
    return found if found >= value else float(f"{found + unit:.{digits}g}")
