"""The certificate with which the port of gRPC speaks TLS, read anew when its files change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from portcullis_ml.gateway.policy.certificates import Certificate

__all__ = ["GrpcCertificate"]


class GrpcCertificate:
    """As `Certificate`, for gRPC's own TLS. Raises InputError where the files cannot be used."""

    def __init__(self, cert_file: str, key_file: str | None = None) -> None:
        self._files = cert_file, key_file or cert_file
        self._watched = Certificate(cert_file, key_file)
        self._fresh: Any = None  # what the next connections are to be shown; None: what the last ones were
        self.credentials = grpc.dynamic_ssl_server_credentials(self._read(), self._next)

    def renew(self) -> bool:
        """Whether the files have changed and were read."""
        if not self._watched.renew():
            return False
        self._fresh = self._read()
        return True

    def _next(self) -> Any:
        found, self._fresh = self._fresh, None
        return found

    def _read(self) -> Any:
        cert, key = (Path(name).read_bytes() for name in self._files)
        return grpc.ssl_server_certificate_configuration([(key, cert)])
