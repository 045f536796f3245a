"""How far an attack gets behind a defense, when the way is not chosen by the figure that is reported.

Whoever gets more can use less: an attacker may look at the labels only, or stop before the budget is spent. So every
attack is several ways to steal. The plain one is to look at all that is shown until the budget is spent. Another takes
its place only where it is better by more than a standard error on one half of the test rows, and is then judged on the
other half; so for both halves, and the mean is reported, or the plain way's figure where that is greater. Records from
before copies noted on which rows they agree have no halves: there the greatest figure is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from portcullis_ml.core.types import Array, Estimate
from portcullis_ml.repetitions import across, unpacked
from portcullis_ml.report.numbers import count
from portcullis_ml.report.pairs import Pair, estimate

__all__ = ["LABELS_ONLY", "Thief", "Way", "chosen", "ways_of"]

LABELS_ONLY = " (labels only)"  # behind the name of an attack that looks at the labels only

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Way:
    """One way to steal: an attack, what it looks at, and when it stops.

    how     "" for all that is shown until the end, or "looking at labels only", "stopping after 400 queries"
    copies  seed -> how good the copy is on all test rows
    right   seed -> (n,) what every test row adds to the measure, a mean over rows; 0 where the copy does not agree on
            it. Empty where a record does not say where it agrees, or the measure is no mean over rows
    """

    pair: Pair
    how: str
    queries: int
    copies: Mapping[int, Estimate]
    right: Mapping[int, Array]

    @property
    def attack(self) -> str:
        return self.pair.attack.removesuffix(LABELS_ONLY)

    @property
    def copy(self) -> Estimate:
        return across(list(self.copies.values()))

    def ahead(self, plain: Way, half: int) -> float:
        """By how many standard errors this way is better than the plain one on the even (0) or odd (1) test rows."""
        shared = self.right.keys() & plain.right.keys()
        if not shared:
            return 0.0
        gain = np.mean([self.right[s][half::2] - plain.right[s][half::2] for s in shared], axis=0)
        if len(gain) < 2 or gain.mean() <= 0:
            return 0.0
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        return float(gain.mean() / error) if error > 0 else np.inf


@dataclass(frozen=True)
class Thief:
    """The attacker who fares best.

    copy    what is credited to them: never less than what someone has who never asks
    own     how good their copy is; less than `copy` only where they failed
    pair    the records of their attack
    """

    attack: str
    how: str
    queries: int
    copy: Estimate
    own: Estimate
    pair: Pair
    failed: bool = False

    @property
    def told(self) -> bool:
        """Whether they know the guard's settings, all but its key."""
        return bool(self.pair.records[0]["cell"].get("knows_defense"))

    @property
    def words(self) -> str:
        """The attack and how it is used."""
        return f"{self.attack}, {self.how}" if self.how else self.attack


def ways_of(pair: Pair, measure: str, labels_only: bool = False, weights: Array | None = None) -> Iterator[Way]:
    """The ways to steal that the records of one attack behind one defense hold, the plainest first.

    weights   (n,) what each test row counts in the measure; None where it is no mean over rows
    """
    first = ["looking at labels only"] if labels_only else []
    runs: dict[int, list[Record]] = {}
    for r in (*pair.records, *pair.smaller):
        if r["outcome"] == "done" and estimate(r["measures"].get(measure)):
            runs.setdefault(int(r["cell"].get("budget", 0)), []).append(r)
    for budget in sorted(runs, reverse=True):
        stops = [] if budget == pair.budget else [_stopping(budget)]
        ends = [(r, r["measures"], r["queries"], (r.get("notes") or {}).get("right")) for r in runs[budget]]
        yield _way(pair, measure, [*first, *stops], ends, weights)
    whole = runs.get(pair.budget, [])
    rounds = {len((r.get("notes") or {}).get("right_on_the_way") or ()) for r in whole}
    for i in range(rounds.pop() if len(rounds) == 1 else 0):
        points = [(r, r["curve"][i], r["notes"]["right_on_the_way"][i]) for r in whole]
        ends = [(r, point["measures"], point["queries"], bits) for r, point, bits in points]
        if all(estimate(measures.get(measure)) for _, measures, _, _ in ends):
            yield _way(pair, measure, [*first, _stopping(max(e[2] for e in ends))], ends, weights)


def _stopping(queries: int) -> str:
    return f"stopping after {count(queries, 'query')}"


def _way(
    pair: Pair,
    measure: str,
    how: Sequence[str],
    ends: Sequence[tuple[Record, Mapping[str, Any], int, str | None]],
    weights: Array | None,
) -> Way:
    copies: dict[int, Estimate] = {}
    right: dict[int, Array] = {}
    for record, measures, _, bits in ends:
        seed, copy = int(record["cell"].get("seed", 0)), estimate(measures[measure])
        assert copy is not None  # `ways_of` asks before
        copies[seed] = copy
        if bits and weights is not None:
            right[seed] = unpacked(bits, copy.n) * weights
    queries = sorted(int(e[2]) for e in ends)[len(ends) // 2]
    return Way(pair, ", ".join(how), queries, copies, right if len(right) == len(copies) else {})


def chosen(ways: Sequence[Way]) -> Thief | None:
    """How far one attack gets, whose ways these are, the plain one first; None where there is no way."""
    if not ways:
        return None
    plain, best = ways[0], max(ways, key=lambda way: way.copy.value)
    if not all(way.right for way in ways):
        return _thief(best, best.copy)
    even, odd = (_on_half(ways, half) for half in (0, 1))
    shared = sorted(even.right.keys() & odd.right.keys())
    if even is odd or not shared:
        found = _thief(even, even.copy)
    else:
        better = max(even, odd, key=lambda way: way.copy.value)
        found = _thief(better, across([_crossed(even, odd, seed) for seed in shared]))
    return max(_thief(plain, plain.copy), found, key=lambda thief: thief.copy.value)


def _thief(way: Way, copy: Estimate) -> Thief:
    return Thief(way.attack, way.how, way.queries, copy, copy, way.pair)


def _on_half(ways: Sequence[Way], half: int) -> Way:
    """The way that this half of the test rows chooses."""
    best = max(ways, key=lambda way: way.ahead(ways[0], half))
    return best if best.ahead(ways[0], half) > 1 else ways[0]


def _crossed(even: Way, odd: Way, seed: int) -> Estimate:
    """What was chosen on the even rows is judged on the odd ones, and the other way round; as wide as those two are."""
    n = len(even.right[seed])
    value = float((even.right[seed][1::2].sum() + odd.right[seed][0::2].sum()) / n)
    one, other = even.copies[seed], odd.copies[seed]
    below, above = (
        ((one.value - one.low) + (other.value - other.low)) / 2,
        ((one.high - one.value) + (other.high - other.value)) / 2,
    )
    return Estimate(value, max(0.0, value - below), min(1.0, value + above), one.n, level=one.level, unit=one.unit)
