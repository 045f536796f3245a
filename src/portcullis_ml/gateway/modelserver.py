"""A model server of the plainest kind: one model, no guard, the protocols of the gate.

What the demonstration and the tests put behind the gate, and what a benchmark compares it with. It
runs as a process of its own with `python -m portcullis_ml.gateway.modelserver [MODULE:FUNCTION [PORT]]`, and prints
its address.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import MutableMapping
from typing import Any

import uvicorn

from portcullis_ml.catalog import resolve
from portcullis_ml.core.oracle import checked_answer
from portcullis_ml.core.types import Model
from portcullis_ml.gateway.http.ports import address, bound
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import ModelSpec, Reply
from portcullis_ml.models.texts import with_texts

PROTOCOLS = ("v2", "v1", "invocations")
__all__ = ["ModelServer", "digits"]


class ModelServer:
    """An ASGI application that answers every question that it can read."""

    def __init__(
        self, model: Model, served: ModelSpec, *, protocols: tuple[str, ...] = ("v2", "v1", "invocations")
    ) -> None:
        self._model = model
        self._served = served
        self._wires = [CATALOG.load(name)() for name in protocols]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        reply = self._reply(scope["method"], scope["path"], headers, body)
        kinds = [(k.encode(), v.encode()) for k, v in (*reply.headers, ("content-length", str(len(reply.body))))]
        await send({"type": "http.response.start", "status": reply.status, "headers": kinds})
        await send({"type": "http.response.body", "body": reply.body})

    def _reply(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        for wire in self._wires:
            what = wire.route(method, path, self._served)
            if what == "infer":
                try:
                    inquiry = wire.read(self._served, headers, body)
                except BadRequest as error:
                    return wire.refuse(error.status, error.sentence)  # type: ignore[no-any-return]
                model, x = with_texts(self._model, inquiry.x, inquiry.carried.texts)
                answer = checked_answer(model, x, self._served.interface)
                return wire.write(self._served, inquiry, answer)  # type: ignore[no-any-return]
            if what is not None:
                return wire.tell(self._served, what)  # type: ignore[no-any-return]
        return Reply(b'{"error":"There is nothing here."}', 404)


def digits() -> tuple[Model, ModelSpec]:
    """The demonstration's model: the embedded digits, and how it is served."""
    return resolve("portcullis_ml.gateway.demo:digits_model")()  # type: ignore[no-any-return]


def main(path: str = "portcullis_ml.gateway.modelserver:digits", port: str = "0") -> None:
    """Serve the (model, served) that a function gives, on this machine only; port 0 is one that the system picks."""
    model, served = resolve(path)()
    sock = bound("127.0.0.1", int(port))
    print(address(sock), flush=True)
    config = uvicorn.Config(ModelServer(model, served), log_config=None, access_log=False, lifespan="off", ws="none")
    asyncio.run(uvicorn.Server(config).serve(sockets=[sock]))


if __name__ == "__main__":
    main(*sys.argv[1:3])
