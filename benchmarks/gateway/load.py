"""Load from a process of its own: so many connections, each asking one prepared question after another."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop
from images import images


def questions(n: int, d: int, binary: bool, seed: int, key: str) -> list[bytes]:
    """n HTTP requests, no two alike."""
    found = []
    for x in images(n, d, seed):
        tensor = {"name": "input", "shape": [1, d], "datatype": "FP32"}
        headers = f"POST /v2/models/m/infer HTTP/1.1\r\nhost: gate\r\nx-api-key: {key}\r\n"
        if binary:
            head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 4 * d}}]}).encode()
            body, headers = head + x.tobytes(), headers + f"inference-header-content-length: {len(head)}\r\n"
        else:
            tree = {"inputs": [{**tensor, "data": [float(str(v)) for v in x]}]}
            body, headers = json.dumps(tree).encode(), headers + "content-type: application/json\r\n"
        found.append(f"{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
    return found


class Asker(asyncio.Protocol):
    """One connection."""

    def __init__(self, work: asyncio.Queue[bytes], times: list[float], bad: list[int]) -> None:
        self.work, self.times, self.bad = work, times, bad
        self.parser = httptools.HttpResponseParser(self)
        self.done: asyncio.Future[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() != 200:
            self.bad.append(self.parser.get_status_code())
        self.done.set_result(None)

    async def run(self, pause: float) -> None:
        while not self.work.empty():
            question = self.work.get_nowait()
            self.done = asyncio.get_running_loop().create_future()
            start = time.perf_counter()
            self.transport.write(question)  # type: ignore[attr-defined]
            await self.done
            self.times.append(time.perf_counter() - start)
            if pause:
                await asyncio.sleep(max(0.0, pause - (time.perf_counter() - start)))


async def main(url: str, n: int, d: int, binary: bool, connections: int, rate: float, seed: int, key: str) -> None:
    parts, work, times, bad = urlsplit(url), asyncio.Queue(), list[float](), list[int]()
    for question in questions(n, d, binary, seed, key):
        work.put_nowait(question)
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(lambda: Asker(work, times, bad), parts.hostname, parts.port)
        for _ in range(connections)
    ]
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    start = time.perf_counter()
    await asyncio.gather(*(asker.run(connections / rate if rate else 0.0) for _, asker in pairs))
    seconds = time.perf_counter() - start
    p50, p99 = np.percentile(times, [50, 99]) * 1_000
    print(json.dumps({"n": n, "seconds": seconds, "rps": n / seconds, "p50": p50, "p99": p99, "bad": len(bad)}))


if __name__ == "__main__":
    a = json.loads(sys.argv[1])
    uvloop.run(main(a["url"], a["n"], a["d"], a["binary"], a["connections"], a.get("rate", 0.0), a["seed"], a["key"]))
