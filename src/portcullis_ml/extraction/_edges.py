"""Exact edges of bins: a quantile is a value of a table or halfway between two, and so mostly a short decimal."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array
from portcullis_ml.extraction._grid import Ints

__all__ = ["edges_of", "shortest", "snap"]

DECIMALS = range(-16, 18)


def shortest(a: float, b: float) -> float:
    """The number in [a, b] of the fewest decimals, the least of those."""
    for decimals in DECIMALS:
        whole = math.floor(a * 10.0**decimals)
        for digits in (whole, whole + 1):
            number = float(f"{digits}e{-decimals}")
            if a <= number <= b:
                return number
    return a


def snap(ask: Callable[[Ints, Array], Ints], left: Array, right: Array, before: Ints, after: Ints) -> None:
    """Narrow the brackets left (k,), right (k,) of edges, in place: the answer to left is `before`, to right `after`.

    ask(which edges, values) returns identities. The shortest decimal in a bracket is asked, and its neighbour two
    floats away on the other side: if they differ, a third answer names the two floats between which the edge lies.
    A wrong guess costs two answers and leaves the bracket as wide as it was, or less.
    """

    def narrow(which: NDArray[np.bool_], value: Array) -> None:
        n = np.flatnonzero(which & (left < value) & (value < right))
        if len(n):
            seen = ask(n, value[n])
            below, above = n[seen == before[n]], n[seen == after[n]]
            left[below], right[above] = value[below], value[above]

    guess = np.array([shortest(a, b) for a, b in zip(left, right, strict=True)])
    narrow(np.ones(len(guess), bool), guess)
    outward = np.where(left == guess, np.inf, -np.inf)
    narrow((left == guess) | (right == guess), np.nextafter(np.nextafter(guess, outward), outward))
    middle = np.nextafter(left, np.inf)
    narrow(np.nextafter(middle, np.inf) == right, middle)


def edges_of(left: Array, right: Array) -> Array:
    """(k,) the greatest value that counts as left: halfway, or `left` itself where `right` is the next float."""
    return np.where(np.nextafter(left, np.inf) == right, left, left + (right - left) / 2)
