"""What a connection of a client needs of the gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from portcullis_ml.gateway.http.bodies import Bodies
from portcullis_ml.gateway.http.messages import Request
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.wire import Reply

__all__ = ["Exchange", "Handler"]


class Exchange(Protocol):
    """One request whose body the gate waits for."""

    headers: dict[str, str]  # by lower-case name

    @property
    def limits(self) -> Limits: ...


E = TypeVar("E", bound=Exchange)


class Handler(Protocol[E]):
    """The part of a gate that a connection calls."""

    bodies: Bodies

    def enter(self, request: Request, peer: str | None, reply: Callable[[Reply, str], None]) -> E | None:
        """Take in a request's head, from this address; None if that is answered already. `reply` is called once, with
        the reply and the request's id."""

    def go_on(self, exchange: E, body: bytes) -> None:
        """The body is there."""

    def give_up(self, exchange: E, error: BaseException) -> None:
        """The body will not come, for this reason."""
