"""Health: what probes are told, on either port, is what a request would meet."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests.gateway.asgi import Here, down
from tests.gateway.harness import Softmax, gate, policy_of, running, served_of, stored

from portcullis_ml.gateway import health, querylog
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.querylog import Line, LogFull, QueryLogFile, read_log
from portcullis_ml.gateway.state import tail as tail_module
from portcullis_ml.gateway.state.journal import Down
from portcullis_ml.gateway.upstream import HttpUpstream

ALL = '[listen]\nport = 0\nprotocols = ["v2", "v1", "invocations"]\n'
PROBES = ("/v2/health/ready", "/v2/models/m/ready", "/v1/models/m", "/ping", "/health")
MODEL = Softmax()


@pytest.fixture(autouse=True)
def ask_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "KEEP_S", 0.0)


async def probed(here: Here) -> set[int]:
    return {(await here.send("GET", path, headers={}))[0] for path in PROBES}


async def test_the_clients_port_says_when_the_model_server_is_down(tmp_path: Path) -> None:
    here = Here(tmp_path, more=ALL)
    assert await probed(here) == {200}
    here.upstream.fails = down()
    assert await probed(here) == {503}
    status, headers, tree = await here.send("GET", "/v2/health/ready", headers={})
    assert (status, headers["retry-after"], tree) == (503, "1", {"error": "Not ready."})
    assert (await here.send("GET", "/v2/health/live", headers={}))[0] == 200  # the process is well
    assert (await here.send("GET", "/v2/models/m", headers={}))[0] == 200
    here.upstream.fails = None
    assert await probed(here) == {200}


async def test_a_draining_gate_is_not_ready_and_says_so(tmp_path: Path) -> None:
    here = Here(tmp_path, more=ALL)
    here.upstream.waits = asyncio.Event()
    running = asyncio.create_task(here.infer(np.zeros((1, 4))))
    await asyncio.sleep(0)
    drained = asyncio.create_task(here.gate.drained(20.0))
    await asyncio.sleep(0)
    assert await probed(here) == {503}
    assert (await here.gate.health.look())["draining"] is True
    here.upstream.waits.set()
    assert (await running)[0] == 200
    assert await drained


@pytest.mark.parametrize(("failure", "status"), [("closed", 503), ("open", 200)])
async def test_a_state_that_cannot_be_written_makes_a_gate_unready_where_requests_need_it(
    failure: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full() -> None:
        raise Down("The state file cannot be written: the disk is full.")

    here = Here(tmp_path, more=f'{ALL}[failure]\nstate = "{failure}"\n')
    monkeypatch.setattr(here.store, "ping", full)
    assert await probed(here) == {status}
    assert (await here.gate.health.look())["state"] == "down"


@pytest.mark.parametrize(("failure", "status"), [("closed", 503), ("open", 200)])
async def test_a_log_that_cannot_be_written_makes_a_gate_unready_where_requests_need_it(
    failure: str, status: int, tmp_path: Path
) -> None:
    class Full(querylog.NoLog):
        failed = "No space left on device"

    here = Here(tmp_path, more=f'{ALL}[failure]\nlog = "{failure}"\n', querylog=Full())
    assert await probed(here) == {status}
    assert (await here.infer(np.zeros((1, 4))))[0] == status
    assert (await here.gate.health.look())["log"] == "down"


async def test_probes_share_one_look_and_requests_take_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "KEEP_S", 60.0)
    here = Here(tmp_path, more=ALL)
    for _ in range(3):
        assert (await here.infer(np.zeros((1, 4))))[0] == 200
    assert here.upstream.looked == 0
    found = await asyncio.gather(*(here.send("GET", path, headers={}) for path in PROBES * 20))
    assert {status for status, _, _ in found} == {200}
    assert here.upstream.looked == 1


async def test_a_model_server_that_does_not_answer_is_down_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent() -> bool:
        await asyncio.sleep(60)
        return True

    monkeypatch.setattr(health, "WAIT_S", 0.05)
    here = Here(tmp_path, more=ALL)
    monkeypatch.setattr(here.upstream, "ready", silent)
    assert await probed(here) == {503}


async def test_a_state_file_is_ready_only_while_it_takes_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "s.db")
    await store.ping()
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Down, match="locked"):
        await store.ping()
    other.execute("ROLLBACK")
    other.close()
    await store.ping()
    with monkeypatch.context() as m:
        m.setattr(tail_module.os, "pwritev", lambda *values: 100)  # a full disk takes the beginning
        with pytest.raises(Down, match="the disk is full"):
            await store.ping()
    await store.ping()


async def test_what_a_probe_writes_is_no_event(tmp_path: Path) -> None:
    here = Here(tmp_path)
    for i in range(3):
        await here.infer(np.zeros((1, 4)) + i)
        await here.store.ping()
    here.open()  # after a crash
    assert (await here.streams.look("alice")).tally["requests"] == 3
    assert await here.store.clients() == ["alice"]


STATUSES = {
    "v2": [((200, 200), True), ((400, 200), False), ((503, 200), False), ((404, 200), True), ((404, 400), False),
           ((404, 404), True), ((401, 200), False)],
    "v1": [((200,), True), ((503,), False), ((404,), True)],
    "invocations": [((200,), True), ((500,), False), ((404,), True)],
    "mapping": [((), True)],
}  # fmt: skip


@pytest.mark.parametrize("protocol", STATUSES)
async def test_an_upstream_is_ready_when_it_says_so_on_the_route_that_it_has(protocol: str) -> None:
    spec = served_of(MODEL, version="2")
    wire = CATALOG.load(protocol)()
    statuses: Mapping[str, int] = {}

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        status = statuses.get(scope["path"], 404) if scope["method"] == "GET" else 400  # it may dislike a row
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with running(app) as url:
        upstream = HttpUpstream(url, wire, spec)
        for answers, ready in STATUSES[protocol]:
            statuses = dict(zip(wire.ready_paths(spec), answers, strict=True))
            assert await upstream.ready() is ready, answers
        await upstream.close()
    gone = HttpUpstream(url, wire, spec)
    assert await gone.ready() is False
    await gone.close()


def test_both_ports_say_the_same(tmp_path: Path) -> None:
    from tests.gateway.test_server import fetch

    with gate(policy_of(MODEL, "http://127.0.0.1:9", tmp_path, more=ALL)) as server:
        assert fetch(f"{server.url}/v2/health/ready")[0] == 503
        status, text = fetch(f"{server.admin_url}/readyz")
        known = {"ready": False, "draining": False, "model_server": False, "state": "ok", "log": "ok"}
        assert (status, orjson.loads(text)) == (503, known)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_log_keeps_the_lines_that_a_full_disk_did_not_take(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says that it fails until they are written."""
    kind = querylog._Jsonl if format == "jsonl" else querylog._Parquet
    tried, write, room = 0, kind.write, False

    def limited(self: Any, records: Any) -> None:
        nonlocal tried
        tried += 1
        if not room:
            raise OSError(28, "No space left on device")
        write(self, records)

    monkeypatch.setattr(kind, "write", limited)
    log = QueryLogFile(tmp_path, format=format)
    log.write(Line(id="a", client="alice"))
    while tried < 2:
        assert log._thread.is_alive()
    assert log.failed == "No space left on device"
    with pytest.raises(LogFull):
        log.write(Line(id="b", client="alice"))
    room = True
    while log.failed:
        assert log._thread.is_alive()
    log.write(Line(id="c", client="alice"))
    log.close()
    assert [line.id for line in read_log(tmp_path)] == ["a", "c"]
    assert log.dropped == 1


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = querylog._Jsonl(tmp_path)
    one = querylog.record(Line(id="one"), False)
    writer.write([one])
    file, writer._file = writer._file, Half(writer._file)  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left"):
        writer.write([one])
    writer._file = file
    writer.write([one])
    writer.close()
    assert [line.id for line in read_log(tmp_path)] == ["one", "one"]


class Half:
    """A file on a disk that takes ten bytes more."""

    def __init__(self, file: Any) -> None:
        self._file, self._room = file, 10

    def write(self, data: bytes) -> int:
        if not self._room:
            raise OSError(28, "No space left on device")
        self._room = 0
        return int(self._file.write(data[:10]))

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
