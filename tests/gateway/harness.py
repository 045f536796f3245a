"""Servers for tests: on this machine only, on ports that the system picks, stopped by the test that started them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import uvicorn

from portcullis_ml.core.guard import Alarm
from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.http.ports import bound
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.policy import Policy, parse_policy
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.gateway.server import Server
from portcullis_ml.gateway.state.stores import open_store

KEYS = {"alice": "key-of-alice", "bob": "key-of-bob", "thief": "key-of-thief"}
NUMERIC = tuple(name for name in CATALOG if name != "pictures")  # protocols that write a row as its numbers
SECRET = b"0123456789abcdef0123456789abcdef"


STORED: list[Any] = []  # stores that are closed at the end of the test


def stored(path: str | Path, **settings: Any) -> Any:
    """A store that a test may abandon as a crash would: it is closed at the test's end."""
    STORED.append(open_store(str(path), **settings))
    return STORED[-1]


class Softmax:
    """A model small enough to be worked out by hand: softmax(x W)."""

    def __init__(self, d: int = 4, c: int = 3, seed: int = 0) -> None:
        self.w = np.random.default_rng(seed).normal(size=(d, c)) * 3
        self.input_shape, self.n_classes = (d,), c
        self.asked = 0

    def scores(self, x: np.ndarray) -> np.ndarray:
        self.asked += len(x)
        # One row at a time, so that a batch is answered as its rows are, to the last bit.
        z = np.array([(row[:, None] * self.w).sum(axis=0) for row in x])
        z = np.exp(z - z.max(axis=1, keepdims=True))
        return z / z.sum(axis=1, keepdims=True)

    def explain(self, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return self.w.T[classes] * x


def interface_of(model: Any, **changes: Any) -> Interface:
    return Interface(input_shape=model.input_shape, n_classes=model.n_classes, bounds=(-3.0, 3.0), **changes)


def served_of(model: Any, **settings: Any) -> ModelSpec:
    explains = settings.get("explanation") is not None
    return ModelSpec(name="m", interface=interface_of(model, explains=explains), **settings)


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """An ASGI application on a port: its address."""
    sock = bound("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        sock.close()


def policy_text(model: Any, upstream: str, folder: Path, stages: str = "", more: str = "", top: str = "") -> str:
    (folder / "guard.key").write_text(SECRET.hex())
    keys = "\n".join(f'    {{ client = "{n}", sha256 = "{hashed(k)}" }},' for n, k in KEYS.items())
    shape = ", ".join(map(str, model.input_shape))
    head = "" if "[upstream]" in more else f'[upstream]\nurl = "{upstream}"\n'
    state = "" if "[state]" in more else f'[state]\nurl = "sqlite:///{folder}/state.db"\n'
    admin = "" if "[admin]" in more else "[admin]\nport = 0\n"
    listen = "" if "[listen]" in more else "[listen]\nport = 0\n"
    clients = "" if "[clients]" in more else f"[clients]\nkey = [\n{keys}\n]\n"
    about = "" if "[model]" in more else (
        f'[model]\nname = "m"\ninput_shape = [{shape}]\nclasses = {model.n_classes}\nbounds = [-3.0, 3.0]\n'
    )  # fmt: skip
    return f'key_file = "guard.key"\n{top}\n{head}{about}{listen}{admin}{state}{clients}{stages}\n{more}'


def policy_of(model: Any, upstream: str, folder: Path, stages: str = "", more: str = "", top: str = "") -> Policy:
    return parse_policy(policy_text(model, upstream, folder, stages, more, top), folder=folder)


@contextlib.contextmanager
def gate(policy: Policy, **settings: Any) -> Iterator[Server]:
    """A whole gate in a thread: both ports, the journal, the log."""
    made: list[Server] = []
    ready = threading.Event()
    errors: list[BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        server = Server(policy, **settings)
        server.loop = asyncio.get_running_loop()  # type: ignore[attr-defined]  # for tests that call from outside
        made.append(server)
        loops.append(asyncio.get_running_loop())
        task = asyncio.create_task(server())
        waiting = asyncio.create_task(server.started.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        ready.set()
        await task

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            errors.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    if errors:
        raise errors[0]
    try:
        yield made[0]
    finally:
        loops[0].call_soon_threadsafe(made[0].stop)
        thread.join(30)
        if errors:
            raise errors[0]


def alarms_of(server: Server, model: int = 0) -> list[Alarm]:
    """Every alarm that the gate of this model has written down, in order."""
    with sqlite3.connect(server.models[model].policy.state.url.removeprefix("sqlite:///")) as db:
        rows = db.execute("SELECT stage, client, row, suspicion, at FROM alarms").fetchall()
    db.close()
    return [Alarm(*row) for row in rows]


def fetch(url: str, bearer: str = "", /, **form: str) -> tuple[int, str]:
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    body = urlencode(form).encode() if form else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def asked(url: str, key: str, path: str = "/v2/models/m/infer") -> int:
    """The status of one row that is asked with this key."""
    rows = {"name": "input", "shape": [1, 4], "datatype": "FP64", "data": [0.0, 1.0, 0.0, 1.0]}
    headers = {"x-api-key": key, "content-type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps({"inputs": [rows]}).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
