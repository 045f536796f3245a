"""The clients' keys on the operators' port: made, listed, rotated and revoked without editing a file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway.policy.keys import KeptKey, KeyFile
from portcullis_ml.gateway.policy.policy import Policy

__all__ = ["DEEDS", "KeyDesk", "Keyed", "shown"]

DEEDS = ("make", "rotate", "revoke")
DAY = 86_400.0


class Keyed(Protocol):
    """The part of a gate that takes keys."""

    @property
    def policy(self) -> Policy: ...

    def use_keys(self, kept: Iterable[KeptKey]) -> None: ...


class KeyDesk:
    """What an operator does to the policy's file of keys; the gate takes it up at once, other gates that share the file
    within a second."""

    def __init__(self, gate: Keyed) -> None:
        self._gate = gate

    def listed(self) -> list[dict[str, Any]]:
        return [shown(key, time.time()) for key in self._file().read()]

    async def do(self, deed: str, form: Mapping[str, str]) -> dict[str, Any]:
        """The deed's outcome: the key as it is kept, and under "key" a new one, which is told this once.

        form   client (make) or which (rotate, revoke); organisation and payment of a client; days and overlap_days as
               numbers, where they are given
        """
        file = self._file()
        days, overlap = _days(form, "days"), _days(form, "overlap_days") or 0.0
        told: dict[str, Any] = {}
        if deed == "make":
            links = {name: form.get(name, "") for name in ("organisation", "payment")}
            told["key"], kept = await asyncio.to_thread(file.make, form.get("client", ""), for_s=days, **links)
        elif deed == "rotate":
            which = form.get("which", "")
            told["key"], kept, _ = await asyncio.to_thread(file.rotate, which, overlap_s=overlap, for_s=days)
        else:
            kept = await asyncio.to_thread(file.revoke, form.get("which", ""))
        self._gate.use_keys(await asyncio.to_thread(file.read))
        return {**shown(kept, time.time()), **told}

    def _file(self) -> KeyFile:
        clients = self._gate.policy.clients
        if clients.keys_file is None:
            raise InputError('The policy has no file of keys. Add keys_file = "keys.json" to [clients].')
        return KeyFile(clients.keys_file, accept=lambda keys: clients.keeping(key.key() for key in keys))


def shown(key: KeptKey, now: float) -> dict[str, Any]:
    """A key as people and programs see it; times in seconds since 1970."""
    return {"id": key.id, "client": key.client, "organisation": key.organisation, "payment": key.payment,
            "made": key.made, "until": key.until, "counts": not key.ended(now)}  # fmt: skip


def _days(form: Mapping[str, str], name: str) -> float | None:
    text = form.get(name, "").strip()
    if not text:
        return None
    try:
        return float(text) * DAY
    except ValueError:
        raise ParameterError(name, "a number of days", text) from None
