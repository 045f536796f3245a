"""Who holds which rows: victim, attacker and judge share none, by construction.

The victim's and the attacker's rows are disjoint index sets of the training part, drawn by one permutation; where rows
belong together (30 frames of one traffic sign) whole groups are drawn, so that near-duplicates stay on one side. The
test rows come from the test part, which neither holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import canonical
from portcullis_ml.core.types import Array, Labels
from portcullis_ml.data.dataset import Dataset

__all__ = ["Part", "Splits", "halves", "overlap", "split"]


@dataclass(frozen=True)
class Part:
    """Some rows of a data set: x (n, *input_shape), y (n,), and where they stand in it."""

    x: Array
    y: NDArray[np.int64] | Array
    rows: Labels

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The rows of victim, attacker and test, and how they were drawn."""

    victim: Part
    attacker: Part
    test: Part
    name: str
    grouped: bool = False

    def describe(self) -> str:
        """One sentence for the report."""
        how = "whole groups at a time" if self.grouped else "row by row"
        same = overlap(self.victim.x, self.test.x) + overlap(self.attacker.x, self.test.x)
        twins = f" {same} of the test rows have an identical twin among the others." if same else ""
        return (
            f"{self.name}: {len(self.victim)} rows for the victim and {len(self.attacker)} for the attacker, drawn at "
            f"random {how} from the training part so that no row is in both; {len(self.test)} rows of the test part "
            f"judge, and neither holds them.{twins}"
        )


def split(
    dataset: Dataset,
    *,
    rng: np.random.Generator,
    victim: int | float = 0.5,
    attacker: int | float | None = None,
    test: int | float | None = None,
) -> Splits:
    """Draw the three parts. A float is a share of the part drawn from, an int a number of rows, None what is left.

    With groups a part may come out smaller than asked, by less than a group.
    """
    n = len(dataset.x)
    wanted = _count("victim", victim, n)
    rest = n - wanted if attacker is None else _count("attacker", attacker, n)
    if wanted + rest > n:
        raise InputError(
            f"{dataset.name} has {n} training rows; {wanted} for the victim and {rest} for the attacker were asked. "
            "Ask for less."
        )
    first, second = _draw(n, dataset.groups, wanted, rest, rng)
    m = len(dataset.x_test)
    judge = np.sort(rng.permutation(m)[: m if test is None else _count("test", test, m)])
    return Splits(
        victim=Part(dataset.x[first], dataset.y[first], first),
        attacker=Part(dataset.x[second], dataset.y[second], second),
        test=Part(dataset.x_test[judge], dataset.y_test[judge], judge),
        name=dataset.name,
        grouped=dataset.groups is not None,
    )


def overlap(a: Array, b: Array) -> int:
    """How many rows of b also stand in a, to the last input."""
    if len(a) == 0 or len(b) == 0:
        return 0
    held = set(canonical(a))
    return sum(row in held for row in canonical(b))


def halves(n: int, groups: Labels | None = None, *, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Two disjoint sorted sets of rows, about half of n each, made of whole groups where there are some."""
    if n < 2:
        raise InputError(f"At least 2 rows were expected to be divided between two; got {n}. Give more.")
    return _draw(n, groups, n // 2, n - n // 2, rng)


def _count(who: str, size: int | float, n: int) -> int:
    count = round(size * n) if isinstance(size, float) else size
    if not 1 <= count <= n:
        raise InputError(f"{who} must get between 1 and {n} rows, or a share in (0, 1]; {size!r} was asked.")
    return count


def _draw(n: int, groups: Labels | None, first: int, second: int, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Two disjoint sorted sets of rows, made of whole groups."""
    if groups is None:
        order = rng.permutation(n)
        return np.sort(order[:first]), np.sort(order[first : first + second])
    names, member = np.unique(groups, return_inverse=True)
    place = rng.permutation(len(names))  # the group's place in the queue
    upto = np.cumsum(np.bincount(place[member], minlength=len(names)))  # rows up to and with the k-th group drawn
    cut = int(np.searchsorted(upto, first, side="right"))
    taken = int(upto[cut - 1]) if cut else 0
    end = int(np.searchsorted(upto, taken + second, side="right"))
    if cut == 0 or end == cut:
        raise InputError(f"Whole groups do not fit into {first} and {second} rows. Ask for more, or drop the groups.")
    queue = place[member]
    return np.flatnonzero(queue < cut), np.flatnonzero((queue >= cut) & (queue < end))
