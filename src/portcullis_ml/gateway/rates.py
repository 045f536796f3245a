"""How fast a client may send: token buckets of requests and of bytes, so that what is refused is not free.

Whoever is known has a bucket under their name. Who is not (no key, a wrong one) has one under their address, and that
never stands in the way of others behind the same address who say who they are.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from portcullis_ml.gateway.policy.settings import Limits

__all__ = ["AHEAD_S", "Rates", "address_of"]

AHEAD_S = 10.0  # seconds' worth that may be sent at once, by who has sent nothing before
MOST = 65_536  # buckets; a full one holds nothing that a new one does not, and who comes to more has many addresses


@dataclass(slots=True)
class _Bucket:
    """What its owner may still send, as seconds of their allowance; below 0 they have sent too much."""

    requests: float
    bytes: float
    at: float


class Rates:
    """The buckets of one gate's clients and addresses. `now` is the time in seconds."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, who: str, limits: Limits, now: float, size: int = 0) -> float:
        """Seconds until they may send a request; 0 if they may now, and then it is counted with its bytes."""
        bucket, cost = self._filled(who, limits, now), 60.0 / limits.requests_per_minute
        short = max(cost - bucket.requests, -bucket.bytes)
        if short > 0:
            return short
        bucket.requests -= cost
        bucket.bytes -= 60.0 * size / limits.bytes_per_minute
        return 0.0

    def sent(self, who: str, size: int, limits: Limits, now: float) -> None:
        """They have sent so many bytes, more perhaps than they may: then they wait until that is made up for."""
        self._filled(who, limits, now).bytes -= 60.0 * size / limits.bytes_per_minute

    def _filled(self, who: str, limits: Limits, now: float) -> _Bucket:
        """Their bucket, with what has run in since it was last looked at; a clock that was set back adds nothing."""
        room, bucket = max(AHEAD_S, 60.0 / limits.requests_per_minute), self._buckets.get(who)
        if bucket is None:
            bucket = self._buckets[who] = _Bucket(room, AHEAD_S, now)
            if len(self._buckets) > MOST:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(who)
        passed = max(now - bucket.at, 0.0)
        bucket.requests = min(bucket.requests + passed, room)
        bucket.bytes = min(bucket.bytes + passed, AHEAD_S)
        bucket.at = now
        return bucket


def address_of(peer: str | None) -> str:
    """What an address is counted under: no client's name begins with a bracket. Whoever has one address of IPv6 has all
    of a network of 64 bits."""
    try:
        found = ipaddress.ip_address(peer or "")
    except ValueError:
        return "(address)"
    if found.version == 4:
        return f"({found})"
    return f"({ipaddress.ip_network((found, 64), strict=False)})"
