"""Who was trained on: how well suspicions tell members of the training set from others.

Carlini, Chien, Nasr, Song, Terzis, Tramèr. "Membership Inference Attacks From First Principles", IEEE S&P 2022,
section 3: the rate of members found at a low rate of false accusations says more than an average.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Estimate
from portcullis_ml.measures.statistics import clopper_pearson

__all__ = ["RATES", "area_under_curve", "members_found", "membership_measures"]

RATES = {"tpr_at_1_percent": 0.01, "tpr_at_0.1_percent": 0.001}  # the false positive rates that are read off


def membership_measures(suspicion: Array, member: NDArray[np.bool_]) -> dict[str, Estimate]:
    """Measures of suspicions (n,), NaN where the attack said nothing; `member` (n,) is the truth.

    A false positive rate is read off only where there are non-members enough to see one of it.
    """
    if len(suspicion) != len(member) or member.all() or not member.any():
        raise InputError(
            f"Membership needs a suspicion for every candidate, members and non-members; got {len(suspicion)} "
            f"suspicions, {int(member.sum())} members and {int((~member).sum())} non-members."
        )
    heard = np.where(np.isnan(suspicion), -np.inf, suspicion)
    rates = {name: rate for name, rate in RATES.items() if (~member).sum() * rate >= 1}
    found = {name: members_found(heard, member, rate) for name, rate in rates.items()}
    return {"auc": area_under_curve(heard, member), **found}


def members_found(suspicion: Array, member: NDArray[np.bool_], rate: float) -> Estimate:
    """The share of members above the lowest threshold that at most `rate` of the non-members pass, with its exact
    interval over members; the threshold is taken as given."""
    others = np.sort(suspicion[~member])
    threshold = others[len(others) - 1 - math.floor(rate * len(others))]
    return clopper_pearson(int((suspicion[member] > threshold).sum()), int(member.sum()), unit="members")


def area_under_curve(suspicion: Array, member: NDArray[np.bool_]) -> Estimate:
    """The chance that a member is more suspected than another row, ties counting half.

    Interval: DeLong, DeLong, Clarke-Pearson, Biometrics 1988, within [0, 1].
    """
    from scipy.stats import rankdata

    ours, others = suspicion[member], suspicion[~member]
    rank = rankdata(suspicion)
    above = (rank[member] - rankdata(ours)) / len(others)  # of each member: the share of others that it exceeds
    below = 1 - (rank[~member] - rankdata(others)) / len(ours)
    value = float(above.mean())
    spread = math.sqrt(_variance(above) + _variance(below))
    low, high = max(value - 1.959964 * spread, 0.0), min(value + 1.959964 * spread, 1.0)
    return Estimate(value, low, high, len(suspicion), unit="candidates")


def _variance(placements: Array) -> float:
    """Of the mean of these placements."""
    return float(placements.var(ddof=1)) / len(placements) if len(placements) > 1 else 0.25
