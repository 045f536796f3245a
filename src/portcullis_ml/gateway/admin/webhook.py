"""Alarms told to a webhook: at least once, in order, signed.

The body is signed as `t=<seconds>,v1=<HMAC-SHA256 of "<seconds>.<body>">` in Portcullis-Signature. A receiver
checks it with `verified`, which refuses what is older than five minutes, and knows an alarm that is told
twice by its "id".
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from portcullis_ml.core.errors import InputError
from portcullis_ml.gateway.policy.settings import Alarms
from portcullis_ml.gateway.state.evidence import AlarmRecord
from portcullis_ml.gateway.state.stores import StateStore
from portcullis_ml.gateway.state.streams import Down

__all__ = ["Webhook", "signature", "told", "verified"]

HEADER = "Portcullis-Signature"
AGE_S = 300.0
SIGNED = re.compile(r"t=(?P<at>[0-9]{1,12}),v1=[0-9a-f]{64}")
log = logging.getLogger("portcullis.gate")


class Webhook:
    """Tells what the store holds untold, oldest first, until it is taken."""

    def __init__(self, settings: Alarms, store: StateStore) -> None:
        self._settings = settings
        self._store = store
        self._url, self._secret = settings.webhook or "", _secret(settings.secret_file or "")
        self._wake = asyncio.Event()
        self._ending = False
        self.about: dict[str, str] = {}  # told with every alarm

    def wake(self) -> None:
        self._wake.set()

    async def stop(self) -> None:
        """One last attempt for what waits, then end."""
        self._ending = True
        self._wake.set()

    async def run(self) -> None:
        wait = self._settings.retry_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
            while True:
                self._wake.clear()
                wait = self._settings.retry_s if await self._tell_all(session) else min(2 * wait, 600.0)
                if self._ending:
                    return
                try:
                    await asyncio.wait_for(self._wake.wait(), wait)
                except TimeoutError:
                    pass

    async def _tell_all(self, session: aiohttp.ClientSession) -> bool:
        try:
            for id, alarm in await self._store.alarms(untold=True):
                if not await self._tell(session, id, alarm):
                    return False
                await self._store.told(id)
        except Down:
            return False
        return True

    async def _tell(self, session: aiohttp.ClientSession, id: str, alarm: AlarmRecord) -> bool:
        body = orjson.dumps({**told(id, alarm, self._settings.contact), **self.about})
        headers = {"Content-Type": "application/json", HEADER: signature(self._secret, body, time.time())}
        try:
            async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                if answer.status < 300:
                    return True
                log.warning("the webhook answered %s", answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("the webhook cannot be reached: %s", type(error).__name__)
        return False


def told(id: str, alarm: AlarmRecord, contact: str) -> dict[str, Any]:
    """An alarm as programs get it, by the webhook and on the operators' port; contact where there is one."""
    plain = {"id": id, "stage": alarm.stage, "client": alarm.client, "row": alarm.row, "suspicion": alarm.suspicion}
    return {**plain, "at": alarm.at, **alarm.evidence, **({"contact": contact} if contact else {})}


def signature(secret: bytes, body: bytes, at: float) -> str:
    """The signature's header for a body sent at this time."""
    mac = hmac.new(secret, f"{int(at)}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={int(at)},v1={mac}"


def verified(secret: bytes, header: str, body: bytes, *, now: float) -> bool:
    """Whether a receiver should believe this: signed with the secret, and not older than five minutes. Any header is
    taken, whoever sent it: what is no signature is not believed."""
    found = SIGNED.fullmatch(header)
    if found is None or abs(now - int(found["at"])) > AGE_S:
        return False
    return hmac.compare_digest(signature(secret, body, int(found["at"])), header)


def _secret(path: str) -> bytes:
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise InputError(f"The webhook's secret file {path!r} cannot be read ({error.strerror}).") from error
    if len(secret) < 16:
        raise InputError(f"The webhook's secret must be at least 16 bytes; {path!r} holds {len(secret)}.")
    return secret
