"""The gates that are compared, each as a process: bare (the same stack, no inspection) and full (the whole guard).

python gates.py bare UPSTREAM CLIENT            CLIENT: own (the gate's own client), or aiohttp
python gates.py full UPSTREAM D STORED [clocked] [scores=NAME] [front=uvicorn]
                                                UPSTREAM may begin with "binary+": raw bytes go on
python gates.py guard UPSTREAM D FILE            with the [[guard]] stages in this file, which may be empty
python gates.py soak UPSTREAM D CLIENTS CAP FOLDER              nothing on record; many clients, a smaller cap
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvicorn
import uvloop
from host import stolen
from images import images

from portcullis_ml.detectors._growing_sets import Joining
from portcullis_ml.gateway.http.client import HttpClient
from portcullis_ml.gateway.http.ports import address, bound
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.policy import parse_policy
from portcullis_ml.gateway.server import Server, settle

KEY = "benchmark"
PASSED = (b"content-type", b"inference-header-content-length", b"x-request-id")  # on by the bare gates
POLICY = """
key_file = "guard.key"
[upstream]
url = "{upstream}"
binary = {binary}
[model]
name = "m"
input_shape = [{d}]
classes = 10
datatype = "FP32"
scores = "{scores}"
[listen]
port = 0
[admin]
port = 0
[clients]
key = [{keys}]
[[guard]]
unit = "quota"
rows = 100000000
[[guard]]
unit = "watch"
detector = {{ unit = "prada", threshold = 1000000.0, cap = {cap} }}
then = {{ unit = "label_only" }}
[[guard]]
unit = "rounding"
decimals = 2
[state]
url = "sqlite:///{folder}/state.db"
[log]
path = "{folder}/log"
"""
UNLIMITED = """
[limits]
requests_per_minute = inf
bytes_per_minute = inf
"""  # one client sends all that a gate can take


class Bare:
    """Read the body, post it, copy the answer back: what any proxy on this stack costs."""

    def __init__(self, post: Callable[[str, bytes, dict[str, str]], Any]) -> None:
        self._post = post

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        passed = {k.decode(): v.decode() for k, v in scope["headers"] if k in PASSED}
        status, text = await self._post(scope["path"], body, passed)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def by_aiohttp(upstream: str) -> Callable[[str, bytes, dict[str, str]], Any]:
    sessions: list[aiohttp.ClientSession] = []

    async def post(path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if not sessions:
            skip = ("User-Agent", "Accept", "Accept-Encoding")
            sessions.append(aiohttp.ClientSession(skip_auto_headers=skip, cookie_jar=aiohttp.DummyCookieJar()))
        async with sessions[0].post(upstream + path, data=body, headers=headers) as answer:
            return answer.status, await answer.read()

    return post


def by_own(upstream: str) -> Callable[[str, bytes, dict[str, str]], Any]:
    client = HttpClient(upstream, timeout_s=10.0, connections=100, limit=1 << 20)

    async def post(path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        status, _, text = await client.ask("POST", path, headers, body)
        return status, text

    return post


async def bare(upstream: str, client: str) -> None:
    sock = bound("127.0.0.1", 0)
    print(address(sock), flush=True)
    app = Bare(by_own(upstream) if client == "own" else by_aiohttp(upstream))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, date_header=False
    )
    await uvicorn.Server(config).serve(sockets=[sock])


def policy_text(upstream: str, d: int, folder: Path, keys: dict[str, str], *, cap: int = 2_000, **names: str) -> str:
    """The policy of the whole guard; `keys` are API keys by client."""
    (folder / "guard.key").write_text("00" * 32)
    known = ", ".join(f'{{ client = "{c}", sha256 = "{hashed(k)}" }}' for c, k in keys.items())
    return POLICY.format(upstream=upstream.removeprefix("binary+"), d=d, folder=folder, keys=known, cap=cap,
                         binary=str(upstream.startswith("binary+")).lower(),
                         scores=names.get("scores", "probabilities"))  # fmt: skip


async def seeded(server: Server, client: str, d: int, stored: int) -> str:
    """Put so many samples of each class on record; so far apart that nothing more is kept."""
    stream = await server.streams.look(client)
    watch = server.gate.policy.stages[1]
    state = stream.states["1-watch"] = watch.start()
    near = state.detector.sets.near
    for x, y in zip(*images(0, d, 0, each=stored), strict=True):
        near.add(int(y), x.astype(float))
    for label in range(10):
        state.detector.sets.joining[label] = Joining(threshold=1e9)
    await server.streams.operate(client, "unblock", "benchmark", 0.0)  # an event, so that there is something to write
    await server.streams.cache.save(stream)  # such a client would have been written before
    return f"{len(near)} samples, {near.nbytes / 1e6:.1f} MB"


class Clock:
    """Processor time of this thread inside some functions, each without the others that it calls."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner = [0.0]

    def timed(self, owner: Any, name: str, word: str) -> None:
        plain = getattr(owner, name)
        self.spent.setdefault(word, 0.0)

        def around(*args: Any, **words: Any) -> Any:
            self._inner.append(0.0)
            start = time.thread_time()
            try:
                return plain(*args, **words)
            finally:
                took = time.thread_time() - start
                self.spent[word] += took - self._inner.pop()
                self._inner[-1] += took

        setattr(owner, name, around)


def watched(server: Server) -> Clock:
    """A clock on every part of the guard's work."""
    from portcullis_ml.core.guard import Guard
    from portcullis_ml.gateway.policy.clients import Clients
    from portcullis_ml.gateway.protocols.v2 import OpenInference
    from portcullis_ml.gateway.state import stores

    clock, store = Clock(), server.store
    clock.timed(server.gate._exchanges, "begin", "headers")
    clock.timed(Clients, "identify", "identify")
    for name, word in (("read", "read the question"), ("ask", "write it for the model"),
                       ("understand", "read the answer"), ("write", "write the answer")):  # fmt: skip
        clock.timed(OpenInference, name, word)
    clock.timed(server.gate.policy.stages[1].detector.__class__, "update", "PRADA")
    clock.timed(Guard, "admit", "quota, rounding and the rest of the guard")
    clock.timed(Guard, "release", "quota, rounding and the rest of the guard")
    clock.timed(stores, "pack_event", "journal: pack")
    clock.timed(stores.SqliteStore, "_insert", "journal: SQLite")
    assert store is not None
    return clock


async def full(upstream: str, d: int, stored: int, words: list[str]) -> None:
    folder = Path(tempfile.mkdtemp())
    names = dict(word.split("=") for word in words if "=" in word)
    text = policy_text(upstream, d, folder, {"c": KEY}, **names) + UNLIMITED
    server = Server(parse_policy(text, folder=folder))
    about = await seeded(server, "c", d, stored)
    clock = watched(server) if "clocked" in words else None
    begun: list[float] = []

    def mark() -> None:  # the load has warmed up: begin to count
        assert clock is not None
        begun[:] = [time.thread_time(), sum(server.gate.metrics.added)]
        clock.spent.update(dict.fromkeys(clock.spent, 0.0))

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, mark)
    await (behind_uvicorn(server) if names.get("front") else until_told(server))
    found: dict[str, Any] = {"about": about}
    if clock and begun:
        n = sum(server.gate.metrics.added) - begun[1]
        whole = time.thread_time() - begun[0]
        found["us"] = {k: 1e6 * v / n for k, v in clock.spent.items()}
        found["us"]["server, client and the rest"] = 1e6 * (whole - sum(clock.spent.values())) / n
    print(json.dumps(found), flush=True)


async def guard(upstream: str, d: int, stages: str) -> None:
    """A gate with any guard; nothing is on record."""
    folder = Path(tempfile.mkdtemp())
    text = policy_text(upstream, d, folder, {"c": KEY})
    start, end = text.index("[[guard]]"), text.index("[state]")
    policy = parse_policy(text[:start] + Path(stages).read_text() + "\n" + text[end:] + UNLIMITED, folder=folder)
    await until_told(Server(policy))


class Pulse:
    """Second by second: requests, microseconds of this thread for each, microseconds of a fixed piece of work (how fast
    the core is just now), the share of moments at which a snapshot was being written, milliseconds of garbage
    collection and of keeping requests from the state file, and milliseconds that the host took from the cores."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seconds: list[tuple[float, ...]] = []
        self._collecting, self._collected = 0.0, 0.0
        gc.callbacks.append(self._gc)

    async def beat(self) -> None:
        calm = self.server.store._calm  # type: ignore[union-attr]
        while True:
            pieces, saving, shut = [], 0, 0.0
            end, before = time.monotonic() + 1.0, (time.thread_time(), self._requests(), self._collected, stolen())
            while (now := time.monotonic()) < end:
                begin = time.thread_time()
                sum(range(2_000))
                pieces.append(1e6 * (time.thread_time() - begin))
                saving += self.server.streams.cache._turn.locked()
                if not calm.is_set():
                    await calm.wait()
                    shut += time.monotonic() - now
                await asyncio.sleep(0.01)
            n = self._requests() - before[1]
            spent = 1e6 * (time.thread_time() - before[0]) / max(n, 1)
            self.seconds.append((n, spent, float(np.median(pieces)), saving / len(pieces),
                                 1e3 * (self._collected - before[2]), 1e3 * shut,
                                 1e3 * (stolen() - before[3])))  # fmt: skip

    def _requests(self) -> int:
        return sum(self.server.gate.metrics.requests.values())

    def _gc(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._collected += time.perf_counter() - self._collecting


async def soak(upstream: str, d: int, clients: int, cap: int, folder: Path) -> None:
    keys = {f"c{i}": f"{KEY}{i}" for i in range(clients)}
    server = Server(parse_policy(policy_text(upstream, d, folder, keys, cap=cap) + UNLIMITED, folder=folder))
    pulse = Pulse(server)
    beating = asyncio.create_task(pulse.beat())
    await until_told(server)
    beating.cancel()
    held = [s.states["1-watch"].detector.sets.near for s in server.streams.open.values() if "1-watch" in s.states]
    rows, megabytes = sum(map(len, held)), sum(near.nbytes for near in held) / 1e6
    metrics = server.gate.metrics
    print(json.dumps({"rows": rows, "megabytes": megabytes, "requests": sum(metrics.requests.values()),
                      "dropped": server.gate.querylog.dropped, "state failures": server.streams.failures,
                      "seconds": pulse.seconds}))  # fmt: skip


async def behind_uvicorn(server: Server) -> None:
    """Serve the gate as an application of uvicorn's until SIGTERM."""
    settle(server.streams.fold.guard)
    sock = bound("127.0.0.1", 0)
    config = uvicorn.Config(
        server.gate,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        date_header=False,
    )
    front = uvicorn.Server(config)
    gate = asyncio.create_task(server())
    print(address(sock), flush=True)
    await front.serve(sockets=[sock])  # which ends on SIGTERM
    server.stop()
    await gate


async def until_told(server: Server) -> None:
    """Serve until SIGTERM."""
    settle(server.streams.fold.guard)  # as `portcullis serve` does
    print(server.url, flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server()


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    if kind == "bare":
        uvloop.run(bare(*words))
    elif kind == "full":
        uvloop.run(full(words[0], int(words[1]), int(words[2]), words[3:]))
    elif kind == "guard":
        uvloop.run(guard(words[0], int(words[1]), words[2]))
    else:
        uvloop.run(soak(words[0], int(words[1]), int(words[2]), int(words[3]), Path(words[4])))
