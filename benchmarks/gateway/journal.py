"""What the journal costs a request of one row: admit, release, the state file and the query log's line, in process.

    python benchmarks/gateway/journal.py

No HTTP, no model and no detector: a quota and rounding only, whose own cost is measured beside it. Every figure is
microseconds of processor time a request, the least of many short runs; the file is on disk, the loop is uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvloop

from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Request
from portcullis_ml.defenses.quota import Quota
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.gateway.querylog import Line, record
from portcullis_ml.gateway.state.events import JournalEvent, pack_event, unpack_event
from portcullis_ml.gateway.state.stores import SqliteStore
from portcullis_ml.gateway.state.streams import Streams

D = 784
N = 300  # requests in one run
HOT = 20  # different rows: few, because a gate has just read the row that it packs


def guard() -> Guard:
    return Guard(Quota(rows=10**9, per=None), Rounding(decimals=2), key=b"0123456789abcdef")


def rows() -> tuple[list[np.ndarray], list[Answer]]:
    rng = np.random.default_rng(0)
    x = rng.random((HOT, 1, D)).astype(np.float32).astype(np.float64)
    scores = rng.dirichlet(np.ones(10), size=(HOT, 1))
    return list(x) * (N // HOT), [Answer(s.argmax(axis=1), s) for s in scores] * (N // HOT)


def least(work: Callable[[], None], n: int, repeats: int) -> float:
    found = []
    for _ in range(repeats):
        begin = time.thread_time()
        work()
        found.append(time.thread_time() - begin)
    return 1e6 * min(found) / n


async def streams_us(folder: Path, clients: int, repeats: int) -> dict[str, float]:
    """(us a request in the streams over a file, and over nothing that is written)"""
    x, answers = rows()
    store = SqliteStore(folder / f"state{clients}.db")
    streams = Streams(guard(), store)
    await store.ping()
    names = [f"client{i}" for i in range(clients)]

    async def run() -> float:
        begin = time.thread_time()
        for i in range(N):
            client = names[i % clients]
            seq = await streams.admit(client, x[i], 1.0)
            await streams.release(client, seq, answers[i])
        return 1e6 * (time.thread_time() - begin) / N

    async def together() -> float:
        async def one(i: int) -> None:
            seq = await streams.admit(names[i % clients], x[i], 1.0)
            await asyncio.sleep(0)
            await streams.release(names[i % clients], seq, answers[i])

        begin = time.thread_time()
        for i in range(0, N, 20):
            await asyncio.gather(*(one(j) for j in range(i, min(N, i + 20))))
        return 1e6 * (time.thread_time() - begin) / N

    alone, crowd = [], []
    for _ in range(repeats):
        alone.append(await run())
        await asyncio.sleep(0)
        crowd.append(await together())
        await asyncio.sleep(0.01)
    await streams.close()
    await store.close()
    return {"one at a time": min(alone), "twenty at a time, tasks and gather included": min(crowd)}


def inside(repeats: int) -> dict[str, float]:
    x, answers = rows()
    admits = [JournalEvent("admit", 1.0, x=a) for a in x]
    releases = [JournalEvent("release", of=i, answer=a) for i, a in enumerate(answers)]
    held = guard()

    def guarded() -> None:
        for a, b in zip(x, answers, strict=True):
            request = Request("c", a, 1.0)
            held.admit(request)
            held.release(request, b)

    def pack() -> None:
        for a, b in zip(admits, releases, strict=True):
            pack_event(a)
            pack_event(b)

    packed = [pack_event(e) for e in (*admits, *releases)]

    def unpack() -> None:
        for body in packed:
            unpack_event(body)

    def lines() -> None:
        for _ in range(N):
            line: Any = Line()
            line.id, line.client, line.decision, line.status = "0123456789abcdef", "alice", "answered", 200
            line.policy, line.run, line.at, line.seconds = "0123456789ab", "18c0d", 1.5, 0.001
            line.seq, line.ended, line.admitted, line.released = 12345, 12346, 1234, 1235
            orjson.dumps(record(line, False), option=orjson.OPT_APPEND_NEWLINE)

    works = {"guard alone": guarded, "pack_event, both": pack, "unpack_event, both": unpack,
             "a log line: Line, record, orjson": lines}  # fmt: skip
    return {name: least(work, N, repeats) for name, work in works.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--folder", default=None, help="where the state file lies")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        for clients in (1, 10, 100):
            found = uvloop.run(streams_us(Path(folder), clients, a.repeats))
            for name, us in found.items():
                print(f"{us:7.1f}  streams, {clients} clients, {name}")
    for name, us in inside(a.repeats).items():
        print(f"{us:7.1f}  {name}")


if __name__ == "__main__":
    main()
