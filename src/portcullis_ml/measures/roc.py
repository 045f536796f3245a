"""The whole curve of a membership attack, and what it says of single rows.

Carlini et al. "Membership Inference Attacks From First Principles", IEEE S&P 2022, section 3: curves are drawn on two
logarithmic axes, where the left end, the sure accusations, can be seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array

__all__ = ["exposed", "risk", "roc_points"]

POINTS = 200  # of a curve that is kept


def roc_points(suspicion: Array, member: NDArray[np.bool_], *, points: int = POINTS) -> tuple[Array, Array]:
    """(false positive rates, true positive rates), both rising from 0 to 1, thinned evenly on a logarithmic axis.

    suspicion (n,), NaN where the attack said nothing; a candidate tied with others is accused together with them.
    """
    heard = np.where(np.isnan(suspicion), -np.inf, suspicion)
    order = np.argsort(-heard, kind="stable")
    last = np.append(heard[order][:-1] != heard[order][1:], True)  # the last of those that are tied
    caught = np.append(0, np.cumsum(member[order])[last])
    wrong = np.append(0, np.cumsum(~member[order])[last])
    keep = _thinned(wrong, points)
    return wrong[keep] / (~member).sum(), caught[keep] / member.sum()


def risk(suspicion: Array, member: NDArray[np.bool_]) -> Array:
    """(n,) for every candidate: the share of non-members that are suspected as much or more, itself counted.

    Of a member it is the p-value of "this row was not trained on": small where a stranger may be sure of it. A
    candidate that the attack said nothing about has 1.
    """
    others = np.sort(np.where(np.isnan(suspicion), -np.inf, suspicion)[~member])
    as_much = len(others) - np.searchsorted(others, suspicion, side="left")
    return np.where(np.isnan(suspicion), 1.0, (as_much + member) / (len(others) + 1 * member))


def exposed(suspicion: Array, member: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    """The members that are most suspected, at most so many, the most exposed first."""
    ours = np.flatnonzero(member & ~np.isnan(suspicion))
    return ours[np.argsort(-suspicion[ours], kind="stable")][:most]


def _thinned(wrong: NDArray[np.int64], points: int) -> NDArray[np.int64]:
    """Indices of the points to keep: of each number of false positives the last, then evenly on a log axis."""
    last = np.flatnonzero(np.append(wrong[1:] != wrong[:-1], True))
    if len(last) > points:
        wanted = np.geomspace(1, wrong[-1], points - 1)
        last = np.unique(np.concatenate([last[:1], last[np.searchsorted(wrong[last], wanted)]]))
    return np.unique(np.append(0, last))
