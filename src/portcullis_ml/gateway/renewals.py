"""Files that are looked at while the gate runs: certificates, and the clients' keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from portcullis_ml.core.errors import PortcullisError
from portcullis_ml.gateway.admin.keys import Keyed
from portcullis_ml.gateway.policy.keys import KeyFile

__all__ = ["Renewals"]

log = logging.getLogger("portcullis.gate")


class Renewed(Protocol):
    """A certificate that may be read anew."""

    def renew(self) -> bool: ...


class Renewals:
    """Takes up new files. One that cannot be used changes nothing and is told of in the log once."""

    def __init__(self, gate: Keyed, certificates: Sequence[Renewed]) -> None:
        self._gate = gate
        self._certificates = certificates
        self._seen = self._stamp()

    async def run(self, every_s: float) -> None:
        """Look now and then, until the task is cancelled."""
        while True:
            await asyncio.sleep(every_s)
            for certificate in self._certificates:
                certificate.renew()
            self.renew_keys()

    def renew_keys(self) -> None:
        """Take up the policy's file of keys if it has changed."""
        stamp = self._stamp()
        if stamp is not None and stamp != self._seen:
            try:
                kept = KeyFile(stamp[0]).read()
                self._gate.use_keys(kept)
            except PortcullisError as error:
                log.error("the keys were not exchanged: %s", error)
            else:
                log.info("the keys were exchanged", extra={"file": stamp[0], "keys": len(kept)})
        self._seen = stamp

    def _stamp(self) -> tuple[str, int, int, int] | None:
        file = self._gate.policy.clients.keys_file
        return None if file is None else KeyFile(file).stamp()
