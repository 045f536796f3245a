"""Campaigns: accounts that ask as one principal would, found in what was answered.

Nothing here waits, writes or reads a clock: the gate's `linking` feeds it while it serves, `portcullis replay --groups`
from a log. What is remembered is lost at a restart; what was decided by it stands in the journals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from portcullis_ml.core.types import Answer, Floats, Request
from portcullis_ml.gateway.policy.groups_table import Groups
from portcullis_ml.gateway.querylog import Line

__all__ = ["LISTED", "MEANS", "REASON", "Campaign", "Campaigns", "Seen", "campaigns_in"]

REASON = "LINKED_ACCOUNTS"  # of the alarm
MEANS = "The accounts ask as one principal would, by the links that are named, and were answered too much together."
LISTED = 20  # accounts and links that an alarm names
SHOWN = 3  # links of an account that its evidence names


class Seen(NamedTuple):
    """One answered request."""

    client: str  # the principal
    x: Floats
    clean: Answer
    at: float


@dataclass(frozen=True)
class Campaign:
    """A linked group that was called just now, or that has grown by accounts since."""

    members: tuple[str, ...]
    new: tuple[str, ...]  # the members that were not called before
    rows: int  # that all of them were answered, as far as is remembered
    loudest: float  # the detector's highest suspicion over the group's stream; NaN without a verdict
    cause: str  # "rows", "detector" or "called before"
    links: tuple[Any, ...] = ()  # between members, see `detectors.linkage`
    accounts: Mapping[str, list[float]] = field(default_factory=dict)  # of each member: rows, first and last time

    def evidence(self, account: str) -> str:
        """Why this account is in the group, in words for operators."""
        own = sorted((x for x in self.links if account in (x.a, x.b)), key=lambda x: (-x.count, x.signal, x.a, x.b))
        named = [f"{x.signal} with {x.b if x.a == account else x.a} ({x.count}, p {x.p:.1g})" for x in own[:SHOWN]]
        more = f" and {len(own) - SHOWN} more" if len(own) > SHOWN else ""
        return f"{REASON}: {len(self.members)} accounts, {self.rows} rows, called by {self.cause}; " + (
            "; ".join(named) + more
        )


@dataclass
class Campaigns:
    """What is remembered of answered requests, and which accounts were called."""

    groups: Groups
    called: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)  # whom an operator has let go: nothing links them any more

    def __post_init__(self) -> None:
        self.linkage = self.groups.linkage
        self.state = self.linkage.start()
        self._streams: dict[str, deque[Seen]] = {}  # the latest requests of each account, for the detector
        self._rows = 0  # in them

    def add(self, seen: Seen) -> None:
        self.linkage.add(self.state, seen.client, seen.x, seen.at)
        if self.groups.detector is None:
            return
        held = self._streams[seen.client] = self._streams.pop(seen.client, deque())  # who asked last comes last
        held.append(seen)
        self._rows += len(seen.x)
        while len(held) > 1 and sum(len(one.x) for one in held) > self.linkage.cap:
            self._rows -= len(held.popleft().x)
        while self._rows > self.linkage.total:
            idle = next(iter(self._streams))
            self._rows -= len(self._streams[idle].popleft().x)
            if not self._streams[idle]:
                del self._streams[idle]

    def test(self) -> list[Campaign]:
        """Groups that are called now and were not before, and called ones that have grown."""
        linked = self.linkage.links(self.state, self.cleared)
        known = {a.name: [float(a.rows), min(a.times), max(a.times)] for a in self.state.accounts}
        found = []
        for members in linked.groups:
            new = tuple(name for name in members if name not in self.called)
            if not new:
                continue
            together, loudest = int(sum(known[name][0] for name in members)), float("nan")
            cause = "called before" if len(new) < len(members) else "rows" if together > self.groups.rows else ""
            if not cause:
                loudest = self._loudest(members)
                cause = "detector" if self.groups.detector and loudest > self.groups.detector.threshold else ""
            if cause:
                accounts = {name: known[name] for name in members}
                found.append(Campaign(members, new, together, loudest, cause, linked.within(members), accounts))
                self.called |= set(members)
        return found

    def _loudest(self, members: tuple[str, ...]) -> float:
        """The detector's highest suspicion over what the members asked, in order of time."""
        detector = self.groups.detector
        held = sorted((one for name in members for one in self._streams.get(name, ())), key=lambda one: one.at)
        if detector is None or not held:
            return float("nan")
        state = detector.start()
        found = [
            detector.update(state, Request("group", np.asarray(one.x, np.float64), one.at), one.clean) for one in held
        ]
        given = np.concatenate(found)
        return float(np.nanmax(given)) if not np.isnan(given).all() else float("nan")


def campaigns_in(lines: Iterable[Line], groups: Groups) -> tuple[list[tuple[float, Campaign]], Campaigns]:
    """What the gate would have called over a log, with the time of each; and what it remembers at the end. Nobody is
    blocked on the way."""
    found, state, due = list[tuple[float, Campaign]](), Campaigns(groups), float("-inf")
    answered = [
        (line.at, Seen(line.counts_for, line.x, line.clean, line.at))
        for line in lines
        if line.released and line.x is not None and line.clean is not None
    ]
    at = 0.0
    for at, seen in sorted(answered, key=itemgetter(0)):
        if at >= due:
            found += [(at, campaign) for campaign in state.test()]
            due = at + groups.every_s
        state.add(seen)
    found += [(at, campaign) for campaign in state.test()]
    return found, state
