"""A gradient bandit over the groups of a pool: which group the next question comes from.

Sutton and Barto, "Reinforcement Learning", section 2.8, as Orekondy et al. use it (CVPR 2019, section 4.1.2): a group's
preference grows where its rewards are above the mean of all before, and the others' fall. With a second level the
groups hang below coarser ones; a draw picks a coarse one first, and a reward is credited on both levels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Labels

__all__ = ["Bandit", "Rewards"]

TINY = 1e-12


class Bandit:
    """`groups` (n,) of the pool's rows, numbered from 0; `above` (number of groups,) the coarse group of each, or None.

    A row is drawn once, until every row has been: then all may be drawn again.
    """

    def __init__(self, groups: Labels, rng: np.random.Generator, *, above: Labels | None = None) -> None:
        self._groups, self._rng = groups, rng
        self.n = int(groups.max()) + 1
        self._above = np.zeros(self.n, np.int64) if above is None else above
        self.preferences = np.zeros(self.n)
        self._coarse = np.zeros(int(self._above.max()) + 1)
        self._drawn = np.zeros(self.n, np.int64)  # rewards credited to each
        self._rewards = [0.0, 0]  # their sum and number
        self._fill()

    def _fill(self) -> None:
        order = self._rng.permutation(len(self._groups))
        self._waiting = [list(order[self._groups[order] == g]) for g in range(self.n)]

    def probabilities(self) -> Array:
        """(groups,) the chance of each to be drawn next; 0 where no row of it waits."""
        full = np.array([len(rows) > 0 for rows in self._waiting])
        coarse_full = np.bincount(self._above, full, minlength=len(self._coarse)) > 0
        p = _softmax(self._coarse, coarse_full)[self._above]
        for parent in np.flatnonzero(coarse_full):
            inside = self._above == parent
            p[inside] *= _softmax(self.preferences[inside], full[inside])
        return p

    def draw(self, k: int) -> NDArray[np.int64]:
        """(k,) rows of the pool, drawn one after the other under the preferences as they are."""
        return np.fromiter(self._draws(k), np.int64, k)

    def _draws(self, k: int) -> Iterator[int]:
        p = self.probabilities()
        for _ in range(k):
            if not p.any():
                self._fill()
                p = self.probabilities()
            group = int(self._rng.choice(self.n, p=p))
            yield int(self._waiting[group].pop())
            if not self._waiting[group]:
                p = self.probabilities()

    def learn(self, rows: NDArray[np.int64], rewards: Array) -> None:
        """Credit a reward in [0, 1] to the group of each row, in order."""
        for group, reward in zip(self._groups[rows], rewards, strict=True):
            total, n = self._rewards
            ahead = reward - (total / n if n else reward)
            self._rewards = [total + reward, n + 1]
            self._drawn[group] += 1
            parent = self._above[group]
            beside = np.flatnonzero(self._above == parent)
            _move(self.preferences, beside, group, ahead / self._drawn[group])
            _move(self._coarse, np.arange(len(self._coarse)), parent, ahead / self._drawn[beside].sum())


def _move(preferences: Array, among: NDArray[np.int64], drawn: int, step: float) -> None:
    """Raise the preference of the one that was drawn and lower the others'; their sum stays as it was."""
    p = _softmax(preferences[among], np.ones(len(among), bool))
    preferences[among] -= step * p
    preferences[drawn] += step


def _softmax(preferences: Array, allowed: NDArray[np.bool_]) -> Array:
    """Chances of those that are allowed; the others have none."""
    if not allowed.any():
        return np.zeros(len(preferences))
    e = np.where(allowed, np.exp(preferences - preferences[allowed].max()), 0.0)
    return np.asarray(e / e.sum())


class Rewards:
    """Rewards of answered rows, each kind scaled to [0, 1] over all seen so far, then averaged.

    certainty   the lead of the victim's first class over its second
    diversity   how far the answer goes beyond the mean of the answers just before, summed over classes
    loss        cross-entropy of the copy, before it learns the row
    """

    def __init__(self, kinds: tuple[str, ...], window: int) -> None:
        self._kinds, self._window = kinds, window
        self._low = np.full(len(kinds), np.inf)
        self._high = np.full(len(kinds), -np.inf)
        self._before: list[Array] = []

    def of(self, answers: Array, copied: Array) -> Array:
        """(n,) for answers (n, c) in the order asked, and the copy's probabilities for the same rows."""
        return np.array([self._one(y, g) for y, g in zip(answers, copied, strict=True)])

    def _one(self, y: Array, g: Array) -> float:
        best = np.sort(y)[-2:]
        mean = np.mean(self._before, axis=0) if self._before else y
        found = {
            "certainty": best[1] - best[0],
            "diversity": np.maximum(0, y - mean).sum(),
            "loss": -(y * np.log(np.maximum(g, TINY))).sum(),
        }
        self._before = [*self._before, y][-self._window :]
        raw = np.array([found[kind] for kind in self._kinds])
        self._low, self._high = np.minimum(self._low, raw), np.maximum(self._high, raw)
        return float(np.mean((raw - self._low) / (self._high - self._low + TINY)))
