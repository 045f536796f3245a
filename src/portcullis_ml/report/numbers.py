"""Numbers with their intervals: combined over seeds, and written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from portcullis_ml.core.types import Array, Estimate

__all__ = ["across", "clearly_below", "count", "duration", "paired", "percent", "points", "span"]


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


def clearly_below(lower: Estimate, higher: Estimate) -> bool:
    """Whether the first interval ends before the second begins."""
    return lower.high < higher.low


def percent(e: Estimate, digits: int = 0) -> str:
    """ "84% [81, 87]" for a fraction; the plain number for anything else."""
    value = f"{_round(100 * e.value, digits)}%" if _fraction(e) else _plain(e.value)
    return f"{value} {span(e, digits)}"


def span(e: Estimate, digits: int = 0) -> str:
    """ "[81, 87]", with a no-break space, so that no line ends inside."""
    low, high = (_round(100 * v, digits) if _fraction(e) else _plain(v) for v in (e.low, e.high))
    return f"[{low},\N{NO-BREAK SPACE}{high}]"


def points(e: Estimate) -> str:
    """A difference of fractions in points: "0.3 points [0.1, 0.6]"."""
    value = _round(100 * e.value, 1)
    return f"{value} point{'s' * (value != '1.0')} {span(e, 1)}"


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
    """Whether this reads best as a percentage: a share, or a ratio near to one."""
    return abs(e.value) <= 10


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


def _round(value: float, digits: int) -> str:
    """Rounded, with a true minus sign and never a "-0"."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−").replace("inf", "∞")


def _plain(value: float) -> str:
    return f"{value:.3g}".replace("-", "−").replace("inf", "∞")
