"""A difference between two groups of rows, compared with the same difference in models that owe nobody anything.

Rows differ in how hard they are, and the two groups may differ in that too: a test of the difference alone accuses
whoever finds one group easier. So each row is first compared with what the innocent models do on it, and the statistic
of the suspect with the statistics of the innocent models, each of which is compared with the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array

__all__ = ["Calibrated", "against"]

SURE = 0.95  # confidence of the upper bounds of the innocent statistics' mean and spread


@dataclass(frozen=True)
class Calibrated:
    """What the comparison found.

    difference, statistic  of the suspect: how much more it has on the first group than innocent models, and by Welch
    mean, spread           of an innocent model's statistic: upper bounds, and no less than 0 and 1, as theory has it
    innocent               the statistics of the innocent models; p_values, of each under the others
    """

    difference: float
    error: float
    mean: float
    spread: float
    p_value: float
    innocent: tuple[float, ...]
    p_values: tuple[float, ...]

    def needed(self, level: float, rows: int) -> float:
        """The statistic that a model with so many rows in its smaller group is convicted from."""
        from scipy.stats import t

        return float(self.mean + self.spread * t.isf(level, rows - 1))

    @property
    def statistic(self) -> float:
        return self.difference / self.error


def against(own: Array, others: Array, first: NDArray[np.bool_]) -> Calibrated:
    """own (n,) what the suspect scores on each row, others (m, n) what m >= 3 innocent models do, first (n,) the group.

    The p-value is that of Student's t for the smaller group, after the upper bounds of mean and spread.
    """
    difference, error = _welch(own - others.mean(axis=0), first)
    apart = [_welch(row - np.delete(others, j, 0).mean(axis=0), first) for j, row in enumerate(others)]
    innocent = np.array([d / e for d, e in apart])
    rows = int(min(first.sum(), (~first).sum()))
    mean, spread = _bounds(innocent)
    p_values = tuple(_p(t, *_bounds(np.delete(innocent, j)), rows) for j, t in enumerate(innocent))
    p_value = _p(difference / error, mean, spread, rows)
    return Calibrated(difference, error, mean, spread, p_value, tuple(innocent.tolist()), p_values)


def _welch(scores: Array, first: NDArray[np.bool_]) -> tuple[float, float]:
    """(difference of the means, its standard error). No smaller than 1 / n: scores that are all alike show no spread,
    and are no proof of certainty."""
    a, b = scores[first], scores[~first]
    error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    return float(a.mean() - b.mean()), max(error, 1 / len(scores))


def _bounds(statistics: Array) -> tuple[float, float]:
    """Upper bounds of mean and standard deviation, each at 95%, of what a normal sample was drawn from."""
    from scipy.stats import chi2, t

    n, deviation = len(statistics), float(statistics.std(ddof=1))
    mean = statistics.mean() + t.ppf(SURE, n - 1) * deviation / np.sqrt(n)
    spread = deviation * np.sqrt((n - 1) / chi2.ppf(1 - SURE, n - 1))
    return max(float(mean), 0.0), max(float(spread), 1.0)


def _p(statistic: float, mean: float, spread: float, rows: int) -> float:
    from scipy.stats import t

    return float(t.sf((statistic - mean) / spread, rows - 1))
