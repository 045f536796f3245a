"""Calls of gRPC to a gate on the test's own event loop, by grpcio's client and messages of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tests.gateway.asgi import ALICE, Here

from portcullis_ml.gateway.grpc.port import GrpcPort, open_port
from portcullis_ml.gateway.protocols.grpc_messages import CLASSES, CONTENTS, SERVICE, message
from portcullis_ml.gateway.protocols.wire import DTYPE

LISTEN = "[listen]\nport = 0\ngrpc_port = 0\n"


def asked(x: Any, *, raw: bool = True, datatype: str = "FP64", **fields: Any) -> Any:
    """A question for these rows."""
    x = np.asarray(x, DTYPE[datatype])
    tensor = message("Tensor", name="input", datatype=datatype, shape=x.shape)
    if not raw:
        getattr(tensor.contents, CONTENTS[datatype]).extend(x.ravel().tolist())
    whole = {"model_name": "m", "inputs": [tensor], "raw_input_contents": [x.tobytes()] if raw else [], **fields}
    return message("ModelInferRequest", **whole)


def answers(body: bytes) -> dict[str, np.ndarray]:
    """The tensors of an answer, by name; of texts an array of bytes."""
    came = CLASSES["ModelInferResponse"].FromString(body)
    found = {}
    for i, tensor in enumerate(came.outputs):
        if came.raw_output_contents and tensor.datatype == "BYTES":
            raw, values = came.raw_output_contents[i], []
            while raw:
                end = 4 + int.from_bytes(raw[:4], "little")
                values.append(raw[4:end])
                raw = raw[end:]
        elif came.raw_output_contents:
            values = np.frombuffer(came.raw_output_contents[i], DTYPE[tensor.datatype])
        else:
            values = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
        found[tensor.name] = np.array(values).reshape(list(tensor.shape))
    return found


class Calls:
    """Each call gives (the code's name, the answer's bytes or the sentence, the metadata at the end)."""

    def __init__(self, here: Here, port: GrpcPort, channel: Any) -> None:
        self.here, self.port, self.channel = here, port, channel

    async def infer(self, question: Any, headers: Mapping[str, str] = ALICE, **settings: Any) -> tuple[str, Any, Any]:
        body = question if isinstance(question, bytes) else question.SerializeToString()
        return await self("ModelInfer", body, headers.items(), **settings)

    async def __call__(
        self, method: str, body: bytes = b"", headers: Iterable[tuple[str, Any]] = (), service: str = SERVICE,
        **settings: Any,
    ) -> tuple[str, Any, dict[str, str]]:  # fmt: skip
        call = self.channel.unary_unary(f"/{service}/{method}")(body, metadata=tuple(headers), **settings)
        try:
            found = await call
            return "OK", found, dict(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details(), dict(error.trailing_metadata() or ())


@asynccontextmanager
async def calling(here: Here, options: Iterable[tuple[str, Any]] = ()) -> AsyncIterator[Calls]:
    port = open_port(here.policy.listen, here.policy.limits, here.gate, lambda: here.gate.policy)
    await port.start()
    async with grpc.aio.insecure_channel(port.address, options=tuple(options)) as channel:
        try:
            yield Calls(here, port, channel)
        finally:
            await port.stop(0.0)
