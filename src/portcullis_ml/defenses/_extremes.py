"""The extreme answers between which prediction poisoning chooses, and their angles, for a batch at once.

Orekondy, Schiele, Fritz, ICLR 2020, the section on the heuristic solver. Directions are taken from p, the answer of a
stand-in: a greater angle between t - p and y - p leads a thief who trains on t further from where y leads.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np

from portcullis_ml.core.types import Array, Labels

__all__ = ["EXHAUSTIVE", "best_sets", "best_vertices"]

EXHAUSTIVE = 10  # classes up to which every set is looked at
MOST = 1024  # sets that are looked at for a row with more classes
NUDGE = 1e-5  # added to the true class of a set, so that it stays the most likely one
TINY = 1e-12


def best_vertices(y: Array, p: Array) -> Array:
    """(n, c) for each row the class, as a distribution, whose direction from p is farthest from that of y."""
    d = y - p
    along = d - (p * d).sum(axis=1, keepdims=True)  # (e_k - p) . d
    length = np.sqrt(np.maximum(1 - 2 * p + (p * p).sum(axis=1, keepdims=True), TINY))
    return np.asarray(np.eye(y.shape[1])[(along / length).argmin(axis=1)])


def best_sets(y: Array, p: Array) -> Array:
    """(n, c) for each row the uniform distribution on a set of classes with its most likely one, farthest in direction.

    All sets for up to 10 classes; else one class after another is added that leads farthest, and the best is kept.
    """
    chosen = (_of_all if y.shape[1] <= EXHAUSTIVE else _grown)(y, p)
    top = y.argmax(axis=1)
    spread = chosen / chosen.sum(axis=1, keepdims=True)
    spread[np.arange(len(y)), top] += NUDGE
    return np.asarray(spread / spread.sum(axis=1, keepdims=True))


def _cosines(d: Array, p: Array, sum_d: Array, sum_p: Array, size: Array) -> Array:
    """Cosines of u - p and d, u being uniform on sets with these sums of d and p over their classes."""
    along = sum_d / size - (p * d).sum(axis=1)[:, None]
    squared = 1 / size - 2 * sum_p / size + (p * p).sum(axis=1)[:, None]
    return np.asarray(along / np.sqrt(np.maximum(squared, TINY)))


@lru_cache(maxsize=16)
def _sets(others: int) -> Array:
    """(2^others, others) every set of the other classes, as zeros and ones."""
    sets = [s for k in range(others + 1) for s in combinations(range(others), k)]
    table = np.zeros((len(sets), others))
    for row, members in zip(table, sets, strict=True):
        row[list(members)] = 1
    return table


def _of_all(y: Array, p: Array) -> Array:
    n, width = y.shape
    order = np.argsort(-y, axis=1, kind="stable")  # the most likely class first
    d, q = np.take_along_axis(y - p, order, axis=1), np.take_along_axis(p, order, axis=1)
    table = _sets(width - 1)
    sum_d, sum_p = (v[:, :1] + (table[None] * v[:, None, 1:]).sum(axis=2) for v in (d, q))
    best = _cosines(d, q, sum_d, sum_p, 1 + table.sum(axis=1)[None]).argmin(axis=1)
    found = np.concatenate([np.ones((n, 1)), table[best]], axis=1)
    chosen = np.empty_like(found)
    np.put_along_axis(chosen, order, found, axis=1)
    return chosen


def _grown(y: Array, p: Array) -> Array:
    n, width = y.shape
    rows, d = np.arange(n), y - p
    inside = np.zeros((n, width), bool)
    inside[rows, y.argmax(axis=1)] = True
    sum_d, sum_p = (np.where(inside, v, 0).sum(axis=1) for v in (d, p))
    best = _cosines(d, p, sum_d[:, None], sum_p[:, None], np.ones((1, 1)))[:, 0]
    chosen, looked = inside.copy(), 1
    for size in range(2, width + 1):
        if looked + width - size + 1 > MOST:
            break
        looked += width - size + 1
        cosines = _cosines(d, p, sum_d[:, None] + d, sum_p[:, None] + p, np.full((1, 1), float(size)))
        new: Labels = np.where(inside, np.inf, cosines).argmin(axis=1)
        inside[rows, new] = True
        sum_d, sum_p = sum_d + d[rows, new], sum_p + p[rows, new]
        better = cosines[rows, new] < best
        best = np.where(better, cosines[rows, new], best)
        chosen[better] = inside[better]
    return chosen.astype(np.float64)
