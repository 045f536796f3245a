"""Accounts that ask one shortly after the other far more often than chance would have it.

For each request of B: did A ask within `window` seconds before? Under the null the request could as well have come at
any other moment within `around` seconds, so that busy hours, which many share, count for nothing. Requests of one
account that follow one another within the window count once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from portcullis_ml.core.types import Array

__all__ = ["clockwork", "following", "starts"]

LEAST = 4  # coincidences of a pair, below which no p-value can matter
PERIOD = 60.0  # whoever asks at one second of every minute is run by a clock, and so may be many


def starts(times: Array, window: float) -> Array:
    """The times at which a run of requests begins."""
    ordered = np.sort(times)
    return ordered[np.diff(ordered, prepend=-np.inf) > window]


def clockwork(times: Array) -> bool:
    """Whether most requests come at one second of the minute."""
    return len(times) > 0 and abs(np.exp(2j * np.pi * times / PERIOD).mean()) > 0.8


def following(times: Sequence[Array], window: float, around: float) -> dict[tuple[int, int], tuple[int, int, float]]:
    """(A, B) -> how many of B's runs follow one of A's within the window, of how many, and the p-value.

    times  of each account's requests, in any order. Accounts that a clock runs are left out, and pairs with fewer than
           four coincidences.
    """
    from scipy.stats import binom

    runs = [starts(np.asarray(t), window) for t in times]
    runs = [np.empty(0) if clockwork(t) else t for t in runs]
    found = _coincidences(runs, window)
    chances = []
    for a, b in found:
        near = np.searchsorted(runs[a], runs[b] + around) - np.searchsorted(runs[a], runs[b] - around)
        chances.append(float(np.minimum(near * window / (2 * around), 1).mean()))
    k, n, chance = np.array(list(found.values())), np.array([len(runs[b]) for _, b in found]), np.array(chances)
    # The number is a sum of unequal coins; its tail is at most that of equal ones (Hoeffding 1956).
    p = np.where(k >= n * chance + 1, binom.sf(k - 1, n, chance), 1.0)
    return {pair: (int(k[i]), int(n[i]), float(p[i])) for i, pair in enumerate(found)}


def _coincidences(runs: Sequence[Array], window: float) -> dict[tuple[int, int], int]:
    """(A, B) -> how many of B's runs begin within the window after one of A's."""
    at = np.concatenate([*runs, np.empty(0)])
    who = np.repeat(np.arange(len(runs)), [len(t) for t in runs])
    order = np.argsort(at, kind="stable")
    at, who = at[order], who[order]
    first = np.searchsorted(at, at - window, side="left")
    counts = np.arange(len(at)) - first
    later = np.repeat(np.arange(len(at)), counts)
    earlier = np.arange(len(later)) - np.repeat(np.cumsum(counts) - counts, counts) + first[later]
    apart = (who[earlier] != who[later]) & (at[earlier] < at[later])
    # A run of B counts once, however many runs of A came before it; A's runs lie more than a window apart.
    pairs, k = np.unique(who[earlier[apart]] * len(runs) + who[later[apart]], return_counts=True)
    enough = k >= LEAST
    return {(int(p) // len(runs), int(p) % len(runs)): int(n) for p, n in zip(pairs[enough], k[enough], strict=True)}
