"""Proofs of work: what a client is set, how it is found, and what is taken for one (`defenses.proof_of_work`).

A request that must show work first gets 428 with the header

    x-work: bits=18; expires=1795966309000; challenge=0f3c...

Its client looks for a nonce such that SHA-256 of "CHALLENGE:NONCE" begins with so many zero bits, and asks again with

    x-work: bits=18; expires=1795966309000; nonce=3a71f

`expires` is in milliseconds since 1970. The challenge is a keyed digest of the client, the question, the bits and the
expiry, so a nonce is worth nothing for another question or under another name, and the gate keeps only what was used
already. Work that was set before this process began is not taken, so that none counts twice over a restart; of several
replicas each takes it once.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
from collections.abc import Callable

import numpy as np

from portcullis_ml.core.randomness import canonical
from portcullis_ml.core.types import Floats
from portcullis_ml.gateway.protocols.strict import BadRequest

__all__ = ["HEADER", "Works", "solved", "work_in"]

HEADER = "x-work"
LEAST_MS = 120_000  # that set work counts for at least ...
SLOW = 64  # ... and a millisecond more for every so many hashes that it takes on average
SET = re.compile(r"bits=(\d{1,2}); expires=(\d{1,15}); challenge=([0-9a-f]{64})")
SHOWN = re.compile(r"bits=(\d{1,2}); expires=(\d{1,15}); nonce=([0-9a-f]{1,32})")


class Works:
    """What one gate sets and takes.

    key    secret bytes
    clock  seconds since 1970
    """

    def __init__(self, key: bytes, clock: Callable[[], float]) -> None:
        self._key, self._clock = key, clock
        self._began = self._now()
        self._used: dict[str, int] = {}  # challenge -> when it expires

    def set(self, client: str, x: Floats, quantum: float, bits: int) -> str:
        """The header that sets work for this question."""
        expires = self._now() + _lasts_ms(bits) + 1
        return f"bits={bits}; expires={expires}; challenge={self._challenge(client, x, quantum, bits, expires)}"

    def shown(self, header: str, client: str, x: Floats, quantum: float) -> int:
        """How many bits of work this header shows for this question, which do not count again. Raises BadRequest."""
        found = SHOWN.fullmatch(header)
        if found is None:
            raise BadRequest(f'The header {HEADER} must be "bits=N; expires=T; nonce=HEX", as the refusal set it.')
        bits, expires, now = int(found[1]), int(found[2]), self._now()
        if expires < now or expires <= self._began + _lasts_ms(bits):
            raise BadRequest("The work was set too long ago. Ask again without it to be set new work.", 428)
        challenge = self._challenge(client, x, quantum, bits, expires)
        if not _begins(challenge, found[3], bits):
            raise BadRequest("The work does not fit this question. Ask without it to be set some.", 428)
        self._used = {known: until for known, until in self._used.items() if until >= now}
        if challenge in self._used:
            raise BadRequest("The work has been shown before. Ask again without it to be set new work.", 428)
        self._used[challenge] = expires
        return bits

    def _now(self) -> int:
        return int(1000 * self._clock())

    def _challenge(self, client: str, x: Floats, quantum: float, bits: int, expires: int) -> str:
        question = hashlib.sha256(b"".join(canonical(np.asarray(x, np.float64), quantum))).digest()
        words = f"work\x1f{client}\x1f{bits}\x1f{expires}\x1f{len(x)}\x1f".encode()
        return hmac.new(self._key, words + question, hashlib.sha256).hexdigest()


def _lasts_ms(bits: int) -> int:
    """How long set work counts: long enough for a slow machine to do it."""
    return LEAST_MS + (1 << bits) // SLOW


def work_in(header: str) -> int:
    """The bits of the work that a header sets. Raises BadRequest where it sets none."""
    return _set_by(header)[0]


def solved(header: str) -> tuple[str, int]:
    """(the header that shows the work which this one sets, how many hashes it took): on average two to the power of its
    bits. Raises BadRequest where it sets none."""
    bits, expires, challenge = _set_by(header)
    tried = next(n for n in itertools.count() if _begins(challenge, f"{n:x}", bits))
    return f"bits={bits}; expires={expires}; nonce={tried:x}", tried + 1


def _set_by(header: str) -> tuple[int, str, str]:
    found = SET.fullmatch(header)
    if found is None:
        raise BadRequest(f"The header {HEADER} sets no work that is understood.")
    return int(found[1]), found[2], found[3]


def _begins(challenge: str, nonce: str, bits: int) -> bool:
    digest = hashlib.sha256(f"{challenge}:{nonce}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits) == 0 if bits <= 64 else False
