"""An oracle over gRPC: the audit's attacks against a model server, or a gate, that is called by the Open Inference
Protocol's other envelope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from portcullis_ml.core.errors import ParameterError, Unreachable
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.extras import needs_grpc

__all__ = ["GrpcOracle", "oracle_at", "told_by"]


def oracle_at(url: str, **about: Any) -> HttpOracle:
    """The oracle for an address: an `HttpOracle`, or for grpc://host:port a `GrpcOracle`."""
    return GrpcOracle(url, **about) if url.startswith("grpc") else HttpOracle(url, **about)


class GrpcOracle(HttpOracle):
    """A prediction API at grpc://host:port, or grpcs:// for TLS. Settings are those of `HttpOracle`, but for the
    protocol, which is "grpc"."""

    schemes: ClassVar[tuple[str, ...]] = ("grpc", "grpcs")

    def __init__(self, url: str, *, protocol: str = "grpc", **about: Any) -> None:
        needs_grpc("An audit over gRPC")
        if protocol != "grpc":
            raise ParameterError("GrpcOracle.protocol", '"grpc"', protocol)
        super().__init__(url, protocol=protocol, **about)
        self._channel: Any = None

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        if self._channel is None:
            self._channel = _channel(self.url)
        return _called(self._channel, path, body, headers, self._timeout_s)


def told_by(url: str, model: str, headers: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    """A model's metadata, as over HTTP; {} where the server says nothing."""
    needs_grpc("An audit over gRPC")
    from portcullis_ml.gateway.protocols.grpc_messages import message
    from portcullis_ml.gateway.protocols.grpc_v2 import GrpcInference, path_of

    body = message("ModelMetadataRequest", name=model).SerializeToString()
    with _channel(url) as channel:
        status, _, found = _called(channel, path_of("ModelMetadata", model), body, headers, timeout_s)
    try:
        told: dict[str, Any] = GrpcInference().described(found) if status == 200 else {}
    except Unreachable:
        return {}
    return told


def _channel(url: str) -> Any:
    import grpc

    from portcullis_ml.gateway.grpc.client import OPTIONS, address_of, credentials_of

    options = (*OPTIONS, ("grpc.max_receive_message_length", -1))
    if url.startswith("grpcs://"):
        return grpc.secure_channel(address_of(url), credentials_of(), options=options)
    return grpc.insecure_channel(address_of(url), options=options)


def _called(
    channel: Any, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> tuple[int, dict[str, str], bytes]:
    """(status, metadata at the end, the answer's message or the sentence)."""
    import grpc

    from portcullis_ml.gateway.grpc.status import status_of
    from portcullis_ml.gateway.protocols.grpc_v2 import call_of

    sent = tuple((k.lower(), v) for k, v in headers.items() if k.lower() != "content-type")
    try:
        found, call = channel.unary_unary(call_of(path)[0]).with_call(body, metadata=sent, timeout=timeout_s)
    except grpc.RpcError as error:
        end = {k: v for k, v in error.trailing_metadata() or () if isinstance(v, str)}
        return status_of(error.code()), end, (error.details() or "").encode()
    return 200, {k: v for k, v in call.trailing_metadata() or () if isinstance(v, str)}, found
