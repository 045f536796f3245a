"""What a connection of a client needs of the gate, and the limits of the bodies that it reads for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import Reply

__all__ = ["Bodies", "Exchange", "Handler", "Rejected", "Scope"]

Scope = MutableMapping[str, Any]  # of ASGI


@dataclass
class Rejected(Exception):
    """A request that gets no answer: the decision that it is counted as, and what the client is sent."""

    decision: str
    status: int
    sentence: str
    retry_after: float | None = None
    remaining: int | None = None  # rows that the client's quota still has


class Exchange(Protocol):
    """One request whose body the gate waits for."""

    headers: dict[str, str]  # by lower-case name

    @property
    def limits(self) -> Limits: ...


E = TypeVar("E", bound=Exchange)


class Handler(Protocol[E]):
    """The part of a gate that a connection calls."""

    bodies: Bodies

    def enter(self, scope: Scope, reply: Callable[[Reply, str], None]) -> E | None:
        """Take in a request's head; None if that is answered already. `reply` is called once, with the reply and the
        request's id."""

    def go_on(self, exchange: E, body: bytes) -> None:
        """The body is there."""

    def give_up(self, exchange: E, error: BaseException) -> None:
        """The body will not come, for this reason."""


class Bodies:
    """Knows how many bytes of bodies are being read, and refuses those that are too long or too many."""

    def __init__(self) -> None:
        self.buffered = 0

    def expect(self, limits: Limits, headers: Mapping[str, str], twice: Set[str]) -> None:
        """Refuse by its head a body that would not be taken; `twice` are the headers that came more than once."""
        if headers.get("content-encoding", "identity") != "identity":
            raise BadRequest("Send the body as it is; encodings such as gzip are not taken.", 415)
        length = headers.get("content-length", "0")
        if "content-length" in twice or not (length.isascii() and length.isdigit()):
            raise BadRequest("Content-Length must be one number.")
        self.bounded(limits, int(length[:16]))

    def bounded(self, limits: Limits, size: int) -> None:
        """Refuse a body of so many bytes, or one more where all that are being read have become too many."""
        if size > limits.body_bytes:
            raise BadRequest(f"A body may be {limits.body_bytes} bytes long.", 413)
        if self.buffered > limits.buffer_bytes:
            raise Rejected("busy", 503, "The gate is busy.", 1.0)
