"""The client for model servers, against servers that answer with prepared bytes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.certificates import certificates

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway.credentials import credentials, trusted
from portcullis_ml.gateway.http import client as http_client
from portcullis_ml.gateway.http import client_protocol
from portcullis_ml.gateway.http.client import HttpClient
from portcullis_ml.gateway.http.client_protocol import Lost, Unreadable
from portcullis_ml.gateway.policy.settings import UpstreamTable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def question(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(w.split(b":")[1]) for w in head.split(b"\r\n") if w.lower().startswith(b"content-length"))
    return head + await reader.readexactly(length)


def answering(*answers: bytes, then_close: bool = False) -> tuple[Talk, list[bytes]]:
    """A server that gives these answers in turn on every connection, and the questions that it was asked."""
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            asked.append(await question(reader))
            writer.write(answer)
        if not then_close:
            await reader.read()

    return talk, asked


@asynccontextmanager
async def client_of(talk: Talk, **settings: Any) -> AsyncIterator[HttpClient]:
    talks: set[asyncio.Task[None]] = set()

    async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())  # type: ignore[arg-type]
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(until_the_end, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient(
        f"http://127.0.0.1:{port}/base", **{"timeout_s": 2.0, "connections": 4, "limit": 1000, **settings}
    )
    try:
        yield client
    finally:
        await client.close()
        server.close()
        await asyncio.wait(talks, timeout=2.0) if talks else None


async def test_a_question_and_its_answer_word_for_word() -> None:
    talk, asked = answering(OK, OK)
    async with client_of(talk) as client:
        found = await client.ask("POST", "/v2", {"x-request-id": "7"}, b"body")
        assert found == (200, {"content-length": "2", "x-a": "b"}, b"hi")
        await client.ask("GET", "/ready", {})
    port = client._port
    first = b"POST /base/v2 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 4\r\nx-request-id: 7\r\n\r\nbody" % port
    assert asked[0] == first
    assert asked[1].startswith(b"GET /base/ready HTTP/1.1\r\n")  # on the same connection


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhi",  # it ends with the connection
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    ],
)
async def test_bodies_in_every_form(answer: bytes) -> None:
    talk, _ = answering(answer, then_close=True)
    async with client_of(talk) as client:
        for _ in range(3):
            status, _, body = await client.ask("GET", "/", {})
            assert (status, body) == (200, b"hi")
            await asyncio.sleep(0.02)  # and the server has closed the connection


async def test_what_is_no_answer_or_too_long_is_unreadable_and_the_connection_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_protocol, "HEADER_BYTES", 1000)
    for answer in (
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + bytes(2000),
        b"HTTP/1.1 200 OK\r\nx-long: " + b"a" * 2000 + b"\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
    ):
        talk, _ = answering(answer)
        async with client_of(talk) as client:
            with pytest.raises(Unreadable):
                await client.ask("GET", "/", {})
            assert not client._idle


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    talk, asked = answering(OK + OK, OK)
    async with client_of(talk) as client:
        for _ in range(2):
            assert (await client.ask("GET", "/", {}))[2] == b"hi"
            await asyncio.sleep(0.01)
    assert len(asked) == 2  # each the first on its connection


async def test_a_kept_connection_that_was_closed_is_stale_and_a_fresh_one_is_not() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(OK)
        await question(reader)  # and closes without a word

    async with client_of(once) as client:
        await client.ask("GET", "/", {})
        with pytest.raises(Lost) as lost:
            await client.ask("GET", "/", {})
        assert lost.value.stale
        await client.ask("GET", "/", {})

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)

    async with client_of(never) as client:
        with pytest.raises(Lost) as lost:
            await client.ask("GET", "/", {})
        assert not lost.value.stale
    with pytest.raises(Lost):
        await client.ask("GET", "/", {})  # nobody listens any more


async def test_an_answer_cut_short_is_lost_and_not_to_be_asked_for_again() -> None:
    talk, _ = answering(OK, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", then_close=True)
    async with client_of(talk) as client:
        await client.ask("GET", "/", {})
        with pytest.raises(Lost) as lost:
            await client.ask("GET", "/", {})
        assert not lost.value.stale


async def test_a_late_answer_never_meets_the_next_question() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:  # a connection that it closed would be lost when the next question is asked, sooner or later
            asked = await question(reader)
            if b"/slow" in asked:
                await asyncio.sleep(0.2)
            writer.write(OK if b"/slow" not in asked else OK.replace(b"hi", b"no"))

    async with client_of(slow) as client:
        with pytest.raises(TimeoutError):
            await client.ask("GET", "/slow", {}, timeout_s=0.05)
        assert (await client.ask("GET", "/fast", {}))[2] == b"hi"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ask("GET", "/slow", {}), 0.05)  # and when the asker went away
        assert (await client.ask("GET", "/fast", {}))[2] == b"hi"


async def test_connections_are_counted_and_who_waits_too_long_for_one_is_told() -> None:
    open_now = most = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            while True:
                await question(reader)
                await asyncio.sleep(0.02)
                writer.write(OK)
        finally:
            open_now -= 1

    async with client_of(counted, connections=2) as client:
        await asyncio.gather(*(client.ask("GET", "/", {}) for _ in range(8)))
        assert most == 2
        waiting = [client.ask("GET", "/", {}, timeout_s=0.03) for _ in range(6)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(f, TimeoutError) for f in found) >= 2
        assert (await client.ask("GET", "/", {}))[0] == 200


async def test_one_clock_ends_every_question_when_it_is_late_and_no_other() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with client_of(silent, connections=10) as client:
        asked = [asyncio.create_task(client.ask("GET", "/", {}, timeout_s=s)) for s in (60.0, 0.2, 0.05, 0.3)]
        found = await asyncio.wait_for(asyncio.gather(*asked[1:], return_exceptions=True), 4)
        assert [type(f) for f in found] == [TimeoutError] * 3
        assert len(client._running) == client._used == 1
    with pytest.raises(Lost):  # at the end those that run are lost, and nobody waits for ever
        await asked[0]
    assert client._used == 0


async def test_old_connections_are_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    talk, asked = answering(OK)
    async with client_of(talk) as client:
        await client.ask("GET", "/", {})
        monkeypatch.setattr(http_client, "IDLE_S", -1.0)
        await client.ask("GET", "/", {})
    assert len(asked) == 2


async def test_the_gate_shows_its_own_token_whatever_a_question_brings(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    own = credentials(str(tmp_path / "token"), "Authorization")
    assert own == {"authorization": "Bearer s3cret"}
    assert credentials(str(tmp_path / "token"), "X-Api-Key") == {"x-api-key": "s3cret"}
    assert credentials(None, "authorization") == {}
    talk, asked = answering(OK)
    async with client_of(talk, own=own) as client:
        await client.ask("GET", "/", {"authorization": "Bearer forged"})
    assert b"authorization: Bearer s3cret\r\n" in asked[0]
    assert b"forged" not in asked[0]


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff"])
def test_a_token_that_cannot_be_sent_is_refused_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match=r"The model server's token .* (cannot be read|something else)"):
        credentials(str(tmp_path / "token"), "authorization")


async def test_a_name_and_password_in_the_address_and_no_line_breaks_in_headers() -> None:
    talk, asked = answering(OK, OK)
    async with client_of(talk) as plain:
        client = HttpClient(f"http://u%40:p@127.0.0.1:{plain._port}", timeout_s=2.0, connections=1, limit=100)
        await client.ask("GET", "/", {})
        assert b"authorization: Basic dUA6cA==" in asked[0]
        with pytest.raises(ParameterError, match="line breaks"):
            await client.ask("GET", "/", {"x": "a\r\ny: b"})
        with pytest.raises(ParameterError, match="line breaks"):
            await client.ask("GET", "/\r\nx", {})
        assert (await client.ask("GET", "/", {"a": "b"}))[0] == 200  # and the only connection is free
        await client.close()
    with pytest.raises(ParameterError, match=r"upstream\.url"):
        HttpClient("ftp://host", timeout_s=1.0, connections=1, limit=1)


async def test_a_server_shows_whom_it_is_and_the_gate_does_too(tmp_path: Path) -> None:
    certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ca, own = str(tmp_path / "ca.pem"), str(tmp_path / "gate.pem")
    for given, taken in (((ca, own, None), True), ((ca, own, own), True), ((ca, None, None), False),
                         ((None, own, None), False)):  # fmt: skip
        client = HttpClient(url, timeout_s=5, connections=1, limit=99, tls=trusted(*given))
        if taken:
            assert (await client.ask("GET", "/", {}))[2] == b"ok"
        else:
            with pytest.raises(Lost):
                await client.ask("GET", "/", {})
        await client.close()
    server.close()
    await server.wait_closed()


def test_certificates_that_cannot_be_read_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nonsense")
    for files in ((str(tmp_path / "none.pem"), None, None), (None, str(tmp_path / "x.pem"), None)):
        with pytest.raises(InputError, match="PEM files"):
            trusted(*files)
    for wrong in ({"url": "http://h", "ca_file": "x"}, {"url": "https://h", "key_file": "x"}):
        with pytest.raises(ParameterError, match="given with"):
            UpstreamTable(**wrong)
