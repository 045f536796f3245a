"""Numbers with their intervals, written for people."""

from __future__ import annotations

from collections.abc import Iterable

from portcullis_ml.core.types import Estimate

__all__ = ["clearly_below", "count", "duration", "listed", "percent", "points", "span"]


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


def listed(names: Iterable[str], word: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    all_ = list(names)
    return f" {word} ".join([", ".join(all_[:-1]), all_[-1]] if len(all_) > 1 else all_)


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


def _round(value: float, digits: int) -> str:
    """Rounded, with a true minus sign and never a "-0"."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−").replace("inf", "∞")


def _plain(value: float) -> str:
    return f"{value:.3g}".replace("-", "−").replace("inf", "∞")
