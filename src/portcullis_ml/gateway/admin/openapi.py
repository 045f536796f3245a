"""The routes that clients reach, as an OpenAPI 3.1 description: each protocol's own words, put together."""

from __future__ import annotations

from typing import Any

from portcullis_ml import __version__
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.described import Described, Schema
from portcullis_ml.gateway.protocols.wire import Wire

__all__ = ["described"]

REFUSALS = {
    400: "The request cannot be read.", 401: "Who asks is not known.", 403: "Who asks is refused.",
    404: "There is nothing here.", 408: "The request came too slowly.", 413: "The request is too large.",
    415: "The content type or encoding is not taken.", 429: "A quota or a limit is used up; see Retry-After.",
    431: "The headers are too large.", 502: "The model server failed.", 503: "The gate is busy; see Retry-After.",
    504: "The model server did not answer in time.",
}  # fmt: skip


def described(policy: Policy, *further: Policy) -> dict[str, Any]:
    """The description of a gate under this policy, and those of further models. The first that has a route answers."""
    paths: dict[str, dict[str, Any]] = {}
    for one in (policy, *further):
        for wire in one.wires():
            for route in wire.routes(one.served):
                paths.setdefault(route.path, {}).setdefault(route.method, _operation(wire, route))
    names = ", ".join(repr(one.served.id) for one in (policy, *further)) if further else repr(policy.served.name)
    ways = _ways(policy)
    open_to_all: list[dict[str, Any]] = [{}] if policy.clients.anonymous == "shared" else []
    return {
        "openapi": "3.1.0",
        "info": {"title": f"The model{'s' if further else ''} {names} behind Portcullis", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": ways},
        "security": [*({name: []} for name in ways), *open_to_all],
    }


def _ways(policy: Policy) -> dict[str, Any]:
    """How a client says who it is; what a proxy says of it is no client's business."""
    clients, found = policy.clients, {}
    if clients.keys:
        found["key"] = {"type": "apiKey", "in": "header", "name": clients.key_header}
    if clients.token and clients.token.header == "authorization":
        found["token"] = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    elif clients.token:
        found["token"] = {"type": "apiKey", "in": "header", "name": clients.token.header}
    return found


def _operation(wire: Wire, route: Described) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "The answer."}
    if route.answer is not None:
        answer["content"] = {"application/json": _of(route.answer)}
    tree: dict[str, Any] = {"summary": route.summary, "tags": [wire.name]}
    if route.body is None and not route.kinds:
        tree["security"] = []  # health and metadata are told to everyone
    else:
        json_body = {} if route.body is None else {"application/json": route.body}
        bodies = {**json_body, **route.kinds}
        tree["requestBody"] = {"required": True, "content": {kind: _of(schema) for kind, schema in bodies.items()}}
    told = REFUSALS if "requestBody" in tree else {408: REFUSALS[408], 431: REFUSALS[431], 503: REFUSALS[503]}
    json = {"application/json": _of(wire.refusal())}
    tree["responses"] = {
        "200": answer,
        **{str(status): {"description": words, "content": json} for status, words in told.items()},
    }
    return tree


def _of(schema: Schema) -> dict[str, Any]:
    return {"schema": schema}
