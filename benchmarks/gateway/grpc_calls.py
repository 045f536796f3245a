"""What the gate costs by gRPC, beside what it costs over HTTP.

    python benchmarks/gateway/grpc_calls.py

One gate with the whole guard (PRADA with 2,000 samples of each class on record) is asked on both of its ports, by
turns: JSON over HTTP, raw bytes over HTTP, raw bytes by gRPC. Beside it stands a server of grpcio's own that answers at
once, for what the library costs without a gate. The model server costs next to nothing and speaks HTTP. The clients
are processes of their own, which share two cores with the gate; the one for gRPC is Python's too and takes more of
them than the gate does, so that processor time of the gate is the figure that does not depend on that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import uvloop
from gates import KEY, UNLIMITED, policy_text, seeded
from host import machine
from images import images
from load import Tally
from throughput import Load, interval, middle, start, stop

from portcullis_ml.gateway.policy.policy import parse_policy
from portcullis_ml.gateway.protocols.grpc_messages import message
from portcullis_ml.gateway.server import Server, settle

D, STORED, SLOT = 784, 2_000, np.float32(0.123456).tobytes()
METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def gate(upstream: str) -> None:
    """The gate, until SIGTERM."""
    folder = Path(tempfile.mkdtemp())
    text = policy_text(upstream, D, folder, {"c": KEY}) + UNLIMITED
    server = Server(
        parse_policy(text.replace("[listen]\nport = 0", "[listen]\nport = 0\ngrpc_port = 0"), folder=folder)
    )
    await seeded(server, "c", D, STORED)
    settle(server.streams.fold.guard)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    print(json.dumps([server.url, server.grpc.address if server.grpc else ""]), flush=True)
    await server()


class Constant(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call with ten scores."""

    def __init__(self) -> None:
        tensor = message("Tensor", name="probabilities", datatype="FP32", shape=[1, 10])
        raw = [np.full(10, 0.1, np.float32).tobytes()]
        self.answer = message("ModelInferResponse", model_name="m", outputs=[tensor], raw_output_contents=raw)

    def service(self, details: Any) -> Any:
        async def answer(body: bytes, context: Any) -> bytes:
            found: bytes = self.answer.SerializeToString()
            return found

        return grpc.unary_unary_rpc_method_handler(answer)


async def bare() -> None:
    server = grpc.aio.server(handlers=(Constant(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(0)


def calls(seed: int) -> Iterator[tuple[bytes, str]]:
    """(a question, its id) without end, none of them twice. The id ends in the digit that the model server answers."""
    prepared = []
    for x, y in zip(*images(500, D, seed), strict=True):
        row = np.concatenate([np.frombuffer(SLOT, np.float32), x[1:].astype(np.float32)])
        tensor = message("Tensor", name="input", datatype="FP32", shape=[1, D])
        asked = message("ModelInferRequest", model_name="m", inputs=[tensor], raw_input_contents=[row.tobytes()])
        prepared.append((asked.SerializeToString(), int(y)))
    for i, (body, y) in enumerate(cycle(prepared)):
        yield body.replace(SLOT, np.float32(i / 1e6).tobytes(), 1), f"{i}-{y}"


async def load(a: dict[str, Any]) -> None:
    """What `load.py` is, by gRPC."""
    loop, questions = asyncio.get_running_loop(), calls(a["seed"])
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        tally, work = Tally(), islice(questions, a["n"])
        async with grpc.aio.insecure_channel(a["url"]) as channel:
            ask = channel.unary_unary(METHOD)

            async def turns(ask: Any = ask, work: Any = work, tally: Tally = tally) -> None:
                for body, id in work:
                    due = time.perf_counter()
                    await ask(body, metadata=(("x-api-key", a["key"]), ("x-request-id", id)))
                    tally.times.append(time.perf_counter() - due)

            begin = time.perf_counter()
            await asyncio.gather(*(turns() for _ in range(a["connections"])))
            told = tally.told(time.perf_counter() - begin)
        print(json.dumps(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="in a round, in each way")
    parser.add_argument("--rounds", type=int, default=40)
    a = parser.parse_args()
    print("$ python benchmarks/gateway/grpc_calls.py", *sys.argv[1:])
    print(machine())
    stub, upstream = start("stub.py")
    guarded, said = start("grpc_calls.py", "gate", upstream)
    plain, place = start("grpc_calls.py", "bare")
    over_http, by_grpc = json.loads(said)
    try:
        for connections, share in ((16, 1), (1, 4)):
            same = {"d": D, "n": a.requests // share, "connections": connections, "prepared": 500}
            ways = {
                "JSON over HTTP": Load(over_http, guarded, binary=False, seed=connections, **same),
                "raw over HTTP": Load(over_http, guarded, binary=True, seed=connections + 1, **same),
                "raw by gRPC": Load(by_grpc, guarded, script="grpc_calls.py", seed=connections + 2, **same),
                "gRPC without a gate": Load(place, plain, script="grpc_calls.py", seed=connections + 3, **same),
            }
            table(connections, ways, a.rounds)
            for way in ways.values():
                way.end()
    finally:
        for process in (guarded, plain, stub):
            stop(process)


def table(connections: int, ways: dict[str, Load], rounds: int) -> None:
    """Rounds by turns, of which the first is not counted, and what came of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            run = way.run()
            if i:
                found[name].append(run)
    print(f"{connections} at a time")
    for name, runs in found.items():
        print(f"  {name:20} requests/s {middle([r['rps'] for r in runs])}, p50 {middle([r['p50'] for r in runs])} ms, "
              f"p99 {middle([r['p99'] for r in runs])} ms, processor time {middle([r['cpu_us'] for r in runs])} us, "
              f"{sum(r['bad'] for r in runs)} not answered")  # fmt: skip
    for name in ("JSON over HTTP", "raw over HTTP"):
        pairs = list(zip(found["raw by gRPC"], found[name], strict=True))
        print(f"  raw by gRPC / {name}: throughput {middle([g['rps'] / h['rps'] for g, h in pairs])}, processor time "
              f"{middle([g['cpu_us'] / h['cpu_us'] for g, h in pairs])}; p50 added "
              f"{middle([g['p50'] - h['p50'] for g, h in pairs])} ms, mean "
              f"{interval([g['p50'] - h['p50'] for g, h in pairs])}")  # fmt: skip
    pairs = list(zip(found["raw by gRPC"], found["gRPC without a gate"], strict=True))
    print(f"  the gate adds to gRPC: p50 {middle([g['p50'] - b['p50'] for g, b in pairs])} ms")


if __name__ == "__main__":
    kind, *words = sys.argv[1:] or [""]
    if kind == "gate":
        uvloop.run(gate(*words))
    elif kind == "bare":
        uvloop.run(bare())
    elif kind.startswith("{"):
        uvloop.run(load(json.loads(kind)))
    else:
        main()
