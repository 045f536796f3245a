"""Coroutines are tests too: each runs on an event loop of its own. And a Redis for those that ask for one."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.gateway.harness import STORED


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(autouse=True)
def every_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever opens a state file closes it; what is left to the garbage collector keeps its locks for as long."""
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def connected(*values: Any, **settings: Any) -> sqlite3.Connection:
        made.append(connect(*values, **settings))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", connected)
    yield
    while STORED:
        STORED.pop().discard()
    left = [connection for connection in made if not _closed(connection)]
    for connection in left:
        connection.close()
    assert not left, f"{len(left)} of {len(made)} connections to state files were left open"


def _closed(connection: sqlite3.Connection) -> bool:
    try:
        return connection.total_changes < 0
    except sqlite3.ProgrammingError as error:
        return "closed" in str(error)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """A Redis of the test's own: (address, a function that stops and starts it)."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path_factory.mktemp("redis"))]
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        for _ in range(200):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    def stop() -> None:
        running[-1].kill()
        running[-1].wait()

    start()
    yield f"redis://127.0.0.1:{port}/0", (start, stop)
    stop()
