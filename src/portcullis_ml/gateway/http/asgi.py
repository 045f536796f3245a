"""The gate as an ASGI application, for those who mount it in theirs.

Written against ASGI itself, without a framework's request objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from portcullis_ml.gateway.http.bodies import Body
from portcullis_ml.gateway.http.handler import Exchange, Handler
from portcullis_ml.gateway.http.messages import Request, fields
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import Reply

__all__ = ["Receive", "Scope", "Send", "answer"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def answer(gate: Handler[Any], scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http":
        await _http(gate, scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


async def _http(gate: Handler[Any], scope: Scope, receive: Receive, send: Send) -> None:
    done: asyncio.Future[tuple[Reply, str]] = asyncio.get_running_loop().create_future()
    headers, twice = fields(scope["headers"])
    request = Request(scope["method"], scope["path"], headers, twice, scope.get("raw_path") or b"")
    peer = scope.get("client")
    exchange = gate.enter(
        request, peer[0] if peer else None, lambda *reply: None if done.done() else done.set_result(reply)
    )
    if exchange is not None:
        try:
            body = await _body(gate, exchange, receive)
        except BaseException as error:
            gate.give_up(exchange, error)
            if not isinstance(error, Exception):
                raise
        else:
            gate.go_on(exchange, body)
    reply, id = await done
    sent = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in (*reply.headers, ("x-request-id", id))]
    if reply.status != 204:
        sent.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": sent})
    await send({"type": "http.response.body", "body": reply.body})


async def _body(gate: Handler[Any], exchange: Exchange, receive: Receive) -> bytes:
    """All of it, in time and within limits."""
    limits = exchange.limits
    body = Body(gate.bodies, limits)
    try:
        async with asyncio.timeout(limits.body_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise BadRequest("The body ended early.")
                body.add(message.get("body", b""))
                if not message.get("more_body"):
                    return body.take()
    except TimeoutError:
        raise BadRequest(f"The body of a request took longer than {limits.body_s:g} seconds.", 408) from None
    finally:
        body.drop()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
