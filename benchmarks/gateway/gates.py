"""The gates that are compared, each as a process: bare (the same stack, no inspection) and full (the whole guard)."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
import uvloop
from images import images

from portcullis.detectors._growing_sets import Joining
from portcullis.gateway.clients import hashed
from portcullis.gateway.policy import parse_policy
from portcullis.gateway.ports import address, bound
from portcullis.gateway.server import Server

KEY = "benchmark"
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
[listen]
port = 0
[admin]
port = 0
[clients]
key = [{{ client = "c", sha256 = "{digest}" }}]
[[guard]]
unit = "quota"
rows = 100000000
[[guard]]
unit = "watch"
detector = {{ unit = "prada", threshold = 1000000.0, cap = 2000 }}
then = {{ unit = "label_only" }}
[[guard]]
unit = "rounding"
decimals = 2
[state]
url = "sqlite:///{folder}/state.db"
[log]
path = "{folder}/log"
"""


class Bare:
    """Read the body, post it, copy the answer back: what any proxy on this stack costs."""

    def __init__(self, upstream: str) -> None:
        self._url = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._session is None:
            skip = ("User-Agent", "Accept", "Accept-Encoding")
            self._session = aiohttp.ClientSession(skip_auto_headers=skip, cookie_jar=aiohttp.DummyCookieJar())
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        async with self._session.post(self._url + scope["path"], data=body) as answer:
            text = await answer.read()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": text})


async def bare(upstream: str) -> None:
    sock = bound("127.0.0.1", 0)
    print(address(sock), flush=True)
    config = uvicorn.Config(
        Bare(upstream),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        date_header=False,
    )
    await uvicorn.Server(config).serve(sockets=[sock])


async def full(upstream: str, d: int, binary: bool, stored: int) -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "guard.key").write_text("00" * 32)
    text = POLICY.format(upstream=upstream, d=d, folder=folder, digest=hashed(KEY), binary=str(binary).lower())
    server = Server(parse_policy(text, folder=folder))
    stream = await server.streams.look("c")
    watch = server.gate.policy.stages[1]
    state = stream.states["1-watch"] = watch.start()
    near = state.detector.sets.near
    for i, x in enumerate(images(stored * 10, d, 0).astype(float)):  # this many samples of each class on record
        near.add(i % 10, x)
    for label in range(10):  # so far apart that nothing more is kept, and every question meets them all
        state.detector.sets.joining[label] = Joining(threshold=1e9)
    print(server.url, flush=True)
    print(f"{len(near)} samples, {near.nbytes / 1e6:.1f} MB", file=sys.stderr)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    task = asyncio.create_task(server())
    try:
        await task
    finally:
        stages = server.gate.metrics.stage_seconds
        n = sum(server.gate.metrics.added)
        print({k: round(1e6 * v / max(n, 1)) for k, v in stages.items()}, "us a request", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        uvloop.run(bare(sys.argv[2]))
    else:
        uvloop.run(full(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "binary", int(sys.argv[5])))
