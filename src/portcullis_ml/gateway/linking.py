"""The linker: reads what the gate has answered, beside the requests' way, and acts on campaigns.

Answered requests wait in a bounded queue, after their answers were sent; what has no room is dropped and counted. Every
so often they are taken to a thread that links accounts. Of a campaign an alarm is written and a line for each account
in the operators' log; with `seen = "block"` each account is blocked by the event that an operator's block is. An
operator's unblock lets an account go for as long as the process lives. Each replica sees what it has answered itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from portcullis_ml.core.guard import Alarm
from portcullis_ml.gateway.campaigns import LISTED, MEANS, REASON, Campaign, Campaigns, Seen
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.querylog import Line
from portcullis_ml.gateway.state.evidence import AlarmRecord, accounts_of
from portcullis_ml.gateway.state.stores import StateStore
from portcullis_ml.gateway.state.streams import Down

__all__ = ["BY", "Linker"]

log = logging.getLogger("portcullis.gate")
WAITING = 128 << 20  # bytes of rows that wait to be looked at, at most
BY = "linkage"  # who blocks, in journals and in the operators' log


class Blocking(Protocol):
    """The part of the gate's streams that a linker needs."""

    async def operate(self, client: str, kind: str, by: str, at: float) -> None: ...


class Linker:
    """One gate's linker. `take` is called on the event loop, `run` is a task there, and the test runs in a thread.

    on_alarm  called with every new alarm, once it is safe
    """

    def __init__(
        self,
        policy: Policy,
        streams: Blocking,
        store: StateStore,
        *,
        clock: Callable[[], float],
        on_alarm: Callable[[Alarm], None] = lambda alarm: None,
    ) -> None:
        self.streams, self.store, self.clock, self.on_alarm = streams, store, clock, on_alarm
        self.dropped = 0  # rows that were never looked at
        self._waiting: deque[Seen] = deque()
        self._bytes = 0  # of them
        self._blocked: dict[str, float] = {}  # when
        self._unwritten: list[tuple[Campaign, list[str]]] = []  # campaigns, and whom nothing was written of yet
        self.campaigns: Campaigns | None = None
        self.use(policy)

    def use(self, policy: Policy) -> None:
        """Go by this policy from now on. Other settings begin with an empty memory."""
        self.policy, groups = policy, policy.groups
        if self.campaigns is None or self.campaigns.groups != groups:
            self.campaigns = None if groups.seen == "off" else Campaigns(groups)

    @property
    def called(self) -> int:
        """How many accounts are in a campaign."""
        return 0 if self.campaigns is None else len(self.campaigns.called)

    def take(self, line: Line) -> None:
        """An answer was sent. Never waits, and drops what there is no room for."""
        if self.campaigns is None or not line.released or line.x is None or line.clean is None:
            return
        client = line.counts_for
        if line.at > self._blocked.get(client, math.inf):
            self._let_go(self.campaigns, client)
        if self._bytes + line.x.nbytes > WAITING:
            self.dropped += len(line.x)
            return
        self._bytes += line.x.nbytes
        self._waiting.append(Seen(client, line.x, line.clean, line.at))

    async def run(self) -> None:
        """Look every so often, until cancelled."""
        while True:
            await asyncio.sleep(self.policy.groups.every_s)
            try:
                await self.look()
            except Exception:
                log.exception("linked accounts could not be looked for")

    async def look(self) -> None:
        """Test what waits, and act on what is found."""
        campaigns = self.campaigns
        if campaigns is None:
            return
        seen, self._waiting, self._bytes = self._waiting, deque(), 0
        found = await asyncio.to_thread(_tested, campaigns, seen)
        self._unwritten += [(campaign, list(campaign.new)) for campaign in found]
        while self._unwritten:
            try:
                await self._write(*self._unwritten[0])
            except Down:
                return  # they are tried again next time
            self._unwritten.pop(0)

    async def _write(self, campaign: Campaign, left: list[str]) -> None:
        """The alarm, and a line and a block for each account of which there is none yet; those done leave `left`."""
        at, blocks = self.clock(), self.policy.groups.seen == "block" and self.policy.enforced
        alarm = _alarm(campaign, self.policy, at)
        words = "\x1f".join((REASON, *campaign.new))
        if await self.store.alarm(hashlib.blake2b(words.encode(), digest_size=12).hexdigest(), alarm):
            log.warning("linked accounts", extra=dict(alarm.evidence))
            self.on_alarm(alarm)
        while left:
            name = left[0]
            what = f"{'block' if blocks else 'linked'} ({campaign.evidence(name)})"
            await self.store.log_operation(at, BY, what, name)
            if blocks:
                await self.streams.operate(name, "block", BY, at)
                self._blocked[name] = self.clock()
            left.pop(0)

    def _let_go(self, campaigns: Campaigns, client: str) -> None:
        """Someone who was blocked is answered: an operator has unblocked them."""
        del self._blocked[client]
        campaigns.cleared.add(client)
        campaigns.called.discard(client)


def _tested(campaigns: Campaigns, seen: deque[Seen]) -> list[Campaign]:
    for one in seen:
        campaigns.add(one)
    return campaigns.test()


def _alarm(campaign: Campaign, policy: Policy, at: float) -> AlarmRecord:
    """The alarm with its evidence. It is as loud as the detector, where that called the group; else the group's rows
    are held against those that it may ask."""
    detector = policy.groups.detector if campaign.cause == "detector" else None
    accounts = accounts_of(campaign.accounts)
    strongest = sorted(campaign.links, key=lambda x: (x.p, x.signal, x.a, x.b))[:LISTED]
    evidence = {
        "code": REASON,
        "means": MEANS,
        "detector": detector.name if detector else BY,
        "threshold": float(detector.threshold if detector else policy.groups.rows),
        "settings": policy.digest,
        "rows": campaign.rows,
        "since": min(a["since"] for a in accounts),
        "last": max(a["last"] for a in accounts),
        "accounts": accounts[:LISTED],
        "account_count": len(accounts),
        "cause": campaign.cause,
        "links": [vars(x) for x in strongest],
        "link_count": len(campaign.links),
    }
    loudness = campaign.loudest if detector else float(campaign.rows)
    return AlarmRecord(REASON, campaign.new[0], campaign.rows, loudness, at, evidence)
