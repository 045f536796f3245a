"""What may be asked of one model: the routes of the protocols that its policy lists, and no others."""

from __future__ import annotations

from urllib.parse import quote

from portcullis_ml.gateway.http.messages import Request
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.protocols.wire import Wire

__all__ = ["Routes"]


class Routes:
    """The routes of one policy."""

    def __init__(self, policy: Policy) -> None:
        self._served = policy.served
        self._wires = policy.wires()
        self._known: dict[tuple[str, str], tuple[Wire, str]] = {}  # (method, path) of "infer" -> its protocol

    def find(self, request: Request) -> tuple[Wire, str]:
        """(its protocol, the kind of the request); the first protocol and "" where nothing is at this path for this
        method."""
        if _plain(request):
            asked = request.method, request.path
            if asked in self._known:
                return self._known[asked]
            method = "GET" if request.method == "HEAD" else request.method
            for wire in self._wires:
                what = wire.route(method, request.path, self._served)
                if what == "infer":
                    self._known[asked] = wire, what  # a policy has a handful of these, and no client can add to them
                if what is not None:
                    return wire, what
        return self._wires[0], ""

    def methods(self, request: Request) -> tuple[str, ...]:
        """What may be asked at this path; nothing where it leads nowhere."""
        if request.path == "*":
            return ("GET", "HEAD", "POST", "OPTIONS")
        known = [method for method in ("GET", "POST") if _plain(request) and self.take(method, request.path)]
        return (*known, *(["HEAD"] if "GET" in known else []), "OPTIONS") if known else ()

    def take(self, method: str, path: str) -> bool:
        """Whether there is something at this path for this method."""
        return any(wire.route(method, path, self._served) for wire in self._wires)


def _plain(request: Request) -> bool:
    """Whether the path is spelled in the one way in which it is read: a proxy's rules may not know %2F from /."""
    raw = request.raw_path
    return b"%" not in raw or raw == quote(request.path, safe="/:").encode()
