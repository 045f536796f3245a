"""What a client is told where it gets no answer: one sentence in its protocol, and nothing of how the gate judges."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from portcullis_ml.core.errors import Refused, Unreachable
from portcullis_ml.gateway.exchange import Exchange
from portcullis_ml.gateway.http.messages import Rejected
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import REMAINING, Reply, Wire
from portcullis_ml.gateway.state.fold import Failed
from portcullis_ml.gateway.state.journal import Down
from portcullis_ml.gateway.work import HEADER as WORK

__all__ = ["error_reply", "method_reply", "status_reply"]

log = logging.getLogger("portcullis.gate")
UNASKED = "The model cannot be asked just now."  # the operator is told why, see `trouble`
SENTENCES = {503: "The model server is busy.", 504: "The model server did not answer in time."}


def status_reply(wire: Wire, what: str, policy: Policy) -> Reply:
    """The reply on a route that asks the model nothing; `what` is empty where there is no such route."""
    if not what:
        return wire.refuse(404, "There is nothing here; see the list of routes in the documentation.")
    return wire.tell(policy.served, what)


def method_reply(wire: Wire, method: str, methods: tuple[str, ...]) -> Reply:
    """The reply on a route that is asked by OPTIONS, or by a method that it does not have."""
    allow = ("allow", ", ".join(methods))
    if method == "OPTIONS":
        return Reply(b"", 204, (allow,))
    refusal = wire.refuse(405, f"Ask here by {' or '.join(methods)}.")
    return Reply(refusal.body, refusal.status, (*refusal.headers, allow))


def error_reply(exchange: Exchange, error: BaseException, work: str = "") -> tuple[Reply, str]:
    """(the reply on an error, the decision that it is counted as). `work` is what a refusal sets the client."""
    if isinstance(error, BadRequest):
        decision = "unidentified" if error.status in (401, 403) else "malformed"
        return exchange.wire.refuse(error.status, error.sentence), decision
    rejected = error if isinstance(error, Rejected) else _rejection(error)
    if rejected is None:
        log.error("a request failed", exc_info=error, extra={"id": exchange.id})
        return exchange.wire.refuse(500, "The gate failed on this request."), "failed"
    reply = _rejected(exchange.wire, _with_contact(rejected, exchange.policy))
    if work:
        reply = Reply(reply.body, 428, (*reply.headers, (WORK, work)))
    return reply, rejected.decision


def _rejection(error: BaseException) -> Rejected | None:
    """What an error of the guard, the journal or the model server is for the client; None for any other."""
    if isinstance(error, Refused):
        status = 403 if error.retry_after is None else 429
        return Rejected("refused", status, str(error), error.retry_after, error.room)
    if isinstance(error, Failed):
        return Rejected("failed", 503, "The guard failed on this request.", 2.0)
    if isinstance(error, Unreachable):
        status = error.status or 502
        return Rejected("failed", status, SENTENCES.get(status, UNASKED), 1.0 if status == 503 else None)
    if isinstance(error, Down):
        return Rejected("failed", 503, "The gate cannot keep its records just now.", 2.0)
    return None


def _with_contact(rejected: Rejected, policy: Policy) -> Rejected:
    """A refusal that is no quota's also says whom to turn to, where the policy wants that."""
    stopped = rejected.decision in ("refused", "withheld") and rejected.remaining is None
    if not (stopped and policy.alarms and policy.alarms.tell_clients):
        return rejected
    return replace(rejected, sentence=f"{rejected.sentence} If this is a mistake: {policy.alarms.contact}")


def _rejected(wire: Wire, rejected: Rejected) -> Reply:
    reply = wire.refuse(rejected.status, rejected.sentence)
    more = []
    if rejected.retry_after is not None:
        more.append(("retry-after", str(max(1, math.ceil(rejected.retry_after)))))
    if rejected.remaining is not None:
        more.append((REMAINING, str(rejected.remaining)))
    return Reply(reply.body, reply.status, (*reply.headers, *more))
