"""One figure of several repetitions, with the interval that report and flags go by; and the rows behind it.

It stands beside the rooms, because those that measure and the one that draws must not say two things of one figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Estimate

__all__ = ["across", "packed", "paired", "row_weights", "unpacked"]


def across(estimates: Sequence[Estimate], *, share: bool = True) -> Estimate:
    """One estimate from one per seed: the mean, with Student's t interval over the seeds.

    Never narrower than the mean of the seeds' own intervals: seeds that agree to the last digit say
    nothing about the few hundred test rows that they were all measured on. One seed stands as it is. Where the figure
    is no `share`, an interval may go above 1.
    """
    if len(estimates) == 1:
        return estimates[0]
    n = len(estimates)
    mean = sum(e.value for e in estimates) / n
    low, high = (sum(getattr(e, side) for e in estimates) / n for side in ("low", "high"))
    spread = math.sqrt(sum((e.value - mean) ** 2 for e in estimates) / (n - 1))
    half = _t(n - 1, estimates[0].level) * spread / math.sqrt(n)
    floor, ceiling = _bounds(estimates)
    ceiling = ceiling if share else math.inf
    return Estimate(
        mean,
        max(min(low, mean - half), floor),
        min(max(high, mean + half), ceiling),
        n,
        level=estimates[0].level,
        unit="seeds",
    )


def paired(differences: Array, level: float = 0.95) -> Estimate:
    """The mean of differences (seeds, rows), each of one row under one seed, with an interval over seeds and rows.

    The half width is the root of two squares: Student's t over the means of the seeds, where there are several, and the
    normal quantile over the means of the rows. Rows that all seeds share are not counted as independent.
    """
    seeds, rows = differences.shape
    mean = float(differences.mean())
    over_rows = _z(level) * float(differences.mean(axis=0).std(ddof=1)) / math.sqrt(rows) if rows > 1 else 1.0
    over_seeds = 0.0
    if seeds > 1:
        over_seeds = _t(seeds - 1, level) * float(differences.mean(axis=1).std(ddof=1)) / math.sqrt(seeds)
    half = math.hypot(over_rows, over_seeds)
    return Estimate(mean, mean - half, mean + half, seeds, level=level, unit="seeds")


def packed(right: NDArray[np.bool_]) -> str:
    """On which test rows (n,) a copy agrees, as a record says it: one bit each, in order and in hexadecimal."""
    return np.packbits(right).tobytes().hex()


def unpacked(bits: str, n: int) -> NDArray[np.bool_]:
    """(n,) what `packed` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8))[:n].astype(bool)


def row_weights(records: Iterable[Mapping[str, Any]], measure: str) -> Array | None:
    """(n,) what every test row counts in a measure that is a mean over rows; None for any other measure.

    In agreement every row counts 1. In balanced agreement every class of the victim counts alike, so that a row of a
    rare class counts more; the weights' mean is 1. The victim's classes are in the record of the control no_api.
    """
    for r in records:
        labels = np.asarray((r.get("notes") or {}).get("victim") or (), np.int64)
        if measure == "balanced_agreement" and len(labels):
            _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
            return np.asarray(len(labels) / (len(counts) * counts[place]), np.float64)
        e = (r.get("measures") or {}).get("agreement")
        if measure == "agreement" and e and (r.get("notes") or {}).get("right"):
            return np.ones(int(e["n"]))
    return None


def _bounds(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Bounds of the mean: 0 if no estimate reaches below it, 1 if none reaches above it; else infinite."""
    floor = 0.0 if all(e.low >= 0 for e in estimates) else -math.inf
    return floor, 1.0 if all(e.high <= 1 for e in estimates) else math.inf


def _t(freedom: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2))


def _z(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2))
