"""The client's side of HTTP/1.1: bytes against responses, without sockets."""

from __future__ import annotations

import pytest

from portcullis_ml.gateway.http import client_protocol
from portcullis_ml.gateway.http.client_protocol import ClientProtocol, Found, Lost, Unreadable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-A: b\r\n\r\nhi"
OPEN = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhi"  # it ends with the connection


def asked(limit: int = 1_000) -> ClientProtocol:
    client = ClientProtocol(limit)
    client.begin()
    return client


def fed(client: ClientProtocol, data: bytes, size: int = 10_000) -> Found | None:
    """What came of these bytes, in pieces of this size."""
    found = [client.receive_data(data[i : i + size]) for i in range(0, len(data), size)]
    assert found[:-1] == [None] * (len(found) - 1)
    return found[-1]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_response_in_pieces_of_any_size_is_one_response_and_then_comes_the_next(size: int) -> None:
    client = asked()
    for _ in range(3):
        assert fed(client, OK, size) == (200, {"content-length": "2", "x-a": "b"}, b"hi")
        assert client.reusable
        client.begin()


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, True),
        (OK.replace(b"X-A: b", b"connection: close"), False),
        (OK.replace(b"1.1", b"1.0"), False),
    ],
)
def test_bodies_in_every_form(answer: bytes, kept: bool) -> None:
    client = asked()
    found = fed(client, answer)
    assert found is not None
    assert (found[0], found[2], client.reusable) == (200, b"hi", kept)


def test_a_response_without_a_length_ends_with_the_connection_and_not_with_its_loss() -> None:
    client = asked()
    assert fed(client, OPEN) is None
    assert client.receive_eof() == (200, {"content-type": "text/plain"}, b"hi")
    assert not client.reusable
    lost = asked()
    fed(lost, OPEN)
    with pytest.raises(Lost):
        lost.receive_eof(clean=False)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + bytes(2000),
        b"HTTP/1.1 200 OK\r\nx-long: " + b"a" * 2000 + b"\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
    ],
)
def test_what_is_no_response_or_too_long_is_unreadable_and_ends_the_connection(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_protocol, "HEADER_BYTES", 1000)
    client = asked()
    with pytest.raises(Unreadable):
        fed(client, answer)
    assert not client.reusable
    assert client.receive_eof() is None


@pytest.mark.parametrize("more", [OK, b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + bytes(5000)])
def test_more_than_was_asked_for_ends_the_connection_but_not_the_response(more: bytes) -> None:
    together, later = asked(), asked()
    found = fed(together, OK + more)
    assert found is not None
    assert (found[2], together.reusable) == (b"hi", False)
    fed(later, OK)
    assert later.receive_data(more) is None
    assert not later.reusable


def test_a_connection_that_was_closed_before_a_second_response_is_stale_and_any_other_is_not() -> None:
    first, second, begun = asked(), asked(), asked()
    for client, stale in ((first, False), (second, True), (begun, False)):
        if client is not first:
            fed(client, OK)
            client.begin()
        if client is begun:
            fed(client, OK[:30])
        with pytest.raises(Lost) as lost:
            client.receive_eof()
        assert lost.value.stale == stale
    idle = asked()
    fed(idle, OK)
    assert idle.receive_eof() is None
    assert not idle.reusable
