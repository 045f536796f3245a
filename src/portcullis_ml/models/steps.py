"""A sum of steps: what a forest or boosted trees are, seen from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from portcullis_ml.core.types import Array

__all__ = ["ABOVE", "BELOW", "EQUAL", "Link", "Literals", "StepSum", "linked", "summed", "unlinked"]

Link = Literal["share", "logit", "value"]
Ints = NDArray[np.int64]
ABOVE, BELOW, EQUAL = 0, 1, 2
TINY = 1e-300
CELLS = 8_000_000  # terms times rows at a time


def linked(scores: Array, link: Link) -> Array:
    """(n, c) answers -> (n, k) the numbers that add up over trees: shares of all classes but the first, their
    log-ratios to the first, or a regression's values."""
    if link == "value":
        return scores
    if link == "share":
        return scores[:, 1:]
    logs = np.log(np.maximum(scores, TINY))
    return np.asarray(logs[:, 1:] - logs[:, :1])


def unlinked(sums: Array, link: Link) -> Array:
    """(n, k) -> (n, c) the answers that go with them."""
    if link == "value":
        return sums
    if link == "logit":
        return np.asarray(softmax(np.column_stack([np.zeros(len(sums)), sums]), axis=1))
    p = np.clip(np.column_stack([1 - sums.sum(axis=1), sums]), 0, None)
    total = p.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, p / np.where(total > 0, total, 1), 1 / p.shape[1]))


@dataclass(frozen=True, eq=False)
class Literals:
    """Yes-or-no questions about a row: x > edge, x <= edge or x == edge, in the column `feature`; all (q,)."""

    feature: Ints
    edge: Array
    kind: Ints

    def __call__(self, rows: NDArray[np.float64] | Ints) -> NDArray[np.uint8]:
        """(n, d) -> (q + 1, ceil(n / 8)) one bit a row; literal 0 is always true, the others follow."""
        x = rows[:, self.feature]
        holds = np.where(
            self.kind == ABOVE, x > self.edge, np.where(self.kind == BELOW, x <= self.edge, x == self.edge)
        )
        always = np.full((1, (len(rows) + 7) // 8), 255, np.uint8)
        return np.concatenate([always, np.packbits(holds.T, axis=1)])


def summed(rows: Array | Ints, literals: Literals, terms: Ints, coef: Array) -> Array:
    """(n, d) -> (n, k) the sum of coef (m, k) over the terms (m, w) whose literals all hold."""
    out = np.zeros((len(rows), coef.shape[1]))
    if not len(coef):
        return out
    step = max(64, CELLS // len(terms) // 64 * 64)
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        bits = literals(part)
        active = bits[terms[:, 0]]
        for column in terms.T[1:]:
            some = np.flatnonzero(column)  # a term of fewer literals is padded with 0
            active[some] &= bits[column[some]]
        out[at : at + step] = np.unpackbits(active, axis=1, count=len(part)).T.astype(np.float64) @ coef
    return out


class StepSum:
    """A model that adds coef (m, k) of every term (m, w) whose literals all hold; see `summed`, `unlinked`.

    `extra`, where given, takes rows (n, d) and returns what is to be added (n, k).
    """

    def __init__(
        self,
        literals: Literals,
        terms: Ints,
        coef: Array,
        link: Link,
        *,
        input_shape: tuple[int, ...],
        extra: Callable[[Array], Array] | None = None,
    ) -> None:
        self.literals, self.terms, self.coef, self.link, self.extra = literals, terms, coef, link, extra
        self.input_shape = tuple(input_shape)
        self.n_classes = 0 if link == "value" else coef.shape[1] + 1

    def __len__(self) -> int:
        return len(self.terms)

    def thresholds(self) -> Iterator[tuple[int, float]]:
        """(column, value) of everything that a term asks about, once each."""
        used = np.unique(self.terms[self.terms > 0]) - 1
        pairs = {(int(self.literals.feature[q]), float(self.literals.edge[q])) for q in used}
        return iter(sorted(pairs))

    def sums(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, k)"""
        rows = np.asarray(x, np.float64).reshape(len(x), -1)
        total = summed(rows, self.literals, self.terms, self.coef)
        return total if self.extra is None else total + self.extra(rows)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes), or (n, 1) for regression."""
        return unlinked(self.sums(x), self.link)
