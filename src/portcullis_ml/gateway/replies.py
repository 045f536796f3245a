"""What a client is told where it gets no answer: one sentence in its protocol, and nothing of how the gate judges."""

from __future__ import annotations

import logging
import math

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.gateway.exchange import Exchange
from portcullis_ml.gateway.http.handler import Rejected
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import REMAINING, Reply, Wire
from portcullis_ml.gateway.state.streams import Down

__all__ = ["error_reply", "status_reply"]

log = logging.getLogger("portcullis.gate")


def status_reply(wire: Wire, what: str, policy: Policy) -> Reply:
    """The reply on a route that asks the model nothing; `what` is empty where there is no such route."""
    if not what:
        return wire.refuse(404, "There is nothing here; see the list of routes in the documentation.")
    return wire.tell(policy.served, what)


def error_reply(exchange: Exchange, error: BaseException) -> tuple[Reply, str]:
    """(the reply on an error, the decision that it is counted as)."""
    if isinstance(error, Unreachable):
        error = Rejected("failed", error.status or 502, str(error), 1.0 if error.status == 503 else None)
    elif isinstance(error, Down):
        error = Rejected("failed", 503, "The gate cannot keep its records just now.", 2.0)
    if isinstance(error, Rejected):
        return _rejected(exchange.wire, error), error.decision
    if isinstance(error, BadRequest):
        decision = "unidentified" if error.status in (401, 403) else "malformed"
        return exchange.wire.refuse(error.status, error.sentence), decision
    log.error("a request failed", exc_info=error, extra={"id": exchange.id})
    return exchange.wire.refuse(500, "The gate failed on this request."), "failed"


def _rejected(wire: Wire, rejected: Rejected) -> Reply:
    reply = wire.refuse(rejected.status, rejected.sentence)
    more = []
    if rejected.retry_after is not None:
        more.append(("retry-after", str(max(1, math.ceil(rejected.retry_after)))))
    if rejected.remaining is not None:
        more.append((REMAINING, str(rejected.remaining)))
    return Reply(reply.body, reply.status, (*reply.headers, *more))
