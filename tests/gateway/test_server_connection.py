"""A client's connection against bytes as clients may send them: pieces, several at once, none at all."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.gateway.asgi import ALICE, URL, Here, question

from portcullis_ml.gateway.http.server_connection import ServerConnection, ServerConnections
from portcullis_ml.gateway.policy.settings import Limits

LIMITS = Limits(body_s=0.3, head_s=0.3, body_bytes=4_000, head_bytes=2_000)
BODY = question([[0.1, 0.2, 0.3, 0.4]])


def asked(body: bytes = BODY, *lines: str, method: str = "POST", path: str = URL, length: int | None = None) -> bytes:
    """A request as it stands on the wire."""
    lines = (*(f"{k}: {v}" for k, v in ALICE.items()), *lines)
    if not any(line.startswith("transfer-encoding") for line in lines):
        lines += (f"content-length: {len(body) if length is None else length}",)
    head = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {path} HTTP/1.1\r\nhost: gate\r\n{head}\r\n".encode() + body


LIVE = asked(b"", method="GET", path="/v2/health/live")


class Client:
    """One connection to the gate."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *pieces: bytes) -> None:
        self.writer.writelines(pieces)

    async def told(self, body: bool = True) -> tuple[int, dict[str, str], Any]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        text = await self.reader.readexactly(int(headers.get("content-length", 0))) if body else b""
        return int(first.split()[1]), headers, orjson.loads(text) if text else text

    async def closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 5) == b""


class Port:
    """A gate on a port, and clients of it."""

    def __init__(self, here: Here, limits: Limits) -> None:
        self.here, self.limits = here, limits
        self.connections = ServerConnections(here.gate, lambda: self.limits)
        self.clients: list[Client] = []

    async def come(self) -> Client:
        port = self.server.sockets[0].getsockname()[1]
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
        return self.clients[-1]

    async def quiet(self) -> None:
        """Nothing is running, nothing is held, nobody is there."""
        for client in self.clients:
            client.writer.close()
        async with asyncio.timeout(5):
            while self.connections.open or self.here.gate.in_flight:
                await asyncio.sleep(0.01)
        for client in self.clients:
            with suppress(ConnectionError):
                await client.writer.wait_closed()
        assert self.here.gate.bodies.buffered == 0
        assert self.here.gate._of_client == {}


@asynccontextmanager
async def port_of(folder: Path, **limits: Any) -> AsyncIterator[Port]:
    here = Here(folder)
    here.policy = replace(here.policy, limits=replace(LIMITS, **limits))
    here.gate.use(here.policy)
    made = Port(here, here.policy.limits)
    made.server = await asyncio.get_running_loop().create_server(made.connections, "127.0.0.1", 0)
    try:
        yield made
        await made.quiet()
    finally:
        made.server.close()
        await here.store.close()


async def test_a_request_in_pieces_of_any_size_is_one_request(tmp_path: Path) -> None:
    async with port_of(tmp_path, body_s=5.0, head_s=5.0) as h:
        for size in (1, 7, 100, 10_000):
            client = await h.come()
            text = asked(BODY, "x-request-id: seven")
            for i in range(0, len(text), size):
                client.send(text[i : i + size])
                await asyncio.sleep(0)
            status, headers, tree = await client.told()
            assert (status, headers["x-request-id"]) == (200, "seven")
            assert tree["model_name"] == "m"
    assert [len(x) for x in h.here.upstream.x] == [1] * 4


async def test_requests_in_one_piece_are_answered_in_their_order_and_no_more_is_read_meanwhile(tmp_path: Path) -> None:
    async with port_of(tmp_path, body_s=5.0, head_s=5.0) as h:
        h.here.upstream.waits = asyncio.Event()
        client = await h.come()
        client.send(asked(BODY, "x-request-id: a") + LIVE * 40 + asked(BODY, "x-request-id: b")[:-5])
        await asyncio.sleep(0.05)
        connection = next(iter(h.connections.open))
        assert not connection._reading
        assert len(h.here.upstream.x) == 1
        h.here.upstream.waits.set()
        assert (await client.told())[1]["x-request-id"] == "a"
        for _ in range(40):
            assert (await client.told())[2] == {"live": True}
        client.send(asked()[-5:])
        assert (await client.told())[1]["x-request-id"] == "b"
        client.send(LIVE * 3_000)  # far more than would fit into calls within calls
        for _ in range(3_000):
            assert (await client.told())[0] == 200
        assert connection._reading


async def test_the_connection_stays_open_unless_he_says_so(tmp_path: Path) -> None:
    async with port_of(tmp_path) as h:
        client = await h.come()
        for _ in range(3):
            client.send(asked())
            status, headers, _ = await client.told()
            assert status == 200
            assert "connection" not in headers
        client.send(asked(BODY, "connection: close") + LIVE)
        assert (await client.told())[1]["connection"] == "close"
        assert await client.closed()
        old = await h.come()
        old.send(LIVE.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await old.told())[1]["connection"] == "close"
        assert await old.closed()


async def test_he_who_waits_to_be_told_is_told_to_go_on_and_not_if_he_is_refused(tmp_path: Path) -> None:
    async with port_of(tmp_path) as h:
        client = await h.come()
        client.send(asked(b"", "expect: 100-continue", length=len(BODY)))
        assert (await client.told())[0] == 100
        client.send(BODY)
        assert (await client.told())[0] == 200
        stranger = await h.come()
        stranger.send(asked(b"", "expect: 100-continue", length=9).replace(ALICE["x-api-key"].encode(), b"nobody"))
        assert (await stranger.told())[0] == 401


async def test_the_answer_to_head_has_no_body(tmp_path: Path) -> None:
    async with port_of(tmp_path) as h:
        client = await h.come()
        client.send(asked(b"", method="HEAD") + LIVE)
        status, headers, _ = await client.told(body=False)
        assert status == 404
        assert int(headers["content-length"]) > 0
        assert (await client.told())[2] == {"live": True}


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


async def test_chunked_bodies_are_read_within_the_same_bounds(tmp_path: Path) -> None:
    async with port_of(tmp_path) as h:
        client = await h.come()
        client.send(asked(chunked(BODY, 10), "transfer-encoding: chunked"))
        assert (await client.told())[0] == 200
        client.send(asked(chunked(b"1" * 5_000, 1_000), "transfer-encoding: chunked"))
        assert (await client.told())[0] == 413
        client.send(asked())  # the rest of the long one was read past
        assert (await client.told())[0] == 200
    assert len(h.here.upstream.x) == 2


async def test_bodies_beyond_what_all_may_hold_are_turned_away(tmp_path: Path) -> None:
    async with port_of(tmp_path, body_s=5.0, buffer_bytes=3_000) as h:
        slow, late = await h.come(), await h.come()
        slow.send(asked(b"[" * 2_000, length=3_000))
        await asyncio.sleep(0.05)
        late.send(asked(b"[" * 2_000, length=3_000))
        status, headers, _ = await late.told()
        assert (status, headers["retry-after"]) == (503, "1")
        slow.send(b"[" * 1_000)
        assert (await slow.told())[0] == 400


@pytest.mark.parametrize(
    ("first", "status", "words"),
    [
        (b"", 408, "head"),
        (b"GET / HT", 408, "head"),
        (LIVE + b"GET / HT", 408, "head"),
        (asked(length=900), 408, "body"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 3_000, 431, "2000 bytes"),
        (b"what is this\r\n\r\n", 400, "HTTP"),
        (asked(b"zz\r\n", "transfer-encoding: chunked"), 400, "HTTP"),
        (asked(b"", "connection: upgrade", "upgrade: websocket", method="GET"), 400, "HTTP/1.1"),
        (asked(b"", "connection: upgrade, http2-settings", "upgrade: h2c"), 400, "HTTP/1.1"),
    ],
)
async def test_what_is_late_or_long_or_no_http_is_told_so_and_closed(
    tmp_path: Path, first: bytes, status: int, words: str
) -> None:
    async with port_of(tmp_path) as h:
        client = await h.come()
        client.send(first)
        found = await client.told()
        if first.startswith(LIVE):
            found = await client.told()
        assert found[0] == status
        assert words in found[2]["error"]
        assert found[1]["connection"] == "close"
        assert await client.closed()
    assert h.here.upstream.x == []


async def test_nonsense_behind_a_request_does_not_cost_it_its_answer(tmp_path: Path) -> None:
    async with port_of(tmp_path) as h:
        client = await h.come()
        client.send(asked() + b"\x00nonsense\r\n\r\n")
        assert (await client.told())[0] == 200
        assert await client.closed()


async def test_a_connection_on_which_nothing_is_asked_is_closed_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portcullis_ml.gateway.http.server_connection.IDLE_S", 0.1)
    async with port_of(tmp_path) as h:
        client = await h.come()
        client.send(LIVE)
        await client.told()
        assert await client.closed()


async def test_he_who_leaves_before_his_answer_is_answered_all_the_same(tmp_path: Path) -> None:
    async with port_of(tmp_path) as h:
        h.here.upstream.waits = asyncio.Event()
        gone, half = await h.come(), await h.come()
        gone.send(asked())
        half.send(asked()[:-9])
        await asyncio.sleep(0.05)
        gone.writer.close()
        half.writer.close()
        await asyncio.sleep(0.05)
        assert h.here.gate.in_flight == 1
        assert h.here.gate.metrics.requests["malformed"] == 1
        h.here.upstream.waits.set()
    assert h.here.gate.metrics.requests["answered"] == 1


async def test_he_who_takes_no_answers_is_not_read_and_goes_in_the_end(tmp_path: Path) -> None:
    async with port_of(tmp_path) as h:
        client = await h.come()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
        connection = next(iter(h.connections.open))
        connection._transport.set_write_buffer_limits(high=1_000)
        for _ in range(400):
            client.send(LIVE * 300)
            await asyncio.sleep(0.001)
            if connection._full:
                break
        assert connection._full
        assert not connection._reading
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(300):
            assert (await client.told())[0] == 200


async def test_at_the_end_the_idle_go_at_once_and_the_others_with_their_answer(tmp_path: Path) -> None:
    async with port_of(tmp_path) as h:
        h.here.upstream.waits = asyncio.Event()
        idle, busy = await h.come(), await h.come()
        busy.send(asked())
        await asyncio.sleep(0.05)
        h.connections.close()
        assert await idle.closed()
        h.here.upstream.waits.set()
        status, headers, _ = await busy.told()
        assert (status, headers["connection"]) == (200, "close")
        assert await busy.closed()


async def test_a_mistake_of_our_own_is_a_500_and_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ServerConnection, asked: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ServerConnection, "_enter", broken)
    async with port_of(tmp_path) as h:
        client = await h.come()
        client.send(LIVE)
        assert (await client.told())[0] == 500
        assert await client.closed()


async def test_a_request_leaves_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    async with port_of(tmp_path, body_s=5.0, head_s=5.0) as h:
        client = await h.come()

        async def ask() -> None:
            for _ in range(50):
                client.send(asked())
                assert (await client.told())[0] == 200

        await ask()
        gc.collect()
        gc.disable()
        try:
            await ask()
            assert gc.collect() < 50  # not one object for each
        finally:
            gc.enable()


async def test_a_body_that_is_too_long_is_refused_as_a_whole_also_when_it_came_before_its_turn(tmp_path: Path) -> None:
    async with port_of(tmp_path, body_s=5.0) as h:
        h.here.upstream.waits = asyncio.Event()
        client = await h.come()
        long = chunked(b" " * 5_000 + BODY, 1_000)  # its end alone would be a question
        client.send(asked() + asked(long, "transfer-encoding: chunked") + asked())
        await asyncio.sleep(0.05)
        h.here.upstream.waits.set()
        assert [(await client.told())[0] for _ in range(3)] == [200, 413, 200]
    assert len(h.here.upstream.x) == 2
