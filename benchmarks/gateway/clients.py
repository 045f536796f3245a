"""What clients cost: memory of one, and the price of a request as their number grows, in one process.

    python benchmarks/gateway/clients.py

Memory: MNIST clients of 3,000 queries each, by what the process grows and by what the detector holds; as 8-bit
images, and with noise in the 32-bit numbers. Growth: 10 to 10,000 clients with the same history ask at random, through
the gate as an ASGI application (no sockets, a model that costs nothing), with room in memory for all of them and with
room for a tenth, the others in the state file. Loading: how long the largest client waits when it comes back, and how
long others wait meanwhile. Prices are processor time of the event loop's thread.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from gates import policy_text, seeded
from host import machine
from images import images
from load import SLOT, questions
from throughput import interval

from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.policy.policy import parse_policy
from portcullis_ml.gateway.server import Server, warm
from portcullis_ml.gateway.state.paging import PAGE, Marks, cut
from portcullis_ml.gateway.state.streams import Streams

D = 784
BY_NAME = '[clients]\nheader = { header = "x-client" }\n'


class Free:
    """A model that costs nothing: the class that is the last digit of the request's id."""

    async def ask(self, x: np.ndarray, headers: dict[str, str]) -> Answer:
        scores = np.full((len(x), 10), 0.01)
        label = int(headers["x-request-id"][-1])
        scores[:, label] = 0.91
        return Answer(np.full(len(x), label), scores)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1e3


def server(capacity: int) -> tuple[Server, Path]:
    folder = Path(tempfile.mkdtemp())
    text = policy_text("http://127.0.0.1:1", D, folder, {})
    text = text.replace("[clients]\nkey = []\n", BY_NAME)
    text = text.replace("[state]\n", f"[state]\nclients_in_memory = {capacity}\n")
    policy = parse_policy(text, folder=folder)
    warm(policy)
    return Server(policy, upstream=Free()), folder


async def ask(gate: Any, client: str, head: bytes, body: bytes) -> None:
    lines = [line.split(": ") for line in head.decode().split("\r\n")[1:]]
    headers = [(k.encode(), v.encode()) for k, v in lines if k != "x-api-key"] + [(b"x-client", client.encode())]
    scope = {"type": "http", "method": "POST", "path": "/v2/models/m/infer", "query_string": b"",
             "headers": headers, "client": ("127.0.0.1", 1)}  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await gate(scope, receive, send)
    if sent[0]["status"] != 200:
        raise SystemExit(f"{sent[0]['status']}: {sent[1]['body']!r}")


async def close(running: Server) -> None:
    await running.streams.close()
    await asyncio.to_thread(running.gate.querylog.close)
    await running.store.close()


SCORES = np.full((10, 10), 0.01) + 0.9 * np.eye(10)


async def straight(running: Server, client: str, x: np.ndarray, y: np.ndarray) -> None:
    """One client's queries, past the wire."""
    for row, label in zip(x, y, strict=True):
        seq = await running.streams.admit(client, row[None].astype(float), 0.0)
        await running.streams.release(client, seq, Answer(np.array([label]), SCORES[label][None]))


def mnist(n: int, noise: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = images(n, D, seed)
    return (x if noise else (np.rint(x * 255) / 255).astype(np.float32)), y


async def memory(clients: int, queries: int, noise: bool) -> None:
    """Megabytes of one client after so many queries."""
    running, _ = server(clients + 1)
    rng, (x, y) = np.random.default_rng(0), mnist(2 * queries, noise, 5)
    before, held, stored = 0.0, [], []
    for c in range(clients + 1):  # the first one warms up
        if c == 1:
            gc.collect()
            before = resident()
        some = rng.permutation(len(x))[:queries]
        await straight(running, f"c{c}", x[some], y[some])
        stream = await running.streams.look(f"c{c}")
        await running.streams.cache.save(stream)
        held.append(stream.states["1-watch"].detector.sets.near.nbytes / 1e6)
        stored.append(PAGE * len(stream.pages) / 1e6)
    gc.collect()
    grown = (resident() - before) / clients
    kind = "32-bit numbers with noise" if noise else "8-bit images in 32-bit numbers"
    print(f"memory of a client after {queries} MNIST queries, {kind} (n={clients}):\n"
          f"  the process grows by {grown:.2f} MB; the detector holds {np.mean(held):.2f} MB (most {max(held):.2f}); "
          f"its snapshot is at most {np.mean(stored):.2f} MB")  # fmt: skip
    await close(running)


async def loading(events: int) -> None:
    """A client with all that its detector can hold and so many events behind the snapshot comes back after a crash."""
    running, _ = server(10)
    await seeded(running, "c0", D, 2_000)
    x, y = mnist(events // 2, True, 8)
    await straight(running, "c0", x, y)
    again = Streams(running.policy.guard(), running.store)
    waits, over = [], asyncio.Event()

    async def others() -> None:
        while not over.is_set():
            start = time.perf_counter()
            await asyncio.sleep(0)
            waits.append(1e3 * (time.perf_counter() - start))

    task = asyncio.create_task(others())
    start = time.perf_counter()
    stream = await again.look("c0")
    took = 1e3 * (time.perf_counter() - start)
    over.set()
    await task
    rows = len(stream.states["1-watch"].detector.sets.near)
    print(f"a client with {rows} samples and {events} events to fold comes back: it waits {took:.0f} ms, others at "
          f"most {max(waits):.1f} ms (n={len(waits)} turns)")  # fmt: skip
    await close(running)


async def populated(count: int, capacity: int, history: int) -> tuple[Server, Path]:
    """A gate that knows so many clients, all with the same history, so that they differ in nothing but their number.
    Nothing more joins their detectors."""
    running, folder = server(capacity)
    await straight(running, "c0", *mnist(history, False, 6))
    first = await running.streams.look("c0")
    for joining in first.states["1-watch"].detector.sets.joining.values():
        joining.threshold = 1e9
    order, fresh, _ = await cut(running.streams.fold.pack(first), frozenset(), Marks())
    for c in range(count):
        if c:
            await running.store.snapshot(f"c{c}", 0, first.position, order, fresh)
        await running.streams.look(f"c{c}")
    return running, folder


async def growth(count: int, capacity: int, blocks: int, each: int) -> None:
    """Processor time of a request."""
    running, folder = await populated(count, capacity, 60)
    prepared = [q.split(b"\r\n\r\n", 1) for q in questions(each, D, False, 9, "k")]
    rng, prices, before = np.random.default_rng(count), [], resident()
    for block in range(blocks + 1):  # the first one warms up
        who = rng.integers(count, size=each).tolist()
        start = time.thread_time()
        for c, q in zip(who, prepared, strict=True):
            head, body = q
            await ask(running.gate, f"c{c}", head, body.replace(SLOT, b"0.%06d" % block, 1))
        prices += [1e6 * (time.thread_time() - start) / each] if block else []
    disk = sum(f.stat().st_size for f in folder.glob("state*")) / 1e6
    print(
        f"  {count:6} clients, room for {capacity:6}: {interval(prices)} us a request; "
        f"{len(running.streams.open):5} in memory, process {before:.0f} MB, state file {disk:.0f} MB",
        flush=True,
    )
    await close(running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10, help="of 3,000 queries, for memory")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--each", type=int, default=1_000)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--part", help="of this program, for its own use")
    a = parser.parse_args()
    if a.part:
        part, *words = a.part.split(",")
        numbers = list(map(int, words))
        work = {"memory": lambda: memory(a.clients, 3_000, bool(numbers[0])), "loading": lambda: loading(numbers[0]),
                "growth": lambda: growth(numbers[0], numbers[1], a.blocks, a.each)}  # fmt: skip
        uvloop.run(work[part]())
        return
    print("$ python benchmarks/gateway/clients.py")
    print(machine(), flush=True)
    rest = [f"--clients={a.clients}", f"--each={a.each}", f"--blocks={a.blocks}"]
    most = max(a.counts)

    def apart(part: str) -> None:  # each in a process of its own: memory that was freed once is not seen again
        subprocess.run([sys.executable, __file__, f"--part={part}", *rest], check=True)

    apart("memory,0")
    apart("memory,1")
    apart("loading,2000")
    print(f"price of a request by number of clients, 60 queries on record each; {a.blocks} blocks of {a.each} requests,"
          " each from a client drawn at random", flush=True)  # fmt: skip
    for count in a.counts:
        apart(f"growth,{count},{most}")
    apart(f"growth,{most},{max(1, most // 10)}")


if __name__ == "__main__":
    main()
