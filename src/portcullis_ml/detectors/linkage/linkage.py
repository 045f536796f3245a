"""Linkage: accounts that ask what one principal would ask, told from honest clients by four signals.

Juuti, Szyller, Dmitrenko, Marchal, Asokan. "PRADA: Protecting against DNN Model Stealing Attacks",
arXiv 1805.02628 version 1 (2018), whose section on countermeasures leaves thieves with many accounts open; Kesarwani,
Mukhoty, Arya, Mehta. "Model Extraction Warning in MLaaS Paradigm", ACSAC 2018, which pools users whose accounts are
known to collude. SEAT (Zhang, Chen, Wagner, AISec 2021) counts pairs of similar questions, across accounts too, as
`near` does. The other signals, the test and its calibration are ours.

Costs the honest client   nothing by itself; in a group by mistake, what the group has done counts against it. Clients
                          who share cameras, pictures or a pipeline look like one principal, because they are.
Defaults hold for         nothing: `near` and `flat` are measured on honest clients of one's own (`calibration`).
Does not see              natural questions of different accounts at times of their own; noise as large as what sets
                          honest pictures apart; a campaign that asks through each account fewer than three questions;
                          accounts that ask at the same second of every minute, since honest clocks do.

    near    a question lies nearer to another account's than honest questions of different clients do
    line    the difference to the nearest question of another account is spread evenly over all inputs, as a step along
            the sign of a gradient is (JbDA). Jitter blurs it: +-.1 with Gaussian noise of .05 is still far flatter than
            two pictures are, and noise alone has flatness 3, so where honest pictures are noise it ends
    same    the very question, weighted by how few accounts ask it: 1 / (accounts - 1)
    timing  one account's requests follow another's within `window` seconds

The first three count, for each account, rows with such a counterpart elsewhere, and hold the number against a
binomial with the chance `rate` that an honest row has; timing gives a p-value for each ordered pair. An account or
pair is linked where the p-value times the number of accounts or pairs and of signals is at most `alpha`. A link by
rows needs that of both ends, so that one popular question links nobody. Groups are what links connect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Floats, Labels
from portcullis_ml.detectors.linkage._sketches import Sketches
from portcullis_ml.detectors.linkage._timing import following

__all__ = ["SIGNALS", "Finding", "Link", "Linkage", "Linked"]

SIGNALS = ("near", "line", "same", "timing")


@dataclass(frozen=True)
class Finding:
    """One account under one signal: how many of its rows have a counterpart elsewhere, of how many, and the p-value."""

    count: float
    of: int
    p: float


@dataclass(frozen=True)
class Link:
    """Two accounts, the signal that links them, on how many rows or requests, and the p-value of the weaker end."""

    a: str
    b: str
    signal: str
    count: int
    p: float


@dataclass(frozen=True)
class Linked:
    """What the test says: groups of two accounts and more, the links in them, and every account's findings."""

    groups: tuple[tuple[str, ...], ...] = ()
    links: tuple[Link, ...] = ()
    findings: Mapping[str, Mapping[str, Finding]] = field(default_factory=dict)

    def within(self, group: tuple[str, ...]) -> tuple[Link, ...]:
        """The links between members of a group."""
        return tuple(link for link in self.links if link.a in group and link.b in group)


@dataclass(frozen=True, kw_only=True)
class Linkage:
    near: float | None = None  # distance (L2) up to which two rows are near duplicates; None leaves the signal out
    flat: float | None = None  # flatness up to which a difference is a gradient line; None leaves the signal out
    rate: float = 0.01  # the chance that a row of an honest client has such a counterpart; larger links later
    alpha: float = 0.01  # the chance, over all accounts together, that honest ones are linked; smaller links later
    window: float = 10.0  # seconds within which a request follows another; 0 leaves timing out
    around: float = 100.0  # seconds around a request in which it could as well have come
    cap: int = 200  # rows and requests kept of an account; bounds memory and time
    total: int = 5_000  # rows kept altogether

    name: ClassVar[str] = "linkage"

    def __post_init__(self) -> None:
        check(self, "near", "greater than 0, or None", lambda v: v is None or v > 0)
        check(self, "flat", "at least 1, or None", lambda v: v is None or v >= 1)
        check(self, "rate", "in (0, 0.5]", lambda v: 0 < v <= 0.5)
        check(self, "alpha", "in (0, 0.5]", lambda v: 0 < v <= 0.5)
        check(self, "window", "at least 0", lambda v: v >= 0)
        check(self, "around", "at least twice the window", lambda v: v >= 2 * self.window)
        for name in ("cap", "total"):
            check(self, name, "an int of at least 2", lambda v: isinstance(v, int) and v >= 2)

    def start(self) -> Sketches:
        return Sketches(self.cap, self.total, self.near is not None or self.flat is not None)

    def add(self, state: Sketches, account: str, x: Floats, at: float) -> None:
        """Take in rows x (n, ...) that an account was answered at a time; changes `state` in place."""
        state.add(account, x, at)

    def links(self, state: Sketches, without: Collection[str] = ()) -> Linked:
        """The test over all that is held; accounts in `without` are linked to nobody."""
        names = [account.name for account in state.accounts]
        counted = {"near": (self.near, state.distance), "line": (self.flat, state.flat)}
        findings: dict[str, dict[str, Finding]] = {name: {} for name in names}
        links: list[Link] = []
        for signal, (most, values) in counted.items():
            if most is not None:
                held = state.owner >= 0
                here = held & (values <= most)
                self._judge(signal, state, np.bincount(state.owner[here], minlength=len(names)), findings)
                links += _row_links(signal, state.owner[here], state.partner[here], names)
        counts, pairs = _shared(state)
        self._judge("same", state, counts, findings)
        links += _row_links("same", *pairs, names)
        links = [self._weaker(link, findings) for link in links]
        links = [link for link in links if self._holds(link.p, len(names))]
        links += self._timed(state, names)
        links = [link for link in links if link.a not in without and link.b not in without]
        return Linked(_components(links), tuple(links), findings)

    def _judge(
        self, signal: str, state: Sketches, counts: NDArray[Any], findings: dict[str, dict[str, Finding]]
    ) -> None:
        from scipy.stats import binom

        of = np.array([len(account.slots) for account in state.accounts], int)
        p = binom.sf(np.floor(counts[: len(of)] + 1e-9) - 1, of, self.rate)
        for i, account in enumerate(state.accounts):
            findings[account.name][signal] = Finding(float(counts[i]), int(of[i]), float(p[i]))

    def _weaker(self, link: Link, findings: Mapping[str, Mapping[str, Finding]]) -> Link:
        ends = (findings[link.a][link.signal].p, findings[link.b][link.signal].p)
        return Link(link.a, link.b, link.signal, link.count, max(ends))

    def _holds(self, p: float, tests: int) -> bool:
        """Whether a p-value among so many of one signal is low enough."""
        return p * tests * len(SIGNALS) <= self.alpha

    def _timed(self, state: Sketches, names: list[str]) -> list[Link]:
        if not self.window:
            return []
        found = following([np.array(account.times) for account in state.accounts], self.window, self.around)
        tests = len(names) * (len(names) - 1)
        return [
            Link(names[a], names[b], "timing", k, p) for (a, b), (k, _, p) in found.items() if self._holds(p, tests)
        ]


def _row_links(signal: str, owners: Labels, partners: Labels, names: list[str]) -> list[Link]:
    """One link for every two accounts with such rows, whichever of them asked first."""
    low, high = np.minimum(owners, partners), np.maximum(owners, partners)
    pairs, counts = np.unique(low * max(len(names), 1) + high, return_counts=True)
    return [
        Link(names[int(p) // len(names)], names[int(p) % len(names)], signal, int(n), 1.0)
        for p, n in zip(pairs, counts, strict=True)
    ]


def _shared(state: Sketches) -> tuple[Array, tuple[Labels, Labels]]:
    """(accounts,) how many questions others ask too, weighted by rarity; and the pairs of accounts with one in common.

    Of the accounts that share a question each is paired with the next one by number.
    """
    counts, a, b = np.zeros(len(state.accounts)), list[int](), list[int]()
    for question in state.questions.values():
        owners = sorted(question.owners)
        if len(owners) < 2:
            continue
        counts[owners] += 1 / (len(owners) - 1)
        a += owners[:-1]
        b += owners[1:]
    return counts, (np.array(a, np.int64), np.array(b, np.int64))


def _components(links: list[Link]) -> tuple[tuple[str, ...], ...]:
    """The groups that links connect, by name."""
    group: dict[str, set[str]] = {}
    for link in links:
        both = group.get(link.a, {link.a}) | group.get(link.b, {link.b})
        for name in both:
            group[name] = both
    return tuple(sorted({tuple(sorted(members)) for members in group.values()}))
