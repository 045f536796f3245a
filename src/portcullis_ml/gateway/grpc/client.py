"""A client for one model server that speaks gRPC: what `HttpClient` is for HTTP, and asked in the same way.

A call is asked for by its path (`grpc_v2.path_of`), and its end comes as a status of HTTP, so that whoever asks a model
server need not know which of the two it speaks.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from portcullis_ml.gateway.grpc.status import status_of
from portcullis_ml.gateway.http.client_protocol import Found, Lost
from portcullis_ml.gateway.protocols.grpc_messages import message
from portcullis_ml.gateway.protocols.grpc_v2 import call_of

__all__ = ["OPTIONS", "GrpcClient", "address_of", "credentials_of"]

READY = b"\x08\x01"  # the answer of a server or a model that is


OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def address_of(url: str) -> str:
    """host:port of an address grpc://host:port or grpcs://host:port."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'grpcs' else 80)}"


def credentials_of(ca_file: str | None = None, cert_file: str | None = None, key_file: str | None = None) -> Any:
    """For TLS: who must have signed the server's certificate (unless given, whoever the system trusts), and the gate's
    own certificate and key if there are."""
    ca_file = ca_file or ssl.get_default_verify_paths().cafile
    files = (ca_file, key_file or cert_file, cert_file)
    return grpc.ssl_channel_credentials(*(None if name is None else Path(name).read_bytes() for name in files))


class GrpcClient:
    """At most `connections` calls at a time, on one connection; whoever comes then waits. An answer may have `limit`
    bytes; `own` headers go with every call."""

    def __init__(
        self, url: str, *, timeout_s: float, connections: int, limit: int, own: Mapping[str, str] | None = None,
        credentials: Any = None,
    ) -> None:  # fmt: skip
        self._address, self._credentials = address_of(url), credentials
        self._own, self._timeout_s = dict(own or {}), timeout_s
        self._options = (*OPTIONS, ("grpc.max_receive_message_length", limit))
        self._places = asyncio.Semaphore(connections)
        self._channel: Any = None

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, timeout_s: float | None = None
    ) -> Found:
        """Status, headers and body, which of an error is its code and sentence. Raises Lost or TimeoutError. A
        question is sent with the method POST; what a path says of a model, with GET."""
        call, verb, name, version = call_of(path)
        if method == "GET" and name:
            body = message(f"{verb}Request", name=name, version=version).SerializeToString()
        sent = tuple((k.lower(), v) for k, v in {**headers, **self._own}.items())
        patience = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(patience), self._places:
                found = await self._opened().unary_unary(call)(body, metadata=sent, timeout=patience)
        except grpc.aio.AioRpcError as error:
            return self._failed(error)
        return 503 if verb.endswith("Ready") and found != READY else 200, {}, found

    def _failed(self, error: grpc.aio.AioRpcError) -> Found:
        code, said = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise TimeoutError(said)
        if code is grpc.StatusCode.UNAVAILABLE and self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            lost = Lost()
            lost.__cause__ = ConnectionError(said)
            raise lost
        headers = {k: v for k, v in error.trailing_metadata() or () if isinstance(v, str)}
        return status_of(code), headers, f"{code.name}: {said}".encode()

    def _opened(self) -> Any:
        """The channel, which belongs to the event loop that first asks."""
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._address, options=self._options)
            else:
                self._channel = grpc.aio.secure_channel(self._address, self._credentials, options=self._options)
        return self._channel

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
