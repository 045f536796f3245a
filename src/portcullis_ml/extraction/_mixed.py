"""Where to ask: five ways of drawing questions for a table, and shares among them that move to where a copy errs.

ranges     uniform between the known bounds of every column, whole numbers where the bounds suggest counts
marginals  every column drawn by itself: from the pool's own column, or, without a pool, from what schemas suggest (half
           of the values of a wide column that is never negative lie near its low end, evenly in the logarithm, some of
           them at 0 itself where it starts there)
pool       rows that somebody holds
boundary   of many rows of the other kinds, those between whose two likeliest classes the copy decides least
worst      rows that the copy got wrong before it had seen their answers, half of their columns drawn anew

Each round's answers are set aside until the copy of the round before has predicted them: its errors there are the
rewards of a bandit. They cost nothing extra, since the next copy is fitted to them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Interface, Labels, Model

__all__ = ["Questions", "typical_rows", "wrong_labels"]

BASIC = ("ranges", "marginals", "pool")
LEARNED = ("boundary", "worst")
LEAST = 0.1  # no way of asking falls below this share, so that it can come back
MOST = 0.25  # nor rises above this (before the sum is made 1): near the boundary a copy is always half wrong
COUNTED = 0.75  # of the rows: columns that may hold counts hold whole numbers
EMPTY = 0.5  # of the skewed values of a wide column that starts at 0: nothing at all (a capital gain, say)
WIDE_RANGE = 5.0  # a column that spans this many times its low end (or 1, from 0) is drawn evenly in its logarithm


class Questions:
    """Draws rows to ask, in shares; `credit` moves the shares by what the copy got wrong."""

    def __init__(self, interface: Interface, pool: Array | None, candidates: int, rng: np.random.Generator) -> None:
        self.interface = interface
        self.candidates = candidates
        self.rng = rng
        self._pool = None if pool is None or not len(pool) else pool[rng.permutation(len(pool))]
        self._taken = 0
        self._wrong: Array = np.empty((0, *interface.input_shape))
        self.shares = dict.fromkeys([n for n in BASIC if n != "pool" or self._pool is not None], 1.0)
        self._normalise()

    def draw(self, n: int, copy: Model | None) -> tuple[Array, NDArray[np.str_]]:
        """(n, *input_shape) rows and (n,) the way in which each was drawn."""
        names = np.array(list(self.shares))
        counts = np.floor(n * np.array(list(self.shares.values()))).astype(np.int64)
        counts[: n - counts.sum()] += 1
        parts = [self._rows(str(name), int(k), copy) for name, k in zip(names, counts, strict=True)]
        order = self.rng.permutation(n)
        return np.concatenate(parts)[order], np.repeat(names, counts)[order]

    def credit(self, x: Array, ways: NDArray[np.str_], wrong: NDArray[np.bool_]) -> None:
        """Half of each share stays, half goes by how often the copy was wrong about rows drawn in that way."""
        self._wrong = np.concatenate([self._wrong, x[wrong]])
        errors = {name: (1 + wrong[ways == name].sum()) / (2 + (ways == name).sum()) for name in self.shares}
        total = sum(errors.values())
        self.shares = {name: (share + errors[name] / total) / 2 for name, share in self.shares.items()}
        for name in LEARNED:
            self.shares.setdefault(name, 1 / (len(self.shares) + 1))
        self._normalise()

    def _normalise(self) -> None:
        clipped = {name: min(max(share, LEAST), MOST) for name, share in self.shares.items()}
        total = sum(clipped.values())
        self.shares = {name: share / total for name, share in clipped.items()}

    def _rows(self, way: str, n: int, copy: Model | None) -> Array:
        drawn: Mapping[str, Callable[[int], Array]] = {
            "ranges": self._even,
            "marginals": self._marginals,
            "pool": self._next_of_pool,
            "boundary": lambda n: self._near_boundary(n, copy),
            "worst": self._near_wrong,
        }
        return drawn[way](n)

    def _even(self, n: int) -> Array:
        return even_rows(self.interface, n, self.rng).reshape(n, *self.interface.input_shape)

    def _marginals(self, n: int) -> Array:
        if self._pool is None:
            return typical_rows(self.interface, n, self.rng)
        flat = self._pool.reshape(len(self._pool), -1)
        drawn = np.take_along_axis(flat, self.rng.integers(len(flat), size=(n, flat.shape[1])), axis=0)
        return drawn.reshape(n, *self.interface.input_shape)

    def _next_of_pool(self, n: int) -> Array:
        """Pool rows, each once; then mixtures of two of them, column by column."""
        assert self._pool is not None  # the way is not offered without a pool
        rows = self._pool[self._taken : self._taken + n]
        self._taken += len(rows)
        if len(rows) == n:
            return rows
        pairs = self.rng.integers(len(self._pool), size=(2, n - len(rows)))
        return np.concatenate([rows, self._crossed(self._pool[pairs[0]], self._pool[pairs[1]])])

    def _near_boundary(self, n: int, copy: Model | None) -> Array:
        assert copy is not None  # the way is offered after the first round
        rows = np.concatenate([self._marginals(self.candidates // 2), self._even(self.candidates)])
        top = np.sort(copy.scores(rows), axis=1)
        return rows[np.argsort(top[:, -1] - top[:, -2], kind="stable")[:n]]

    def _near_wrong(self, n: int) -> Array:
        if not len(self._wrong):
            return self._marginals(n)
        return self._crossed(self._wrong[self.rng.integers(len(self._wrong), size=n)], self._marginals(n))

    def _crossed(self, a: Array, b: Array) -> Array:
        return np.where(self.rng.random(a.shape) < 0.5, a, b)


def even_rows(interface: Interface, n: int, rng: np.random.Generator) -> Array:
    """(n, n_inputs) rows, uniform between the bounds; in most of them columns that may hold counts are whole.

    Whether a column holds counts is a guess: its ends are whole and apart. Its whole numbers are equally likely, so
    that its ends come up as often as the others.
    """
    flat = interface.uniform(n, rng).reshape(n, interface.n_inputs)
    counted = rng.random(n) < COUNTED
    for j in np.flatnonzero(_counts(interface)):
        flat[counted, j] = rng.integers(int(interface.low[j]), int(interface.high[j]) + 1, size=counted.sum())
    return flat


def typical_rows(interface: Interface, n: int, rng: np.random.Generator) -> Array:
    """(n, *input_shape) rows as tables tend to hold them: large amounts are rare, and nothing at all is common."""
    flat, counts = even_rows(interface, n, rng), _counts(interface)
    for j, (low, high) in enumerate(zip(interface.low, interface.high, strict=True)):
        start = low if low > 0 else 1.0  # from where on values are spread evenly in the logarithm
        if not _numeric(interface)[j] or low < 0 or (high - low) / start < WIDE_RANGE:
            continue
        skewed = low + start * np.expm1(rng.random(n) * np.log1p((high - low) / start))
        skewed = np.where(rng.random(n) < EMPTY, low, skewed) if low == 0 else skewed
        skewed = np.where((rng.random(n) < COUNTED) & counts[j], np.round(skewed), skewed)
        flat[:, j] = np.where(rng.random(n) < 0.5, skewed, flat[:, j])
    return flat.reshape(n, *interface.input_shape)


def _numeric(interface: Interface) -> NDArray[np.bool_]:
    features = interface.features or ()
    return np.array([not f.categorical for f in features] if features else [True] * interface.n_inputs)


def _counts(interface: Interface) -> NDArray[np.bool_]:
    """(n_inputs,) the columns of a table that may hold counts."""
    low, high = interface.low, interface.high
    whole = (low % 1 == 0) & (high % 1 == 0) & (high - low > 1)
    return np.asarray(whole & _numeric(interface) & (interface.features is not None))


def wrong_labels(copy: Model, x: Array, labels: Labels) -> NDArray[np.bool_]:
    """(n,) where the copy's label is not the answer's; a row without an answer is not wrong."""
    return np.asarray((copy.scores(x).argmax(axis=1) != labels) & (labels >= 0))
