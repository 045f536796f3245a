"""The server's side of one HTTP/1.1 connection, without a socket, a clock or an event loop.

In the manner of h11: `receive_data` takes bytes, `next_event` gives what they mean, `respond` makes the bytes of a
response. The time is passed in, and `due` says until when something is waited for. One request is given out at a time:
the events of the next come once the response to the last is made. The parser is httptools'.

The limits on what anybody can send are kept here: how long a head may be, and how long it and a body may take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

import httptools

from portcullis_ml.gateway.http.messages import Request, fields, response_head, target_path
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.wire import Reply

__all__ = ["Data", "EndOfMessage", "Event", "ProtocolError", "ServerProtocol"]

IDLE_S = 30.0  # that a connection on which nothing is asked stays open
PARTS, PART = 1_024, 64  # a body in more parts than so many must have parts of so many bytes on average
PIECE = 16 << 10  # bytes that are parsed before it is looked whether requests have come ahead of their turn


class Data(NamedTuple):
    """A part of the body."""

    data: bytes


class EndOfMessage(NamedTuple):
    """The request is complete. The next event comes once it has its response."""


class ProtocolError(NamedTuple):
    """This is not HTTP, or beyond the limits, or late. Whatever is responded to it is the last response."""

    status: int
    sentence: str


Event = Request | Data | EndOfMessage | ProtocolError
END = EndOfMessage()


class ServerProtocol:
    """One connection, from the moment `now` on. `limits` is asked anew each time, as a policy may be exchanged.

    closed  no more is said on this connection: it can be closed, once what was made has been sent
    due     the time after which `expire` has something to say; None while the server's own work is waited for
    """

    def __init__(self, limits: Callable[[], Limits], now: float) -> None:
        self._limits, self._now = limits, now
        self._parser = httptools.HttpRequestParser(self)
        self._unparsed: bytes | memoryview = b""
        self._events: deque[Event] = deque()
        self._begun = self._finished = 0  # requests
        self._size = 0  # bytes since a head or a part of a body was complete
        self._parts = self._came = 0  # of the body, and bytes of it
        self._target, self._pairs = b"", list[tuple[bytes, bytes]]()
        self._headed = False  # the head that is being read is complete
        self._resuming = False  # a head is read for the second time
        self._request: Request | None = None  # that was given out and is not finished
        self._complete = self._responded = False  # it has come to its end; its response is made
        self._broken = False  # nothing more can be parsed
        self._last = False  # the next response is the last
        self.closed = False
        self.due: float | None = None
        self._wait("head", limits().head_s)

    # Bytes in, events out.

    def receive_data(self, data: bytes, now: float) -> None:
        self._now = now
        self._unparsed = data if not self._unparsed else bytes(self._unparsed) + data
        self._parse()

    def next_event(self) -> Event | None:
        """None if more bytes are needed, or first the response to the request that was given out."""
        while not self.closed and (self._responded or not self._complete):
            if not self._events:
                self._parse()
                if not self._events:
                    break
            event = self._events.popleft()
            if isinstance(event, Request):
                self._request = event
                self._wait("body", self._limits().body_s)
            elif isinstance(event, Data):
                if self._responded:  # the body of a request that was answered by its head is not looked at
                    continue
            elif isinstance(event, ProtocolError):
                self._last, self.due = True, None
                self.closed = self._responded  # in what is left of a request: that has its response
            else:
                self._complete, self.due = True, None
                if self._responded:
                    self._finish()
            return None if self.closed else event
        return None

    @property
    def wants_data(self) -> bool:
        """False while the client asks ahead of its answers: what it has sent already is enough."""
        return not self._unparsed and self._begun - self._finished < 2

    @property
    def rest(self) -> bool:
        """Of a request that has its response already, something is still to come, which nobody will look at."""
        return self._responded and not self._complete

    @property
    def ahead(self) -> bool:
        """The last request is finished, and of the next one something has come already."""
        return self._request is None and bool(self._events or self._unparsed)

    # Time.

    def expire(self, now: float) -> None:
        """What is waited for is late, if it is: then there is an event that says so, or the connection is closed."""
        self._now = now
        if self.due is None or now < self.due:
            return
        limits, self.due = self._limits(), None
        seconds = {"head": limits.head_s, "body": limits.body_s}.get(self._awaited)
        if seconds is None or self._broken:
            self.closed = True
        else:
            self._fail(408, f"The {self._awaited} of a request took longer than {seconds:g} seconds.")

    def _wait(self, what: str, seconds: float) -> None:
        self._awaited, self.due = what, self._now + seconds

    # Responses.

    def go_ahead(self) -> bytes:
        """What to send to a client that waits for "100 Continue" before it sends the body; nothing to any other."""
        if self._request is None or not self._request.expects_continue or self._events:
            return b""
        self._request.expects_continue = False
        return b"HTTP/1.1 100 Continue\r\n\r\n"

    def respond(self, reply: Reply, now: float, id: str = "") -> bytes:
        """The response to the request that was given out, or to the error. It may come before the request's end."""
        self._now = now
        request = self._request
        unsent = request is not None and request.expects_continue and not (self._complete or self._events)
        # Whether that body will come after all is not known, so that this must be the last response.
        self._last = self._last or request is None or unsent or not request.keep_alive
        head = response_head(reply.status, reply.headers)
        if reply.status != 204:
            head += b"content-length: %d\r\n" % len(reply.body)
        last = b"connection: close\r\n" if self._last else b""
        named = b"x-request-id: %b\r\n" % id.encode("latin-1") if id else b""
        body = b"" if request is not None and request.method == "HEAD" else reply.body
        self._responded = True
        if self._complete or unsent or request is None or (self._broken and not self._events):
            self._finish()
        else:
            self._wait("rest", self._limits().head_s)
        return b"%b%b%b\r\n%b" % (head, named, last, body)

    def close(self) -> None:
        """The connection is lost, or given up."""
        self.closed = True

    def leave(self) -> None:
        """The next response is the last; without a request there is none."""
        self._last = True
        self.closed = self.closed or self._begun == self._finished

    def _finish(self) -> None:
        """The request and its response are complete."""
        self._finished += 1
        self._request, self._complete, self._responded = None, False, False
        self.closed = self.closed or self._last
        if self._begun > self._finished:
            self._wait("head", self._limits().head_s)
        else:
            self._wait("next", IDLE_S)

    # Parsing.

    def _parse(self) -> None:
        while self._unparsed and self._begun - self._finished < 2 and not (self._broken or self.closed):
            piece = self._unparsed
            if len(piece) > PIECE:
                view = memoryview(piece)
                piece, self._unparsed = view[:PIECE], view[PIECE:]
            else:
                self._unparsed = b""
            self._size += len(piece)
            self._feed(piece)
            if self._size > self._limits().head_bytes:
                self._fail_long()

    def _feed(self, piece: bytes | memoryview) -> None:
        while piece and not self._broken:
            try:
                self._parser.feed_data(piece)
                return
            except httptools.HttpParserUpgrade as stop:
                piece = piece[stop.args[0] :]
                self._ignore_upgrade()
            except httptools.HttpParserCallbackError:  # a mistake of our own
                raise
            except httptools.HttpParserError:
                self._fail(400, "This is not a request in HTTP.")

    def _ignore_upgrade(self) -> None:
        """The parser takes a request that offers another protocol to have no body. Have it read on as if there had been
        no such offer, with the body that the head announces."""
        if self._broken:
            return
        framing = (b"content-length", b"transfer-encoding")
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self._pairs if pair[0].lower() in framing)
        self._parser, self._resuming = httptools.HttpRequestParser(self), True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % lines)
        self._resuming = False

    def _fail(self, status: int, sentence: str) -> None:
        if not self._broken:
            self._events.append(ProtocolError(status, sentence))
            self._broken, self._unparsed = True, b""

    def _fail_long(self) -> None:
        self._fail(431, f"The head of a request may be {self._limits().head_bytes} bytes long.")

    # Called by httptools.

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        if self._begun == self._finished:
            self._wait("head", self._limits().head_s)
        self._begun += 1
        self._target, self._pairs, self._headed = b"", [], False
        self._parts = self._came = 0

    def on_url(self, part: bytes) -> None:
        if not self._resuming:
            self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # else it stands behind a body in chunks, where nobody looks
            self._pairs.append((name, value))

    def on_headers_complete(self) -> None:
        if self._resuming or self._broken:
            return
        self._headed, limit = True, self._limits().head_bytes
        if self._size > limit and len(self._target) + sum(len(n) + len(v) + 4 for n, v in self._pairs) > limit:
            self._fail_long()
            return
        self._size = 0
        headers, twice = fields(self._pairs)
        version, method = self._parser.get_http_version(), self._parser.get_method().decode("ascii")
        fault = _fault(version, method, headers, twice)
        if fault is not None:
            self._fail(*fault)
            return
        path, raw = target_path(self._target)
        keep = version == "1.1" and self._parser.should_keep_alive()
        expects = "expect" in headers and version == "1.1" and headers["expect"].strip().lower() == "100-continue"
        self._events.append(Request(method, path, headers, twice, raw, keep, expects))

    def on_body(self, part: bytes) -> None:
        self._size = 0
        self._parts += 1
        self._came += len(part)
        if self._parts > PARTS and self._came < PART * self._parts:  # each costs as much as thousands of bytes
            self._fail(413, f"A body in more than {PARTS} parts must have parts of {PART} bytes on average.")
        if not self._broken:
            self._events.append(Data(part))

    def on_message_complete(self) -> None:
        if not (self._broken or self._parser.should_upgrade()):
            self._events.append(END)


def _fault(version: str, method: str, headers: Mapping[str, str], twice: Set[str]) -> tuple[int, str] | None:
    """(status, sentence) where a head that could be parsed is nevertheless none that is answered."""
    if version not in ("1.0", "1.1") or method == "CONNECT":
        return 400, "The gate speaks HTTP/1.1 and nothing else."
    if "host" in twice or (version == "1.1" and "host" not in headers):
        return 400, "A request must have one Host header."
    if "transfer-encoding" in headers:
        if version == "1.0":
            return 400, "A request in HTTP/1.0 can have no Transfer-Encoding."
        if "transfer-encoding" in twice or headers["transfer-encoding"].strip().lower() != "chunked":
            return 501, "Of the transfer codings the gate knows chunked alone."
    return None
