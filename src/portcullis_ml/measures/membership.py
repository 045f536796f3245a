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

__all__ = [
    "PRIORS",
    "RATES",
    "area_under_curve",
    "balanced_accuracy",
    "members_found",
    "membership_measures",
    "needed_for",
    "precision_of_top",
    "predictive_value",
    "rate_name",
]

RATES = {"tpr_at_1_percent": 0.01, "tpr_at_0.1_percent": 0.001}  # the false positive rates that are read off
PRIORS = {"ppv_at_prior_1_percent": 0.01, "ppv_at_prior_10_percent": 0.1}  # shares of members among those asked about
TOP = 100  # candidates, the most suspected
SPLIT = 40  # candidates of each kind, at least, for a threshold that is set on other rows than it is judged on


def membership_measures(suspicion: Array, member: NDArray[np.bool_]) -> dict[str, Estimate]:
    """Measures of suspicions (n,), NaN where the attack said nothing; `member` (n,) is the truth. Averages come last.

    A false positive rate is read off only where there are non-members enough to see one of it. The predictive values
    are those of the threshold that at most 1% of the non-members pass.
    """
    heard = _heard(suspicion, member)
    rates = {name: rate for name, rate in RATES.items() if (~member).sum() >= needed_for(rate)}
    found = {name: members_found(heard, member, rate) for name, rate in rates.items()}
    found |= {name: predictive_value(heard, member, RATES["tpr_at_1_percent"], p) for name, p in PRIORS.items()}
    if min(member.sum(), (~member).sum()) >= TOP:
        found["precision_of_top_100"] = precision_of_top(heard, member, TOP)
    if min(member.sum(), (~member).sum()) >= SPLIT:
        found["balanced_accuracy"] = balanced_accuracy(heard, member)
    return {**found, "auc": area_under_curve(heard, member)}


def needed_for(rate: float) -> int:
    """Non-members of which one is a false positive at this rate."""
    return math.ceil(1 / rate) if rate > 0 else 1


def rate_name(rate: float) -> str:
    """How the share of members found at this false positive rate is called: "tpr_at_0.1_percent"."""
    return f"tpr_at_{100 * rate:.6g}_percent"


def members_found(suspicion: Array, member: NDArray[np.bool_], rate: float) -> Estimate:
    """The share of members above the lowest threshold that at most `rate` of the non-members pass, with its exact
    interval over members; the threshold is taken as given."""
    above = int((suspicion[member] > _threshold(suspicion[~member], rate)).sum())
    return clopper_pearson(above, int(member.sum()), unit="members")


def predictive_value(suspicion: Array, member: NDArray[np.bool_], rate: float, prior: float) -> Estimate:
    """The share of the accused that are members where `prior` of all candidates are, at that false positive rate.

    The interval joins the worst ends of the exact intervals of both rates, so it is wider than it need be.
    """
    threshold = _threshold(suspicion[~member], rate)
    caught = clopper_pearson(int((suspicion[member] > threshold).sum()), int(member.sum()))
    wrong = clopper_pearson(int((suspicion[~member] > threshold).sum()), int((~member).sum()))
    value = _of_accused(caught.value, wrong.value, prior)
    low, high = _of_accused(caught.low, wrong.high, prior), _of_accused(caught.high, wrong.low, prior)
    return Estimate(value, low, high, len(suspicion), unit="candidates")


def precision_of_top(suspicion: Array, member: NDArray[np.bool_], top: int) -> Estimate:
    """The share of members among the `top` most suspected; of those tied at its edge, the share that fits in."""
    edge = np.sort(suspicion)[-top]
    above, tied = suspicion > edge, suspicion == edge
    successes = member[above].sum() + (top - above.sum()) * member[tied].mean()
    return clopper_pearson(float(successes), top, unit="most suspected")


def balanced_accuracy(suspicion: Array, member: NDArray[np.bool_]) -> Estimate:
    """The mean of both kinds' shares that are told right. The best threshold of the even candidates of each kind judges
    the odd ones, and the other way round, so that no threshold is judged on the rows that it was set on."""
    turn = np.empty(len(member), np.int64)
    for kind in (member, ~member):
        turn[kind] = np.arange(kind.sum()) % 2
    told = np.empty(len(member), bool)
    for half in (0, 1):
        told[turn == half] = suspicion[turn == half] > _best(suspicion[turn != half], member[turn != half])
    right = [(told[member] == 1).mean(), (told[~member] == 0).mean()]
    spread = math.sqrt(sum(p * (1 - p) / k.sum() for p, k in zip(right, (member, ~member), strict=True))) / 2
    value = float(np.mean(right))
    return Estimate(value, max(value - 1.96 * spread, 0.0), min(value + 1.96 * spread, 1.0), len(member), unit="rows")


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


def _heard(suspicion: Array, member: NDArray[np.bool_]) -> Array:
    """Suspicions with the least one for those that the attack said nothing about."""
    if len(suspicion) != len(member) or member.all() or not member.any():
        raise InputError(
            f"Membership needs a suspicion for every candidate, members and non-members; got {len(suspicion)} "
            f"suspicions, {int(member.sum())} members and {int((~member).sum())} non-members."
        )
    return np.where(np.isnan(suspicion), -np.inf, suspicion)


def _threshold(others: Array, rate: float) -> float:
    """The lowest threshold that at most `rate` of these pass."""
    ordered = np.sort(others)
    return float(ordered[len(ordered) - 1 - math.floor(rate * len(ordered) + 1e-9)])


def _of_accused(caught: float, wrong: float, prior: float) -> float:
    accused = caught * prior + wrong * (1 - prior)
    return caught * prior / accused if accused > 0 else 0.0


def _best(suspicion: Array, member: NDArray[np.bool_]) -> float:
    """The threshold with the best balanced accuracy on these rows."""
    order = np.argsort(suspicion, kind="stable")
    weight = np.where(member[order], 1 / member.sum(), -1 / (~member).sum())
    gain = -np.cumsum(weight)  # of accusing all that lie above: others left out less members left out
    last = np.append(np.diff(suspicion[order]) > 0, True)  # a threshold does not part equal suspicions
    gain[~last] = -np.inf
    i = int(np.argmax(gain))
    return float(suspicion[order][i]) if gain[i] > 0 else -math.inf


def _variance(placements: Array) -> float:
    """Of the mean of these placements."""
    return float(placements.var(ddof=1)) / len(placements) if len(placements) > 1 else 0.25
