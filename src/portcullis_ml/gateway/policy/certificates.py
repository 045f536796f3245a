"""The certificate with which a port of the gate speaks TLS, read anew when its files change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from portcullis_ml.core.errors import InputError

__all__ = ["Certificate"]

log = logging.getLogger("portcullis.gate")


class Certificate:
    """A certificate and its key, in PEM files; without a `key_file` the key stands beside the certificate. Connections
    that are made after `renew` has found new files are shown the new one; those that are open stay as they are.

    Raises InputError where the files cannot be used.
    """

    def __init__(self, cert_file: str, key_file: str | None = None) -> None:
        self._files = cert_file, key_file
        self._seen = self._stamps()
        self.context = self._read()

    def renew(self) -> bool:
        """Whether the files have changed and were read. Files that cannot be used leave the old certificate in place,
        and are told of in the log once."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            self._read()  # as half of a pair would spoil the context in use
            self.context.load_cert_chain(*self._files)
        except (InputError, OSError) as error:
            log.error("the certificate was not exchanged: %s", error)
            return False
        log.info("the certificate was exchanged", extra={"file": self._files[0]})
        return True

    def _stamps(self) -> list[tuple[int, int, int]]:
        """What changes when a file does: also when a link is set to another one, as Kubernetes and certbot do."""
        found = []
        for name in filter(None, self._files):
            try:
                stat = Path(name).stat()
                found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
            except OSError:
                found.append((0, 0, 0))
        return found

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(*self._files)
        except (OSError, ValueError) as error:
            names = " and ".join(repr(name) for name in self._files if name)
            raise InputError(
                f"A certificate and its key are expected as PEM files; {names} cannot be used "
                f"({error}). See cert_file and key_file in the policy."
            ) from error
        return context
