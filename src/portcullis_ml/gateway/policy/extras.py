"""Packages that a policy may need beside those of the gate itself."""

from __future__ import annotations

from importlib.util import find_spec

from portcullis_ml.core.errors import MissingExtra

__all__ = ["needs_grpc"]


def needs_grpc(key: str) -> None:
    """MissingExtra where a package is absent that a policy with this key needs."""
    for module, package in (("grpc", "grpcio"), ("google.protobuf", "protobuf")):
        try:
            found = find_spec(module)
        except ModuleNotFoundError:  # of the package around it
            found = None
        if found is None:
            raise MissingExtra(key, package, "grpc")
