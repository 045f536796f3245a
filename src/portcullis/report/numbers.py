"""Numbers with their intervals: drawn together over seeds, and written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from portcullis.core.types import Estimate

__all__ = ["across", "apart", "count", "duration", "percent", "points", "span"]


def across(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate from one per seed: the mean, with Student's t interval over the seeds.

    Never narrower than the mean of the seeds' own intervals: seeds that agree to the last digit say
    nothing about the few hundred test rows that they were all measured on. One seed stands as it is.
    """
    if len(estimates) == 1:
        return estimates[0]
    n = len(estimates)
    mean = sum(e.value for e in estimates) / n
    low, high = (sum(getattr(e, side) for e in estimates) / n for side in ("low", "high"))
    spread = math.sqrt(sum((e.value - mean) ** 2 for e in estimates) / (n - 1))
    half = _t(n - 1, estimates[0].level) * spread / math.sqrt(n)
    floor, ceiling = _bounds(estimates)
    return Estimate(
        mean,
        max(min(low, mean - half), floor),
        min(max(high, mean + half), ceiling),
        n,
        level=estimates[0].level,
        unit="seeds",
    )


def apart(lower: Estimate, higher: Estimate) -> bool:
    """Whether the intervals do not touch, and in this order."""
    return lower.high < higher.low


def percent(e: Estimate, digits: int = 0) -> str:
    """ "84% [81, 87]" for a fraction; the plain number for anything else."""
    if not _fraction(e):
        return f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]"
    return f"{100 * e.value:.{digits}f}% {span(e, digits)}"


def span(e: Estimate, digits: int = 0) -> str:
    """ "[81, 87]"."""
    if not _fraction(e):
        return f"[{e.low:.3g}, {e.high:.3g}]"
    return f"[{100 * e.low:.{digits}f}, {100 * e.high:.{digits}f}]".replace("-0]", "0]").replace("[-0,", "[0,")


def points(e: Estimate) -> str:
    """A difference of fractions in points: "0.3 points [0.1, 0.6]"."""
    value, low, high = (round(100 * v, 1) + 0.0 for v in (e.value, e.low, e.high))
    return f"{value:.1f} point{'s' * (value != 1)} [{low:.1f}, {high:.1f}]"


def count(n: float, noun: str) -> str:
    """ "1 query", "1,600 queries"."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{n:,.0f} {noun if n == 1 else plural}"


def duration(seconds: float) -> str:
    """ "41 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _fraction(e: Estimate) -> bool:
    return -1.0 <= e.low and e.high <= 1.0 + 1e-9


def _bounds(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """A mean of fractions is a fraction."""
    inside = all(0.0 <= e.value <= 1.0 for e in estimates)
    return (0.0, 1.0) if inside else (-math.inf, math.inf)


def _t(freedom: int, level: float) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + level / 2, freedom))
