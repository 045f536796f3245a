"""What a client is told where it gets no answer: one sentence in its protocol, and nothing of how the gate judges."""

from __future__ import annotations

import logging
import math

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.gateway.intake import ROOM, Turned, Visit
from portcullis_ml.gateway.policy import Policy
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import Reply, Wire
from portcullis_ml.gateway.streams import Down

__all__ = ["told", "told_of"]

log = logging.getLogger("portcullis.gate")


def told(wire: Wire, what: str, policy: Policy) -> Reply:
    """The reply on a route that asks the model nothing; `what` is empty where there is no such route."""
    if not what:
        return wire.refuse(404, "There is nothing here; see the list of routes in the documentation.")
    return wire.tell(policy.served, what)


def told_of(visit: Visit, error: BaseException) -> tuple[Reply, str]:
    """(the reply on an error, the decision that it is counted as)."""
    if isinstance(error, Unreachable):
        error = Turned("failed", error.status or 502, str(error), 1.0 if error.status == 503 else None)
    elif isinstance(error, Down):
        error = Turned("failed", 503, "The gate cannot keep its records just now.", 2.0)
    if isinstance(error, Turned):
        return _turned(visit.wire, error), error.decision
    if isinstance(error, BadRequest):
        decision = "unidentified" if error.status in (401, 403) else "malformed"
        return visit.wire.refuse(error.status, error.sentence), decision
    log.error("a request failed", exc_info=error, extra={"id": visit.id})
    return visit.wire.refuse(500, "The gate failed on this request."), "failed"


def _turned(wire: Wire, turned: Turned) -> Reply:
    reply = wire.refuse(turned.status, turned.sentence)
    more = []
    if turned.retry_after is not None:
        more.append(("retry-after", str(max(1, math.ceil(turned.retry_after)))))
    if turned.room is not None:
        more.append((ROOM, str(turned.room)))
    return Reply(reply.body, reply.status, (*reply.headers, *more))
