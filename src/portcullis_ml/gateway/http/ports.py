"""Listening sockets."""

from __future__ import annotations

import socket

from portcullis_ml.core.errors import PortcullisError

__all__ = ["BACKLOG", "address", "bound"]

BACKLOG = 1024  # connections that wait to be accepted


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 lets the system choose.

    Connections inherit TCP_NODELAY from it. Without, asyncio sets it only on sockets that were made with an
    explicit protocol number, and every answer written in two parts waits 40 ms for a delayed acknowledgment.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PortcullisError(f"{host}:{port} cannot be used ({error.strerror}). Choose another port.") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def address(sock: socket.socket, tls: bool = False) -> str:
    """http://host:port of a listening socket, or https."""
    (host, port), scheme = sock.getsockname()[:2], "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
