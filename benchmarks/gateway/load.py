"""Load from a process of its own: so many connections, each asking one prepared question after another.

It runs once for every line that it reads, and prints what came of it; no question is asked twice.
With a rate, requests are sent by the clock whatever became of the earlier ones, and times count from the moment at
which a request was due, so that a server that stands still is not spared.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop
from images import images

SLOT = b"0.123456"  # the first number of every JSON question, counted up when all have been asked
RAW = np.float32(SLOT).tobytes()  # and of those in raw bytes


def questions(n: int, d: int, binary: bool, seed: int, key: str, outputs: list[str] | None = None) -> list[bytes]:
    """n HTTP requests."""
    found = []
    wanted = {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    for i, (x, y) in enumerate(zip(*images(n, d, seed), strict=True)):
        tensor = {"name": "input", "shape": [1, d], "datatype": "FP32"}
        headers = f"POST /v2/models/m/infer HTTP/1.1\r\nhost: gate\r\nx-api-key: {key}\r\nx-request-id: {i}-{y}\r\n"
        if binary:
            head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 4 * d}}], **wanted}).encode()
            body, headers = head + RAW + x[1:].tobytes(), headers + f"inference-header-content-length: {len(head)}\r\n"
        else:
            data = json.dumps([float(str(v)) for v in x[1:]])
            tree = {"inputs": [{**tensor, "data": []}], **wanted}
            body = json.dumps(tree).replace('"data": []', f'"data": [{SLOT.decode()}, {data[1:]}').encode()
            headers += "content-type: application/json\r\n"
        found.append(f"{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
    return found


class Asker(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.parser = httptools.HttpResponseParser(self)
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.tally.statuses[self.parser.get_status_code()] = (
            self.tally.statuses.get(self.parser.get_status_code(), 0) + 1
        )
        assert self.done is not None
        self.done.set_result(None)

    async def ask(self, question: bytes, due: float) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(question)  # type: ignore[attr-defined]
        await self.done
        self.tally.times.append(time.perf_counter() - due)


class Tally:
    """What came of a run."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.statuses: dict[int, int] = {}

    def told(self, seconds: float) -> dict[str, object]:
        n = len(self.times)
        p50, p99, p999 = (float(p) for p in np.percentile(self.times, [50, 99, 99.9]) * 1_000)
        parts = np.array_split(np.array(self.times), max(1, min(60, n // 1_000)))
        bad = sum(count for status, count in self.statuses.items() if status != 200)
        found: dict[str, object] = {"n": n, "seconds": seconds, "rps": n / seconds, "p50": p50, "p99": p99}
        found |= {"p999": p999, "worst": max(self.times) * 1_000, "bad": bad, "statuses": self.statuses}
        return found | {"p99 by parts": [float(np.percentile(part, 99)) * 1_000 for part in parts]}


def going_round(prepared: list[bytes], binary: bool) -> Iterator[bytes]:
    """The questions without end; from the second time round with another first number, so that none is asked twice."""
    yield from prepared
    for i, question in enumerate(cycle(prepared), len(prepared)):
        number = b"0.%06d" % (i % 1_000_000)
        yield question.replace(RAW, np.float32(number).tobytes(), 1) if binary else question.replace(SLOT, number, 1)


async def by_turns(askers: list[Asker], work: Iterator[bytes]) -> None:
    """Every connection asks as soon as it is answered."""

    async def turns(asker: Asker) -> None:
        for question in work:
            await asker.ask(question, time.perf_counter())

    await asyncio.gather(*map(turns, askers))


async def by_clock(askers: list[Asker], work: Iterator[bytes], rate: float) -> None:
    """Requests at this rate, each on the first connection that is free."""
    idle = asyncio.Queue[Asker]()
    for asker in askers:
        idle.put_nowait(asker)
    running: set[asyncio.Task[None]] = set()

    async def one(asker: Asker, question: bytes, due: float) -> None:
        await asker.ask(question, due)
        idle.put_nowait(asker)

    begin = time.perf_counter()
    for i, question in enumerate(work):
        due = begin + i / rate
        if (wait := due - time.perf_counter()) > 0.0005:
            await asyncio.sleep(wait)
        task = asyncio.get_running_loop().create_task(one(await idle.get(), question, due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)


async def main(a: dict) -> None:
    parts, keys = urlsplit(a["url"]), a.get("keys") or [a["key"]]
    prepared = questions(a.get("prepared", a["n"]), a["d"], a["binary"], a["seed"], "{key}", a.get("outputs"))
    prepared = [q.replace(b"{key}", keys[i % len(keys)].encode(), 1) for i, q in enumerate(prepared)]
    loop, questions_left = asyncio.get_running_loop(), going_round(prepared, a["binary"])
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        tally, askers = Tally(), []
        for _ in range(a["connections"]):  # anew, as a server lets go of those that are idle
            askers.append((await loop.create_connection(partial(Asker, tally), parts.hostname, parts.port))[1])
        start, work = time.perf_counter(), islice(questions_left, a["n"])
        await (by_clock(askers, work, a["rate"]) if a.get("rate") else by_turns(askers, work))
        told = tally.told(time.perf_counter() - start)
        print(json.dumps(told | ({"times": tally.times} if a.get("each") else {})), flush=True)
        for asker in askers:
            asker.transport.close()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
