"""Several gates behind one port: each request goes to the gate of the model that it asks for.

Every gate keeps its own guard, state and log. A request's method and path alone say whose it is. The gates are asked in
the order in which the main policy lists their models: the first of two versions answers where none is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from portcullis_ml.gateway.exchange import Exchange
from portcullis_ml.gateway.gate import Gate
from portcullis_ml.gateway.http.asgi import Receive, Scope, Send, answer
from portcullis_ml.gateway.http.messages import Request
from portcullis_ml.gateway.policy.keys import KeptKey
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.wire import Reply

__all__ = ["Models"]


class Models:
    """The gates of one process, the main policy's first. They have been made with one `Shared`."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.gates = tuple(gates)
        self.bodies = gates[0].bodies

    @property
    def policy(self) -> Policy:
        """The main policy, as it is now."""
        return self.gates[0].policy

    def use_keys(self, kept: Iterable[KeptKey]) -> None:
        """Take these keys from the next request on, for all models."""
        keys = tuple(kept)
        for gate in self.gates:
            gate.use_keys(keys)

    def take(self, method: str, path: str) -> bool:
        """Whether there is something at this path for this method."""
        return any(gate.take(method, path) for gate in self.gates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        await answer(self, scope, receive, send)

    async def drained(self, seconds: float) -> bool:
        """Refuse what is new and wait for what is running; true if all of it ended in time."""
        return all(await asyncio.gather(*(gate.drained(seconds) for gate in self.gates)))

    def enter(self, request: Request, peer: str | None, reply: Callable[[Reply, str], None]) -> Exchange | None:
        """As `Gate.enter`, of the gate whose model is asked for; of the first where nothing is."""
        return self._gate(request).enter(request, peer, reply)

    def go_on(self, exchange: Exchange, body: bytes) -> None:
        """The body is there."""
        exchange.gate.go_on(exchange, body)

    def give_up(self, exchange: Exchange, error: BaseException) -> None:
        """The body will not come, for this reason."""
        exchange.gate.give_up(exchange, error)

    def _gate(self, request: Request) -> Gate:
        for gate in self.gates:
            if gate.routes.find(request)[1]:
                return gate
        for gate in self.gates:
            if gate.routes.methods(request):
                return gate
        return self.gates[0]
