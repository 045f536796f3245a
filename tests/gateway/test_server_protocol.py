"""The server's side of HTTP/1.1: bytes against events, without sockets and without waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from portcullis_ml.gateway.http.messages import Request
from portcullis_ml.gateway.http.server_protocol import PART, PARTS, Data, ProtocolError, ServerProtocol
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.wire import Reply

LIMITS = Limits(head_s=3.0, body_s=5.0, head_bytes=2_000)
OK = Reply(b"{}")


class Connection:
    """A connection whose events are kept as words, at a time that the test sets."""

    def __init__(self, **limits: Any) -> None:
        self.now = 100.0
        self.limits = replace(LIMITS, **limits)
        self.http = ServerProtocol(lambda: self.limits, self.now)

    def send(self, data: bytes) -> list[Any]:
        self.http.receive_data(data, self.now)
        return self.events()

    def events(self) -> list[Any]:
        found: list[Any] = []
        while (event := self.http.next_event()) is not None:
            found.append(event)
        return [whole(found[:i], e) for i, e in enumerate(found)]

    def respond(self, reply: Reply = OK, id: str = "") -> str:
        return self.http.respond(reply, self.now, id).decode("latin-1")

    def after(self, seconds: float) -> list[Any]:
        self.now += seconds
        self.http.expire(self.now)
        return self.events()


def whole(before: list[Any], event: Any) -> Any:
    """An event in short: a request by its method and path, a part of a body by its bytes, an error by its status."""
    if isinstance(event, Request):
        return f"{event.method} {event.path}"
    if isinstance(event, Data):
        return event.data
    return event.status if isinstance(event, ProtocolError) else "end"


def asked(
    body: bytes = b"", *lines: str, method: str = "POST", path: str = "/a", host: str = "host: gate\r\n"
) -> bytes:
    """A request as it stands on the wire."""
    if not any(line.lower().startswith("transfer-encoding") for line in lines):
        lines += (f"content-length: {len(body)}",)
    head = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {path} HTTP/1.1\r\n{host}{head}\r\n".encode("latin-1") + body


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def test_a_body_in_thousands_of_tiny_parts_is_none() -> None:
    client, head = Connection(), asked(b"", "transfer-encoding: chunked")
    assert client.send(head) == ["POST /a"]
    found = client.send(chunked(*[b"1"] * 5_000))
    assert (found[:PARTS], found[PARTS:]) == ([b"1"] * PARTS, [413])
    assert "connection: close" in client.respond(Reply(b"{}", 413))
    assert client.http.closed


def test_parts_that_are_not_tiny_may_be_many() -> None:
    client, head = Connection(), asked(b"", "transfer-encoding: chunked")
    found = client.send(head + chunked(*[b"1" * (PART + 1)] * (2 * PARTS)))
    assert (found[0], sum(map(len, found[1:-1])), found[-1]) == ("POST /a", 2 * PARTS * (PART + 1), "end")
    client.respond()
    assert client.send(head + chunked(*[b"1"] * PARTS))[-1] == "end"  # each body is counted by itself


GET = asked(method="GET", path="/live")


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_request_in_pieces_of_any_size_is_one_request(size: int) -> None:
    client, text = Connection(), asked(b"body", "X-Request-Id: seven")
    found: list[Any] = []
    for i in range(0, len(text), size):
        found += client.send(text[i : i + size])
    assert found[0] == "POST /a"
    assert b"".join(found[1:-1]) == b"body"
    assert found[-1] == "end"


def test_a_request_has_its_headers_by_lower_case_name_and_knows_which_came_twice() -> None:
    client = Connection()
    client.http.receive_data(asked(b"", "X-A: 1", "x-a: 2", path="/a%20b?c=d"), client.now)
    request = client.http.next_event()
    assert isinstance(request, Request)
    assert (request.headers["x-a"], request.twice) == ("2", {"x-a"})
    assert (request.path, request.raw_path) == ("/a b", b"/a%20b")


def test_the_next_request_is_given_out_once_the_last_has_its_response() -> None:
    client = Connection()
    assert client.send(asked(b"x") + GET) == ["POST /a", b"x", "end"]
    assert not client.http.wants_data
    client.respond()
    assert client.events() == ["GET /live", "end"]
    assert client.http.wants_data
    client.respond()
    assert not client.http.closed


def test_of_many_requests_in_one_piece_few_are_parsed_ahead() -> None:
    client = Connection()
    assert client.send(GET * 3_000) == ["GET /live", "end"]
    assert len(client.http._events) < 1_000
    for _ in range(2_999):
        client.respond()
        assert client.events() == ["GET /live", "end"]
    client.respond()
    assert not client.http.ahead
    assert client.http.wants_data


def test_a_response_says_its_length_its_id_and_whether_it_is_the_last() -> None:
    client = Connection()
    client.send(GET)
    assert client.respond(Reply(b"{}", 200, (("a", "b"),)), "seven") == (
        "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 2\r\nx-request-id: seven\r\n\r\n{}"
    )
    client.send(asked(b"", "connection: close"))
    assert "connection: close\r\n\r\n{}" in client.respond()
    assert client.http.closed
    assert client.send(GET) == []


def test_a_client_of_http_1_0_gets_one_response_and_needs_no_host() -> None:
    client = Connection()
    assert client.send(b"GET /live HTTP/1.0\r\nconnection: keep-alive\r\n\r\n") == ["GET /live", "end"]
    assert "connection: close" in client.respond()
    assert client.http.closed


def test_the_response_to_head_has_no_body_and_that_without_content_no_length() -> None:
    client = Connection()
    client.send(asked(method="HEAD"))
    assert client.respond().endswith("content-length: 2\r\n\r\n")
    client.send(asked(method="OPTIONS"))
    assert client.respond(Reply(b"", 204, ())) == "HTTP/1.1 204 No Content\r\n\r\n"


def test_a_body_in_chunks_is_given_without_its_framing_and_trailers_are_read_past() -> None:
    client = Connection()
    text = chunked(b"one", b"two")[:-2] + b"host: other\r\nx: y\r\n\r\n"
    assert client.send(asked(text, "Transfer-Encoding: Chunked")) == ["POST /a", b"one", b"two", "end"]
    client.respond()
    assert client.send(GET) == ["GET /live", "end"]


# Waiting to be told to go on.


@pytest.mark.parametrize("word", ["100-continue", "100-Continue", "100-CONTINUE "])
def test_a_client_that_waits_is_told_to_go_on_in_any_case_of_letters(word: str) -> None:
    client = Connection()
    client.send(asked(b"", f"expect: {word}").replace(b"length: 0", b"length: 4"))
    assert client.http.go_ahead() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.http.go_ahead() == b""
    assert client.send(b"body") == [b"body", "end"]
    client.respond()
    assert not client.http.closed


def test_a_client_that_sent_its_body_at_once_is_not_told_to_go_on() -> None:
    client = Connection()
    client.http.receive_data(asked(b"body", "expect: 100-continue"), client.now)
    client.http.next_event()
    assert client.http.go_ahead() == b""
    old = Connection()
    old.http.receive_data(b"POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n", old.now)
    old.http.next_event()
    assert old.http.go_ahead() == b""


def test_a_client_that_is_refused_instead_may_not_send_the_body_so_the_connection_ends() -> None:
    client = Connection()
    client.send(asked(b"", "expect: 100-continue").replace(b"length: 0", b"length: 4"))
    assert "connection: close" in client.respond(Reply(b"", 401))
    assert client.http.closed


# Framing that is refused.


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"what is this\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nhost: gate\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nhost: gate\r\n\r\n", 400),
        (asked(host=""), 400),
        (asked(host="host: a\r\nHost: a\r\n"), 400),
        (asked(host="", path="http://gate/a"), 400),
        (asked(method="CONNECT", path="elsewhere:443"), 400),
        (asked(b"x", "content-length: 5"), 400),
        (asked(chunked(b"x"), "transfer-encoding: chunked", "content-length: 5"), 400),
        (asked(chunked(b"x"), "transfer-encoding: gzip, chunked"), 501),
        (asked(chunked(b"x"), "transfer-encoding: gzip", "transfer-encoding: chunked"), 501),
        (asked(chunked(b"x"), "transfer-encoding: chunked, chunked"), 400),
        (asked(b"x", "transfer-encoding: gzip"), 501),
        (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"x"), 400),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 3_000, 431),
        (asked(b"", "x: " + "a" * 3_000), 431),
        (asked(b"", "x: " + "a" * 70_000), 431),
        (asked(path="/" + "a" * 3_000), 431),
        (asked(b"", *["a: b"] * 400), 431),
    ],
)
def test_what_is_no_http_or_too_long_is_one_error_in_however_many_pieces(text: bytes, status: int) -> None:
    for size in (len(text), 1):
        client = Connection()
        found: list[Any] = []
        for i in range(0, len(text), size):
            found += client.send(text[i : i + size])
        assert found == [status]
        assert "connection: close" in client.respond(Reply(b"", status))
        assert client.http.closed
        assert client.send(GET) == []


def test_a_head_of_just_the_limit_is_taken_with_a_long_body_in_the_same_piece() -> None:
    room = 200 - len("/a") - len("host: gate\r\ncontent-length: 5000\r\nx: \r\n")
    for more, first in ((0, "POST /a"), (1, 431)):
        client = Connection(head_bytes=200)
        assert client.send(asked(b"b" * 5_000, "x: " + "a" * (room + more)))[0] == first


def test_bad_framing_within_a_body_is_an_error_and_ends_the_connection() -> None:
    client = Connection()
    assert client.send(asked(b"zz\r\n", "transfer-encoding: chunked")) == ["POST /a", 400]
    assert "connection: close" in client.respond(Reply(b"", 400))
    assert client.http.closed


def test_nonsense_behind_a_request_does_not_cost_it_its_response() -> None:
    client = Connection()
    assert client.send(GET + b"\x00nonsense\r\n\r\n") == ["GET /live", "end"]
    assert "connection: close" not in client.respond()
    assert client.events() == [400]
    client.respond(Reply(b"", 400))
    assert client.http.closed


# An offer of another protocol is none of the gate's business.


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
@pytest.mark.parametrize("size", [1, 10_000])
def test_an_offer_to_upgrade_is_ignored_and_the_body_is_read(upgrade: str, size: int) -> None:
    lines = ("connection: upgrade, http2-settings", f"upgrade: {upgrade}", "http2-settings: AAMAAABkAAQCAAAAAAIAAAAA")
    framed = (asked(b"body", *lines), asked(chunked(b"body"), *lines, "transfer-encoding: chunked"))
    for text in (*framed, framed[0].replace(b"Content-Length", b"content-length")):
        client = Connection()
        text += GET
        found: list[Any] = []
        for i in range(0, len(text), size):
            found += client.send(text[i : i + size])
        assert found[0] == "POST /a"
        assert b"".join(found[1:-1]) == b"body"
        assert found[-1] == "end"
        assert "connection: close" not in client.respond()
        assert client.events() == ["GET /live", "end"]


def test_many_offers_to_upgrade_in_one_piece_are_as_many_requests() -> None:
    client = Connection()
    found = client.send(asked(b"", "connection: upgrade", "upgrade: h2c") * 500)
    for _ in range(500):
        assert found == ["POST /a", "end"]
        client.respond()
        found = client.events()
    assert found == []


# A response before the request's end.


def test_the_rest_of_a_body_that_was_answered_is_read_past_in_the_time_of_a_head() -> None:
    client = Connection()
    assert client.send(asked(b"x" * 10)[:-5]) == ["POST /a", b"xxxxx"]
    client.respond(Reply(b"", 401))
    assert client.http.due == client.now + 3
    assert client.send(b"xxxxx" + GET) == ["end", "GET /live", "end"]
    slow = Connection()
    slow.send(asked(b"x" * 10)[:-5])
    slow.respond(Reply(b"", 401))
    assert slow.after(3.1) == []  # without a word: it has its response
    assert slow.http.closed


def test_bad_framing_in_what_is_read_past_closes_the_connection_without_a_word() -> None:
    client = Connection()
    client.send(asked(b"", "transfer-encoding: chunked"))
    client.respond(Reply(b"", 401))
    assert client.send(b"zz\r\n") == []
    assert client.http.closed


# Time.


@pytest.mark.parametrize("first", [b"", b"GET / HT", asked(b"", "x: y")[:-4]])
def test_a_head_has_its_time(first: bytes) -> None:
    client = Connection()
    client.send(first)
    assert client.after(2.9) == []
    assert client.after(0.2) == [408]
    assert "connection: close" in client.respond(Reply(b"", 408))
    assert client.http.closed


def test_a_body_has_its_time_and_the_answer_as_long_as_it_takes() -> None:
    client = Connection()
    client.send(asked(b"body")[:-2])
    assert client.after(4.9) == []
    assert client.after(0.2) == [408]
    quick = Connection()
    quick.send(asked(b"body"))
    assert quick.http.due is None
    assert quick.after(1_000) == []
    quick.respond()
    assert quick.send(GET) == ["GET /live", "end"]


def test_an_idle_connection_is_closed_without_a_word_and_a_head_that_has_begun_is_not() -> None:
    client = Connection()
    client.send(GET)
    client.respond()
    assert client.after(29.9) == []
    assert not client.http.closed
    assert client.after(0.2) == []
    assert client.http.closed
    late = Connection()
    late.send(GET)
    late.respond()
    late.after(29.9)
    late.send(GET[:5])
    assert late.after(0.2) == []
    assert not late.http.closed
    assert late.after(3) == [408]


def test_a_request_that_came_ahead_has_the_time_of_its_body_from_its_turn_on() -> None:
    client = Connection()
    client.send(asked(b"a") + asked(b"body")[:-2])
    client.after(1_000)
    client.respond()
    assert client.events() == ["POST /a", b"bo"]
    assert client.after(4.9) == []
    assert client.after(0.2) == [408]


def test_the_end_comes_after_the_response_and_at_once_where_nothing_is_asked() -> None:
    idle, busy = Connection(), Connection()
    idle.http.leave()
    assert idle.http.closed
    busy.send(GET)
    busy.http.leave()
    assert not busy.http.closed
    assert "connection: close" in busy.respond()
    assert busy.http.closed
