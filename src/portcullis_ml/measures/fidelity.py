"""Fidelity beyond agreement: what a copy keeps of its victim's rare classes, of its ranking and of its confidence.

Brodersen, Ong, Stephan, Buhmann. "The Balanced Accuracy and Its Posterior Distribution", ICPR 2010 (balanced
agreement); Bonett, Wright. "Sample Size Requirements for Estimating Pearson, Kendall and Spearman Correlations",
Psychometrika 65, 2000 (interval of a rank correlation); Hanley, McNeil. "The Meaning and Use of the Area under a ROC
Curve", Radiology 143, 1982; Zou, Donner. "Construction of Confidence Limits about Effect Measures", Statistics in
Medicine 27, 2008 (limits of a mean from the limits of its parts); Guo et al., ICML 2017 (calibration error).

Threat model   none: the examiner holds both models and the true labels.
Query cost     none.

Where nearly all rows have one class, whoever answers that class always agrees on nearly all rows. A bank that ranks its
customers loses its ranking all the same. So a copy is also graded class by class, and by the order that it gives rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Answer, Array, Estimate, Labels
from portcullis_ml.measures.agreement import DRAWS, macro_f
from portcullis_ml.measures.statistics import UNIT, clopper_pearson, from_draws
from portcullis_ml.measures.utility import calibration_error

__all__ = ["auc_agreement", "balanced_agreement", "class_f", "fidelity", "rank_correlation", "rarest"]

SURE = 1 - 1e-9  # of a correlation of 1 Fisher's transform is infinite


def fidelity(victim: Array, copy: Array, true: Labels | None, *, rng: np.random.Generator) -> dict[str, Estimate]:
    """Every figure of this file for the scores (n, n_classes) of a victim and its copy, by name; NaN where it would
    mean nothing. Those that need the true labels (n,) are left out without them."""
    c = victim.shape[1]
    f, g = victim.argmax(axis=1), copy.argmax(axis=1)
    said = np.where(np.isnan(copy), -np.inf, copy)  # a row that the copy does not score comes last
    found = {
        "balanced_agreement": balanced_agreement(f, g, c),
        "minority_f_agreement": class_f(f, g, rarest(f, c), rng=rng),
        "rank_correlation": rank_correlation(victim, said),
        "auc_agreement": auc_agreement(f, said),
    }
    if true is None or not len(true):
        return found
    return found | {
        "macro_f": macro_f(true, g, c, rng=rng),
        "minority_f": class_f(true, g, rarest(true, c), rng=rng),
        "calibration_error": calibration_error([Answer(g, copy)], [true], rng=rng),
    }


def balanced_agreement(f: Labels, g: Labels, n_classes: int) -> Estimate:
    """The mean over the classes that f gives of the share of their rows on which g agrees; labels (n,).

    The interval is made of the classes' exact ones, so that three rows without an error do not pass for certainty.
    """
    shares = [clopper_pearson(int((g[f == c] == c).sum()), int((f == c).sum())) for c in np.unique(f)]
    if not shares:
        return Estimate(math.nan, *UNIT, 0, unit="rows")
    value = sum(e.value for e in shares) / len(shares)
    below = math.hypot(*(e.value - e.low for e in shares)) / len(shares)
    above = math.hypot(*(e.high - e.value for e in shares)) / len(shares)
    return Estimate(value, max(0.0, value - below), min(1.0, value + above), len(f), unit="rows")


def rarest(labels: Labels, n_classes: int) -> int:
    """The class that is given to the fewest rows of those that are given to any; the first of several."""
    counts = np.bincount(labels, minlength=n_classes)
    return int(np.where(counts > 0, counts, counts.max(initial=0) + 1).argmin())


def class_f(f: Labels, g: Labels, c: int, *, rng: np.random.Generator, draws: int = DRAWS) -> Estimate:
    """The F score 2 TP / (2 TP + FP + FN) of one class, with f's labels (n,) as truth; NaN where nobody gives it."""
    hits, wrong, missed = ((f == c) & (g == c)).sum(), ((f != c) & (g == c)).sum(), ((f == c) & (g != c)).sum()
    counts = np.array([hits, wrong, missed, len(f) - hits - wrong - missed])
    if hits + wrong + missed == 0:
        return Estimate(math.nan, *UNIT, len(f), unit="rows")
    drawn = rng.multinomial(len(f), counts / len(f), size=draws)
    seen = 2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2]
    resampled = 2 * drawn[seen > 0, 0] / seen[seen > 0]
    return from_draws(float(2 * hits / (2 * hits + wrong + missed)), resampled, len(f), within=UNIT)


def rank_correlation(f: Array, g: Array) -> Estimate:
    """Spearman's correlation of two score arrays (n, n_classes), the mean over the classes whose scores vary in f.

    Two classes count as one, since their scores add up to 1. A class to which g gives one score everywhere has 0:
    no row is put before another. The interval is Fisher's, and the mean of the classes' own.
    """
    columns = range(1, 2) if f.shape[1] == 2 else range(f.shape[1])
    found = [_spearman(f[:, c], g[:, c]) for c in columns if np.ptp(f[:, c]) > 0] if len(f) else []
    if not found:
        return Estimate(math.nan, -1.0, 1.0, len(f), unit="rows")
    return _mean(found, len(f))


def auc_agreement(f: Labels, g: Array) -> Estimate:
    """The area under the curve of g's scores (n, n_classes), with f's labels (n,) as truth: how often a row that f puts
    into a class has a higher score than one that it does not; the mean over the classes, one against the rest.

    The interval is that of a share of as many independent pairs as Hanley and McNeil's variance leaves, never more than
    there are rows; where every pair is in order, as many as the smaller side has rows.
    """
    columns = range(1, 2) if g.shape[1] == 2 else range(g.shape[1])
    found = [_auc(f == c, g[:, c]) for c in columns if 0 < (f == c).sum() < len(f)]
    return _mean(found, len(f)) if found else Estimate(math.nan, *UNIT, len(f), unit="rows")


def _spearman(f: Array, g: Array) -> tuple[float, float, float]:
    """(value, low, high) for two columns (n,); ties share their mean rank."""
    one, other = _ranks(f), _ranks(g)
    spread = float(np.sqrt((one @ one) * (other @ other)))
    r = float(one @ other) / spread if spread > 0 else 0.0
    if len(f) < 4:
        return r, -1.0, 1.0
    z, half = math.atanh(max(-SURE, min(SURE, r))), 1.96 * math.sqrt((1 + r * r / 2) / (len(f) - 3))
    return r, min(r, math.tanh(z - half)), max(r, math.tanh(z + half))


def _ranks(values: Array) -> Array:
    """(n,) ranks around their mean."""
    from scipy.stats import rankdata

    ranks: Array = np.asarray(rankdata(values), np.float64)
    return ranks - (len(ranks) + 1) / 2


def _auc(positive: NDArray[np.bool_], scores: Array) -> tuple[float, float, float]:
    from scipy.stats import rankdata

    n1, n0 = int(positive.sum()), int((~positive).sum())
    a = (float(rankdata(scores)[positive].sum()) - n1 * (n1 + 1) / 2) / (n1 * n0)
    fewest, worth = float(min(n1, n0)), 0.0
    if 0 < a < 1:
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
        variance = (a * (1 - a) + (n1 - 1) * (q1 - a * a) + (n0 - 1) * (q2 - a * a)) / (n1 * n0)
        worth = min(a * (1 - a) / variance, n1 + n0)
    worth = max(1.0, worth or fewest)
    exact = clopper_pearson(a * worth, worth)
    return a, exact.low, exact.high


def _mean(parts: list[tuple[float, float, float]], n: int) -> Estimate:
    value, low, high = (sum(part) / len(parts) for part in zip(*parts, strict=True))
    return Estimate(value, low, high, n, unit="rows")
