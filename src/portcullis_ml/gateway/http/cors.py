"""Cross-origin resource sharing: which pages in a browser may ask the gate (fetch.spec.whatwg.org, "CORS protocol")."""

from __future__ import annotations

from collections.abc import Mapping

from portcullis_ml.gateway.policy.settings import Cors
from portcullis_ml.gateway.protocols.wire import Reply

__all__ = ["shared"]


def shared(reply: Reply, cors: Cors, headers: Mapping[str, str]) -> Reply:
    """The reply to a request with these headers, with what its browser must be told. A browser that asks beforehand
    whether it may ask (a preflight: OPTIONS, answered by 204 and `Allow`) is told by which methods and with which
    headers."""
    everybody = "*" in cors.origins
    more = [] if everybody else [("vary", "origin")]  # or a cache would show one page the answer to another
    origin = headers.get("origin")
    if origin is not None and (everybody or origin in cors.origins):
        more.append(("access-control-allow-origin", "*" if everybody else origin))
        if reply.status == 204 and "access-control-request-method" in headers:
            more.append(("access-control-allow-methods", dict(reply.headers).get("allow", "")))
            more.append(("access-control-allow-headers", ", ".join(cors.headers)))
            more.append(("access-control-max-age", str(cors.max_age_s)))
        else:
            more.append(("access-control-expose-headers", ", ".join(cors.exposed)))
    return Reply(reply.body, reply.status, (*reply.headers, *more))
