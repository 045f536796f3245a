"""Who is asking: identified by the head of a request, counted, and kept to what may be sent and run at once.

An account says who asks; the principal that it belongs to is whose rates, running requests and stream they are. Unless
the policy links accounts, every account is its own principal (decision 21).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from portcullis_ml.gateway.exchange import Exchange
from portcullis_ml.gateway.http.messages import Rejected
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.rates import MOST, Rates, address_of

__all__ = ["Callers"]


class Callers:
    """Everyone who asks one gate: their rates, which they may have in common with other gates, and how many of their
    requests run. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float], rates: Rates) -> None:
        self._clock = clock
        self._rates = rates
        self.running: dict[str, int] = {}  # principal -> requests in flight
        self._joined: OrderedDict[str, str] = OrderedDict()  # account -> the principal that it stays with

    def begin(self, request: Exchange) -> str:
        """The principal, whose running requests are one more until `end`. Raises BadRequest where nobody is named, and
        Rejected where they have sent too much or have too many requests running."""
        client = self._known(request)
        self._within_rates(client, request)
        running = self.running.get(client, 0)
        if running >= request.limits.per_client:
            raise Rejected("busy", 429, "This client has too many requests running.", 1.0)
        self.running[client] = running + 1
        request.client = client
        return client

    def end(self, request: Exchange) -> None:
        """The request has its reply."""
        if request.client is not None:
            self.running[request.client] -= 1
            if not self.running[request.client]:
                del self.running[request.client]

    def sent(self, request: Exchange, size: int) -> None:
        """The body is so many bytes long: what its head did not declare is counted now."""
        more = size - _declared(request)
        if request.client is not None and more > 0:
            self._rates.sent(request.client, more, request.limits, self._clock())

    def unpacked(self, client: str, more: int, limits: Limits) -> None:
        """A body is so many bytes longer once it is decoded, which counts as if it had been sent so."""
        self._rates.sent(client, max(more, 0), limits, self._clock())

    def joined(self, account: str, principal: str) -> None:
        """The account stays with this principal, from the first request on that it ever sent."""
        self._joined[account] = principal
        if len(self._joined) > MOST:
            self._joined.popitem(last=False)

    def _known(self, request: Exchange) -> str:
        """The principal. Raises BadRequest, or Rejected where too many from this address did not say who they are."""
        clients, line, head = request.policy.clients, request.notes.line, (request.headers, request.twice, request.peer)
        try:
            caller = clients.identify(*head, self._clock())
            line.client = caller.account
            owner = clients.owner(caller, *head)
            known = self._joined.get(caller.account) if owner.sticks else None
            request.joins = owner.sticks and known is None
            line.principal = known or owner.principal
            return line.principal
        except BadRequest:
            self._within_rates(address_of(request.peer), request)
            raise

    def _within_rates(self, who: str, request: Exchange) -> None:
        """Count the request and its bytes. Raises Rejected where they have sent too many of late."""
        limits = request.limits
        wait = self._rates.wait(who, limits, self._clock(), min(_declared(request), limits.body_bytes))
        if wait:
            raise Rejected("busy", 429, "More was sent than may be sent in a minute.", wait)


def _declared(request: Exchange) -> int:
    """Bytes of its body, as its head says; 0 where it does not."""
    length = request.headers.get("content-length", "")[:16]
    return int(length) if length.isascii() and length.isdigit() else 0
