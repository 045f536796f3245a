"""What the wire costs, step by step: microseconds of processor time, the least of many tries.

    python benchmarks/gateway/wire.py

The questions are those of load.py, the model server's answers those of stub.py; the client's socket is made of air.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import uvloop
from load import questions
from stub import ANSWERS, BODIES

from portcullis_ml.core.types import Answer, Interface
from portcullis_ml.gateway.http.client import HttpClient
from portcullis_ml.gateway.protocols.v2 import OpenInference
from portcullis_ml.gateway.protocols.wire import Inquiry, ModelSpec
from portcullis_ml.gateway.upstream import checked

WIRE = OpenInference()
PASSED = {"x-request-id": "17-5"}


class Air:
    """A transport whose far side answers at once."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def write(self, message: bytes) -> None:
        self._protocol.data_received(ANSWERS[0])

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


class Loop(uvloop.Loop):
    """A loop whose connections go nowhere."""

    async def create_connection(self, factory: Any, *address: Any, **more: Any) -> Any:  # type: ignore[override]
        protocol = factory()
        protocol.connection_made(Air(protocol))
        return None, protocol


def many(rows: int, d: int, binary: bool) -> tuple[dict[str, str], bytes]:
    """(headers, body) of one question of so many rows, made of load.py's."""
    found = [q.partition(b"\r\n\r\n") for q in questions(rows, d, binary, 1, "k")]
    headers = dict(line.split(": ") for line in found[0][0].decode().split("\r\n")[1:])
    bodies = [body for _, _, body in found]
    if rows == 1:
        return headers, bodies[0]
    cut = int(headers.get("inference-header-content-length", 0))
    tree = json.loads(bodies[0][:cut] if binary else bodies[0])
    tensor = tree["inputs"][0]
    tensor["shape"] = [rows, d]
    if not binary:
        tensor["data"] = [v for body in bodies for v in json.loads(body)["inputs"][0]["data"]]
        return headers, json.dumps(tree).encode()
    tail = b"".join(body[cut:] for body in bodies)
    tensor["parameters"]["binary_data_size"] = len(tail)
    head = json.dumps(tree).encode()
    return {**headers, "inference-header-content-length": str(len(head))}, head + tail


def answered(rows: int) -> bytes:
    """stub.py's answer, for so many rows."""
    tree = json.loads(BODIES[3])
    for output in tree["outputs"]:
        output["shape"][0] = rows
        output["data"] *= rows
    return json.dumps(tree, separators=(",", ":")).encode()


def timed(do: Callable[[], Any], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        do()
    return (time.perf_counter() - start) / n


def steps(rows: int, d: int, binary: bool) -> dict[str, Callable[[], Any]]:
    """Everything that is done to one request's bytes."""
    interface = Interface(input_shape=(d,), n_classes=10)
    served = ModelSpec(name="m", interface=interface, datatype="FP32")
    asked = dataclasses.replace(served, binary=binary)
    headers, body = many(rows, d, binary)
    x = WIRE.read(served, headers, body).x
    back, found = answered(rows), {"content-type": "application/json"}
    answer = WIRE.understand(asked, rows, found, back)
    outputs = ("label", "probabilities") if binary else ()
    rounded = Answer(answer.labels, np.round(answer.scores, 2))  # type: ignore[arg-type]
    return {
        "read the question": lambda: WIRE.read(served, headers, body),
        "write it for the model": lambda: WIRE.ask(asked, x),
        "read the answer": lambda: checked(WIRE.understand(asked, rows, found, back), rows, asked),
        "write the answer": lambda: WIRE.write(served, Inquiry(x, binary=outputs), rounded),
    }


async def posting(d: int) -> Callable[[], Any]:
    """The HTTP client's own work on one question; the system's on the socket is left out."""
    client = HttpClient("http://127.0.0.1:1", timeout_s=10.0, connections=100, limit=1 << 20)
    served = ModelSpec(name="m", interface=Interface(input_shape=(d,), n_classes=10), datatype="FP32", binary=True)
    ask = WIRE.ask(served, np.zeros((1, d)))

    await client.ask("POST", ask.path, {**PASSED, **ask.headers}, ask.body)  # the connection is there from now on

    def post() -> None:
        with suppress(StopIteration):
            client.ask("POST", ask.path, {**PASSED, **ask.headers}, ask.body).send(None)
            raise AssertionError("the answer was not there")

    return post


def least(dos: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Microseconds of one call of each: the least over short runs by turns, however busy the machine is."""
    found = {name: timed(do, 3) for name, do in dos.items()}
    for _ in range(rounds):
        for name, do in dos.items():
            found[name] = min(found[name], timed(do, max(1, int(1e-3 / found[name]))))
    return {name: 1e6 * seconds for name, seconds in found.items()}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="of a millisecond for each figure")
    a = parser.parse_args()
    dos = {"HTTP client": await posting(784)}
    for binary in (False, True):
        for rows, d in ((1, 784), (1, 3072), (64, 784)):
            kind = "binary" if binary else "JSON"
            dos |= {f"{rows} x {d:4} {kind:6}  {name}": do for name, do in steps(rows, d, binary).items()}
    for name, us in least(dos, a.rounds).items():
        print(f"{name:42} {us:8.1f}")


if __name__ == "__main__":
    loop = Loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main())
