"""Statistics: every number that Portcullis reports leaves here as an Estimate, with its interval.

Clopper, Pearson. "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial",
Biometrika 26, 1934. Korn, Graubard. "Confidence Intervals for Proportions with Small Expected Number of
Positive Counts Estimated from Survey Data", Survey Methodology 24, 1998 (`clustered`).

    clopper_pearson   a proportion of independent trials: never too narrow, honest at 0 of n and n of n
    clustered         a proportion of trials that come in families (nine targets of one image, rows of one client)
    clustered_mean    a mean of values that come in families
    mean_of           a mean: Student's t;  mean_over_seeds is the same thing, counted in seeds
    median_iqr        a median with its quartiles, as papers plot it (level 0.5); infinities allowed
    bootstrap         anything else, by resampling rows

One observation shows no spread, so the interval of a mean of one value is `within`, the whole range that the value
could have had (unbounded unless the caller says otherwise). Of no values, the mean is NaN with the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array, Estimate

__all__ = [
    "ANYWHERE",
    "UNIT",
    "Range",
    "bootstrap",
    "clopper_pearson",
    "clustered",
    "clustered_mean",
    "from_draws",
    "mean_of",
    "mean_over_seeds",
    "median_iqr",
    "quantile",
]

Range = tuple[float, float]
ANYWHERE: Range = (-math.inf, math.inf)
UNIT: Range = (0.0, 1.0)


def clopper_pearson(
    successes: float,
    n: float,
    *,
    level: float = 0.95,
    unit: str = "rows",
    sided: Literal["both", "upper"] = "both",
) -> Estimate:
    """The share successes / n with its exact interval; [0, 1] around NaN when nothing was tried.

    sided   "both" leaves (1 - level) / 2 on each side: 0 of 500 is below 0.74%. "upper" bounds from above
            only, for a claim of "at most" that was decided on before looking: 0 of 500 is below 0.60%.
    """
    _check_level(level)
    if not 0 <= successes <= n:
        raise InputError(f"A share needs 0 <= successes <= n; got {successes} of {n}.")
    from scipy.special import betaincinv

    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, level=level, unit=unit)
    tail = (1 - level) / 2 if sided == "both" else 1 - level
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 and sided == "both" else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Estimate(successes / n, low, high, round(n), level=level, unit=unit)


def clustered(successes: Array, sizes: Array, *, level: float = 0.95, unit: str = "clusters") -> Estimate:
    """The share of all trials when trials of one cluster resemble each other: successes, sizes (clusters,).

    The spread between clusters says how many independent trials these are worth, at least one a cluster and
    at most all of them; the exact interval of that many is the answer. Where nothing or everything succeeded
    there is no spread to read, and a cluster counts once. `n` is the number of clusters.
    """
    mean = clustered_mean(successes, sizes, level=level, unit=unit)
    total, share = float(np.sum(sizes)), mean.value
    if mean.n == 0:
        return clopper_pearson(0, 0, level=level, unit=unit)
    worth = float(mean.n)
    if mean.n > 1 and 0 < share < 1:
        variance = _variance(*_occupied(successes, sizes))
        worth = share * (1 - share) / variance if variance > 0 else total
    worth = min(max(worth, mean.n), total)
    exact = clopper_pearson(share * worth, worth, level=level)
    return Estimate(share, exact.low, exact.high, mean.n, level=level, unit=unit)


def clustered_mean(
    sums: Array, sizes: Array, *, level: float = 0.95, unit: str = "clusters", within: Range = ANYWHERE
) -> Estimate:
    """The mean of all values when those of one cluster resemble each other: sums, sizes (clusters,).

    With clusters of one size, this is Student's t interval of the means of the clusters.
    """
    _check_level(level)
    sums, sizes = _occupied(sums, sizes)
    n = len(sizes)
    value = float(sums.sum() / sizes.sum()) if n else math.nan
    if n < 2 or not math.isfinite(value):
        return Estimate(value, *within, n, level=level, unit=unit)
    half = _student(n - 1, level) * math.sqrt(_variance(sums, sizes))
    return Estimate(value, max(value - half, within[0]), min(value + half, within[1]), n, level=level, unit=unit)


def _occupied(sums: Array, sizes: Array) -> tuple[Array, Array]:
    """The clusters that hold anything."""
    sums, sizes = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    return sums[sizes > 0], sizes[sizes > 0]


def _variance(sums: Array, sizes: Array) -> float:
    """The variance of sum(sums) / sum(sizes), read off the spread between clusters."""
    residual = sums - sums.sum() / sizes.sum() * sizes
    return float(len(sizes) / (len(sizes) - 1) * (residual @ residual) / sizes.sum() ** 2)


def _student(freedom: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def mean_of(
    values: Sequence[float] | Array, *, level: float = 0.95, unit: str = "rows", within: Range = ANYWHERE
) -> Estimate:
    """The mean with Student's t interval, cut to `within`. One NaN makes the mean NaN: nothing is dropped.

    Equal values give an interval of no width: it speaks of the spread between the values and of nothing else.
    """
    sample = np.asarray(values, np.float64)
    return clustered_mean(sample, np.ones(len(sample)), level=level, unit=unit, within=within)


def mean_over_seeds(
    values: Sequence[float] | Array, *, level: float = 0.95, within: Range = ANYWHERE, unit: str = "seeds"
) -> Estimate:
    """The mean of one figure over independent repetitions. One repetition has no interval but `within`:
    give (0, 1) for a share, and the reader sees that one seed proves nothing about the next."""
    return mean_of(values, level=level, unit=unit, within=within)


def median_iqr(values: Sequence[float] | Array, *, unit: str = "seeds") -> Estimate:
    """The median between the quartiles (level 0.5). A value may be infinite: "not within this stream"."""
    sample = np.asarray(values, np.float64)
    middle, low, high = (quantile(sample, q) for q in (0.5, 0.25, 0.75))
    return Estimate(middle, low, high, len(sample), level=0.5, unit=unit)


def quantile(values: Array, q: float) -> float:
    """The q-quantile by linear interpolation, also where values are infinite; NaN of nothing or of NaN."""
    ordered = np.sort(np.asarray(values, np.float64))
    if len(ordered) == 0 or np.isnan(ordered[-1]):
        return math.nan
    place = q * (len(ordered) - 1)
    below, above = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
    return below if below == above else below + (place - math.floor(place)) * (above - below)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    *,
    rng: np.random.Generator,
    draws: int = 500,
    level: float = 0.95,
    unit: str = "rows",
    within: Range = ANYWHERE,
) -> Estimate:
    """`statistic(rows)` of all n rows, with the percentile interval over resampled rows (with replacement)."""
    if draws < 40:
        raise ParameterError("draws", "at least 40", draws)
    if n == 0:
        return Estimate(math.nan, *within, 0, level=level, unit=unit)
    resampled = np.array([statistic(rng.integers(n, size=n)) for _ in range(draws)])
    return from_draws(statistic(np.arange(n)), resampled, n, level=level, unit=unit, within=within)


def from_draws(
    value: float, draws: Array, n: int, *, level: float = 0.95, unit: str = "rows", within: Range = ANYWHERE
) -> Estimate:
    """The value with the percentiles of its resampled draws as its interval; NaN draws are left out.

    The value itself always lies inside: resampling a small or lopsided sample can move all draws to one side.
    """
    _check_level(level)
    defined = draws[~np.isnan(draws)]
    if math.isnan(value) or len(defined) == 0:
        return Estimate(value, *within, n, level=level, unit=unit)
    low, high = (quantile(defined, q) for q in ((1 - level) / 2, (1 + level) / 2))
    return Estimate(value, min(low, value), max(high, value), n, level=level, unit=unit)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ParameterError("level", "between 0 and 1", level)
