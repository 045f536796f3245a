"""The part of a gate's self-test that needs no guard: how fast, how many at once, how large.

Heads of requests are sent to a gate of its own, whose clients say who they are in a header; nobody is answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portcullis_ml.core.guard import Guard
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.http.messages import Request as Head
from portcullis_ml.gateway.policy.clients import Clients, Named
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.policy.principals import Caller
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.rates import AHEAD_S, Rates
from portcullis_ml.gateway.state.stores import SqliteStore
from portcullis_ml.gateway.state.streams import Streams

__all__ = ["NOW", "Tried", "at_once", "of_whom", "pair", "rates", "sizes"]

MOST = 50_000  # requests that one limit is tried with
NUMBERS = 200_000  # of a question that is written to try the limit on rows
NOW = 1e9  # the time at which all begins


@dataclass(frozen=True)
class Tried:
    """One limit, and whether it bites. `found` is what was seen, or why it never bites or was not tried."""

    what: str
    found: str
    bites: bool | None  # None: not tried

    def __str__(self) -> str:
        return f"{self.what}: {('never bites because ', '')[self.bites is not False]}{self.found}"


def rates(limits: Limits) -> Iterator[Tried]:
    """As many requests, and as many bytes, as may come at once, and one more."""
    what, per_minute = "requests_per_minute", limits.requests_per_minute
    most = max(1, math.floor(AHEAD_S / 60 * per_minute + 1e-9)) if math.isfinite(per_minute) else 0
    if not most:
        yield Tried(what, "it is inf", False)
    elif most > MOST:
        yield Tried(what, f"not tried: {most:,} may come at once", None)
    else:
        rates = Rates()
        taken = next(n for n in range(most + 2) if rates.wait("self-test", limits, NOW) > 0)
        yield Tried(what, f"request {taken + 1:,} at once has to wait", taken <= most)
    what = "bytes_per_minute"
    if not math.isfinite(limits.bytes_per_minute):
        yield Tried(what, "it is inf", False)
        return
    rates, most = Rates(), math.floor(AHEAD_S / 60 * limits.bytes_per_minute) + 1
    rates.sent("self-test", most, limits, NOW)
    wait = rates.wait("self-test", limits, NOW)
    yield Tried(what, f"after {most:,} bytes at once the next request has to wait", wait > 0)


def at_once(policy: Policy) -> Iterator[Tried]:
    """Requests that never end, at a gate of their own: of one client, by two of its accounts, and of many clients."""
    limits = replace(policy.limits, requests_per_minute=math.inf, bytes_per_minute=math.inf)
    what = "per_client"
    if limits.per_client >= limits.in_flight:
        yield Tried(what, f"in_flight stops all clients together at {limits.in_flight:,}", False)
    elif limits.per_client > MOST:
        yield Tried(what, f"not tried: it is more than {MOST:,}", None)
    else:
        with closing(_Asking(policy, limits, linked=True)) as asking:
            told = [
                asking.enter(i % 2 if policy.clients.principals.principal else 0) for i in range(limits.per_client + 1)
            ]
        number = f"request {limits.per_client + 1:,} at once"
        yield Tried(what, f"{number} is refused{of_whom(policy)}", told[-1] == 429 and set(told[:-1]) == {0})
    if limits.in_flight > MOST:
        yield Tried("in_flight", f"not tried: it is more than {MOST:,}", None)
        return
    with closing(_Asking(policy, limits, linked=False)) as asking:
        told = [asking.enter(i) for i in range(limits.in_flight + 1)]
    number = f"request {limits.in_flight + 1:,} of all clients at once"
    yield Tried("in_flight", f"{number} is refused", told[-1] == 503 and set(told[:-1]) == {0})


def sizes(policy: Policy) -> Iterator[Tried]:
    limits = policy.limits
    with closing(_Asking(policy, limits, linked=False)) as asking:
        status = asking.enter(0, **{"content-length": str(limits.body_bytes + 1)})
    yield Tried("body_bytes", f"a body of {limits.body_bytes + 1:,} bytes is refused", status == 413)
    numbers = (limits.rows + 1) * math.prod(policy.served.interface.input_shape)
    if numbers > limits.body_bytes:
        yield Tried("rows", f"a body of body_bytes cannot hold {limits.rows + 1:,} rows", False)
    elif numbers > NUMBERS:
        yield Tried("rows", f"not tried: a question of {limits.rows + 1:,} rows is {numbers:,} numbers long", None)
    else:
        yield Tried("rows", f"a question of {limits.rows + 1:,} rows is refused", _too_many_rows(policy) == 413)


def _too_many_rows(policy: Policy) -> int:
    wire, plain = policy.wires()[0], replace(policy.served, binary=False, max_rows=policy.limits.rows)
    ask = wire.ask(plain, np.zeros((policy.limits.rows + 1, *plain.interface.input_shape)))
    try:
        wire.read(plain, {"content-type": "application/json", **ask.headers}, ask.body)
    except BadRequest as error:
        return error.status
    return 0


class _Asking:
    """Sends heads of requests to a gate of its own, whose clients say who they are in a header. Nobody is answered."""

    def __init__(self, policy: Policy, limits: Limits, *, linked: bool) -> None:
        self._policy, self._linked = policy, linked
        ways = (Named(header="x-client", organisation="x-organisation", payment="x-payment"),)
        links = replace(policy.clients.principals, forwarded=None)
        clients = Clients(named=ways, principals=links) if linked else Clients(named=ways)
        own = replace(policy, clients=clients, limits=limits)
        wire, plain = policy.wires()[0], replace(policy.served, binary=False)
        self._path = wire.ask(plain, np.zeros((1, *plain.interface.input_shape))).path
        self._store = SqliteStore(":memory:")
        nobody: Any = None  # the model server, which no request comes as far as
        self._gate = Gate(own, Streams(Guard(key=policy.key), self._store), nobody, clock=lambda: NOW)

    def enter(self, number: int, **headers: str) -> int:
        """The status of the reply to such a head; 0 where the request waits for its body."""
        told: list[int] = []
        name = _callers(self._policy)[number].account if self._linked else f"self-test-{number}"
        said = {"x-client": name, **headers}
        if self._linked:
            said |= {"x-organisation": "self-test", "x-payment": "self-test"}
        head = Head("POST", self._path, said, frozenset(), self._path.encode())
        self._gate.enter(head, "127.0.0.1", lambda reply, id: told.append(reply.status))
        return told[0] if told else 0

    def close(self) -> None:
        self._store.discard()


def _callers(policy: Policy) -> tuple[Caller, Caller]:
    """Two accounts that share whatever the policy links accounts by."""
    prefix = policy.clients.principals.key_prefix
    name = f"self{prefix}test" if isinstance(prefix, str) else "self-test".ljust(prefix, "-")
    return Caller(name, "self-test", "self-test"), Caller(f"{name}2"[:128], "self-test", "self-test")


def pair(policy: Policy) -> tuple[str, str]:
    """The principals of two accounts that share what the policy links by; without links, one client twice."""
    links = policy.clients.principals
    if not links.principal:
        return "self-test", "self-test"
    one, other = (links.owner(caller, {}, "192.0.2.1").principal for caller in _callers(policy))
    return one, other


def of_whom(policy: Policy) -> str:
    """What a limit that bites is said of besides, where the policy links accounts."""
    one, other = pair(policy)
    linked = policy.clients.principals.principal and one == other
    return ", of a second account of the same principal too" if linked else ""
