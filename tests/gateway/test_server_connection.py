"""The shell of a client's connection, between a gate and a transport: most of it without a socket."""

from __future__ import annotations

import asyncio
import gc
import socket
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

LIMITS = Limits(body_s=3.0, head_s=3.0, write_s=3.0, body_bytes=4_000, head_bytes=2_000)
BODY = question([[0.1, 0.2, 0.3, 0.4]])
TURNS = 10_000  # of the event loop, after which a test waits no longer


def asked(body: bytes = BODY, *lines: str, method: str = "POST", path: str = URL, length: int | None = None) -> bytes:
    """A request as it stands on the wire."""
    lines = (*(f"{k}: {v}" for k, v in ALICE.items()), *lines)
    if not any(line.startswith("transfer-encoding") for line in lines):
        lines += (f"content-length: {len(body) if length is None else length}",)
    head = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {path} HTTP/1.1\r\nhost: gate\r\n{head}\r\n".encode() + body


LIVE = asked(b"", method="GET", path="/v2/health/live")


class Wire(asyncio.Transport):
    """A transport whose other end is the test."""

    def __init__(self, connection: ServerConnection) -> None:
        super().__init__({"peername": ("127.0.0.1", 1234)})
        self.connection = connection
        self.sent = b""
        self.reading, self.closed, self.aborted = True, False, False
        connection.connection_made(self)

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    async def told(self, body: bool = True) -> tuple[int, dict[str, str], Any]:
        """The next response."""
        for _ in range(TURNS):
            head, end, rest = self.sent.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            size = int(headers.get("content-length", 0)) if body else 0
            if end and len(rest) >= size:
                self.sent = rest[size:]
                return int(first.split()[1]), headers, orjson.loads(rest[:size]) if size else b""
            await asyncio.sleep(0)
        raise AssertionError("no response came")


class Port:
    """A gate, connections to it, and their clock."""

    def __init__(self, here: Here) -> None:
        self.here, self.now = here, 100.0
        self.connections = ServerConnections(here.gate, lambda: self.here.policy.limits)
        asyncio.get_running_loop().time = lambda: self.now  # type: ignore[method-assign]

    def come(self) -> Wire:
        return Wire(self.connections())

    def look(self, seconds: float) -> None:
        """So much later every connection looks whether something is late."""
        self.now += seconds
        for connection in list(self.connections.open):
            connection._look()

    async def turns(self, n: int = 50) -> None:
        for _ in range(n):
            await asyncio.sleep(0)


@asynccontextmanager
async def port_of(folder: Path, **limits: Any) -> AsyncIterator[Port]:
    here = Here(folder)
    here.policy = replace(here.policy, limits=replace(LIMITS, **limits))
    here.gate.use(here.policy)
    port = Port(here)
    yield port
    for connection in list(port.connections.open):
        connection._transport.close()
    await port.turns()
    assert here.gate.bodies.buffered == 0
    assert here.gate.callers.running == {}
    assert here.gate.in_flight == 0
    await here.store.close()


async def test_a_question_in_pieces_and_in_chunks_is_answered(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        client = port.come()
        text = asked(BODY, "x-request-id: seven")
        chunks = asked(chunked(BODY, 10), "transfer-encoding: chunked", "x-request-id: seven")
        for pieces in ([text], [text[i : i + 7] for i in range(0, len(text), 7)], [chunks]):
            for piece in pieces:
                client.send(piece)
            status, headers, tree = await client.told()
            assert (status, headers["x-request-id"], tree["model_name"]) == (200, "seven", "m")
        assert [len(x) for x in port.here.upstream.x] == [1, 1, 1]


async def test_requests_in_one_piece_are_answered_in_their_order_and_no_more_is_read_meanwhile(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        port.here.upstream.waits = asyncio.Event()
        client = port.come()
        client.send(asked(BODY, "x-request-id: a") + LIVE * 40 + asked(BODY, "x-request-id: b")[:-5])
        await port.turns()
        assert not client.reading
        assert len(port.here.upstream.x) == 1
        port.here.upstream.waits.set()
        assert (await client.told())[1]["x-request-id"] == "a"
        for _ in range(40):
            assert (await client.told())[2] == {"live": True}
        client.send(asked()[-5:])
        assert (await client.told())[1]["x-request-id"] == "b"
        client.send(LIVE * 3_000)  # far more than would fit into calls within calls
        for _ in range(3_000):
            assert (await client.told())[0] == 200
        assert client.reading


async def test_thousands_of_requests_in_one_piece_leave_others_their_turns(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        many, one = port.come(), port.come()
        many.send(LIVE * 1_000)
        one.send(LIVE)
        assert (await one.told())[0] == 200
        assert many.sent.count(b"200 OK") < 10
        many.close()


async def test_the_connection_stays_open_unless_the_client_says_so(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        client = port.come()
        for _ in range(3):
            client.send(asked())
            status, headers, _ = await client.told()
            assert (status, "connection" in headers) == (200, False)
        client.send(asked(BODY, "connection: close") + LIVE)
        assert (await client.told())[1]["connection"] == "close"
        assert client.closed


async def test_a_client_that_waits_to_be_told_is_told_to_go_on_and_not_if_it_is_refused(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        client, stranger = port.come(), port.come()
        client.send(asked(b"", "expect: 100-Continue", length=len(BODY)))
        assert (await client.told())[0] == 100
        client.send(BODY)
        assert (await client.told())[0] == 200
        stranger.send(asked(b"", "expect: 100-continue", length=9).replace(ALICE["x-api-key"].encode(), b"nobody"))
        assert (await stranger.told())[0] == 401
        assert stranger.closed


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


async def test_a_body_that_is_too_long_is_refused_as_a_whole_also_when_it_came_before_its_turn(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        port.here.upstream.waits = asyncio.Event()
        client = port.come()
        long = chunked(b" " * 5_000 + BODY, 1_000)  # its end alone would be a question
        client.send(asked() + asked(long, "transfer-encoding: chunked") + asked())
        await port.turns()
        port.here.upstream.waits.set()
        assert [(await client.told())[0] for _ in range(3)] == [200, 413, 200]
        assert len(port.here.upstream.x) == 2


async def test_bodies_beyond_what_all_may_hold_are_turned_away(tmp_path: Path) -> None:
    async with port_of(tmp_path, buffer_bytes=3_000) as port:
        slow, late = port.come(), port.come()
        slow.send(asked(b"[" * 2_000, length=3_000))
        late.send(asked(b"[" * 2_000, length=3_000))
        status, headers, _ = await late.told()
        assert (status, headers["retry-after"]) == (503, "1")
        slow.send(b"[" * 1_000)
        assert (await slow.told())[0] == 400


@pytest.mark.parametrize(
    ("first", "status", "words"),
    [
        (b"", 408, "head"),
        (LIVE + b"GET / HT", 408, "head"),
        (asked(length=900), 408, "body"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 3_000, 431, "2000 bytes"),
        (b"what is this\r\n\r\n", 400, "HTTP"),
        (asked(b"zz\r\n", "transfer-encoding: chunked"), 400, "HTTP"),
        (asked(chunked(BODY, 9), "transfer-encoding: gzip, chunked"), 501, "chunked"),
    ],
)
async def test_what_is_late_or_long_or_no_http_is_told_so_and_closed(
    tmp_path: Path, first: bytes, status: int, words: str
) -> None:
    async with port_of(tmp_path) as port:
        client = port.come()
        client.send(first)
        if first.startswith(LIVE):
            await client.told()
        port.look(3.1)
        found = await client.told()
        assert (found[0], found[1]["connection"]) == (status, "close")
        assert words in found[2]["error"]
        assert client.closed
        assert port.here.upstream.x == []


async def test_a_connection_on_which_nothing_is_asked_is_closed_without_a_word(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        client = port.come()
        client.send(LIVE)
        await client.told()
        port.look(29.0)
        assert not client.closed
        port.look(1.1)
        assert client.closed
        assert client.sent == b""


async def test_a_client_that_leaves_before_its_answer_is_answered_all_the_same(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        port.here.upstream.waits = asyncio.Event()
        gone, half = port.come(), port.come()
        gone.send(asked())
        half.send(asked()[:-9])
        await port.turns()
        gone.close()
        half.close()
        await port.turns()
        assert port.here.gate.in_flight == 1
        assert port.here.gate.metrics.requests["malformed"] == 1
        port.here.upstream.waits.set()
        await port.turns()
        assert port.here.gate.metrics.requests["answered"] == 1


async def test_a_client_that_takes_no_answers_gets_no_more_of_them_and_is_cut_off_in_the_end(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        client = port.come()
        client.connection.pause_writing()
        client.send(LIVE * 300)
        await port.turns()
        assert client.sent == b""
        assert not client.reading
        port.look(2.9)
        client.connection.resume_writing()
        for _ in range(300):
            assert (await client.told())[0] == 200
        client.connection.pause_writing()
        port.look(2.9)
        assert not client.aborted
        port.look(0.2)
        assert client.aborted


async def test_a_client_that_takes_not_even_its_last_answer_is_cut_off(tmp_path: Path, monkeypatch: Any) -> None:
    async with port_of(tmp_path) as port:
        client = port.come()
        monkeypatch.setattr(
            client, "close", lambda: setattr(client, "closed", True)
        )  # there is still something to send
        client.send(asked(b"", "connection: close", method="GET", path="/v2/health/live"))
        assert (client.closed, client.aborted) == (True, False)
        monkeypatch.undo()
        client.connection._look()
        assert client.aborted
        client.connection.connection_lost(None)


async def test_at_the_end_the_idle_go_at_once_and_the_others_with_their_answer(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        port.here.upstream.waits = asyncio.Event()
        idle, busy = port.come(), port.come()
        busy.send(asked())
        await port.turns()
        port.connections.close()
        assert idle.closed
        port.here.upstream.waits.set()
        status, headers, _ = await busy.told()
        assert (status, headers["connection"]) == (200, "close")
        assert busy.closed


async def test_more_connections_than_allowed_are_told_to_come_back(tmp_path: Path) -> None:
    async with port_of(tmp_path, connections=1) as port:
        port.come()
        late = port.come()
        status, headers, _ = await late.told()
        assert (status, headers["retry-after"]) == (503, "1")
        assert late.closed


async def test_a_mistake_of_our_own_is_a_500_and_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with port_of(tmp_path) as port:

        def broken(self: ServerConnection, *values: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(ServerConnection, "_enter", broken)
        client = port.come()
        client.send(LIVE)
        assert (await client.told())[0] == 500
        assert client.closed


async def test_a_request_leaves_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        client = port.come()

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


# With sockets.


@asynccontextmanager
async def socket_of(folder: Path) -> AsyncIterator[tuple[Here, ServerConnections, Any]]:
    here = Here(folder)
    here.policy = replace(here.policy, limits=LIMITS)
    here.gate.use(here.policy)
    connections = ServerConnections(here.gate, lambda: LIMITS)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # so that little is on the way
    client.connect(server.sockets[0].getsockname())
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        yield here, connections, (reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        async with asyncio.timeout(5):
            while connections.open:
                await asyncio.sleep(0.01)
    finally:
        server.close()
        await here.store.close()


async def test_over_a_socket_a_question_is_answered(tmp_path: Path) -> None:
    async with socket_of(tmp_path) as (_, _, (reader, writer)):
        for _ in range(3):
            writer.write(asked())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
        writer.write(b"what is this\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")


async def test_over_a_socket_a_client_that_does_not_read_is_not_read_and_fills_no_memory(tmp_path: Path) -> None:
    async with socket_of(tmp_path) as (_, connections, (reader, writer)):
        reader._transport.pause_reading()
        while not connections.open:
            await asyncio.sleep(0)
        connection = next(iter(connections.open))
        transport, sent = connection._transport, 0
        async with asyncio.timeout(20):
            while connection._full_since is None:
                if not writer.transport.get_write_buffer_size():
                    writer.write(LIVE * 100)
                    sent += 100
                await asyncio.sleep(0)
        held = transport.get_write_buffer_size()
        assert held < transport.get_write_buffer_limits()[1] + 1_000
        await asyncio.sleep(0.05)
        assert transport.get_write_buffer_size() == held
        reader._transport.resume_reading()
        for _ in range(sent):
            assert (await asyncio.wait_for(reader.readuntil(b"}"), 5)).endswith(b'{"live":true}')


async def test_a_body_that_was_refused_by_its_head_is_read_slowly(tmp_path: Path) -> None:
    async with port_of(tmp_path) as port:
        client, other = port.come(), port.come()
        head = asked(b"", length=3_000).replace(ALICE["x-api-key"].encode(), b"wrong")
        client.send(head + b"1" * 1_000)
        assert (await client.told())[0] == 401
        assert not client.reading
        other.send(asked())
        assert (await other.told())[0] == 200
        assert other.reading
        client.connection._rested()
        assert client.reading
        client.send(b"1" * 1_000)
        assert not client.reading
        client.connection._rested()
        client.send(b"1" * 1_000 + asked())  # the next request
        assert (await client.told())[0] == 200
        client.connection._rested()
        assert client.reading
