"""Bodies of requests: put together of their parts, within limits, and decoded."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Set

from portcullis_ml.gateway.http.messages import Rejected
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.strict import BadRequest

__all__ = ["Bodies", "Body", "decoded", "encoded"]

GZIP = ("gzip", "x-gzip", "deflate")
EITHER = 32 + zlib.MAX_WBITS  # zlib's word for "gzip or zlib, as the data says"
TOO_LONG = "A body may be {} bytes long."
DAMAGED = "The body is not what its Content-Encoding says."


class Bodies:
    """Knows how many bytes of bodies are being read, and refuses those that are too long or too many."""

    def __init__(self) -> None:
        self.buffered = 0

    def expect(self, limits: Limits, headers: Mapping[str, str], twice: Set[str]) -> None:
        """Refuse by its head a body that would not be taken; `twice` are the headers that came more than once."""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if "content-encoding" in twice or encoding not in ("identity", *GZIP):
            raise BadRequest(f"A body may be encoded as one of {', '.join(GZIP)}, or not at all.", 415)
        length = headers.get("content-length", "0")
        if "content-length" in twice or not (length.isascii() and length.isdigit()):
            raise BadRequest("Content-Length must be one number.")
        self.bounded(limits, int(length[:16]))

    def bounded(self, limits: Limits, size: int) -> None:
        """Refuse a body of so many bytes, or one more where all that are being read have become too many."""
        if size > limits.body_bytes:
            raise BadRequest(TOO_LONG.format(limits.body_bytes), 413)
        if self.buffered > limits.buffer_bytes:
            raise Rejected("busy", 503, "The gate is busy.", 1.0)


class Body:
    """The body of one request, as far as it has come. What it holds is counted until it is taken or dropped."""

    __slots__ = ("_bodies", "_limits", "_parts", "_size")

    def __init__(self, bodies: Bodies, limits: Limits) -> None:
        self._bodies, self._limits = bodies, limits
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        """Raises BadRequest or Rejected where the body is too long."""
        self._parts.append(part)
        self._size += len(part)
        self._bodies.buffered += len(part)
        self._bodies.bounded(self._limits, self._size)

    def take(self) -> bytes:
        """All of it, as it came, which is then counted no longer."""
        found = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self.drop()
        return found

    def drop(self) -> None:
        """Hold it no longer."""
        self._bodies.buffered -= self._size
        self._size = 0
        self._parts.clear()


def encoded(headers: Mapping[str, str]) -> bool:
    """Whether a body must be decoded before it is read."""
    found = headers.get("content-encoding")
    return found is not None and found.strip().lower() in GZIP


def decoded(body: bytes, most: int) -> bytes:
    """The body without its encoding. BadRequest where it is damaged or longer than so many bytes, of which no more than
    one is made. It may take as long as a hundred requests: zlib lets other threads run meanwhile."""
    decoder = zlib.decompressobj(EITHER)
    try:
        found = decoder.decompress(body, most + 1)
    except zlib.error:
        raise BadRequest(DAMAGED) from None
    if len(found) > most:
        raise BadRequest(TOO_LONG.format(most), 413)
    if decoder.unused_data or not decoder.eof:
        raise BadRequest(DAMAGED)
    return found
