"""API keys in a file of their own, which a command or the operators' port writes and the gate takes up while it runs.

    {"keys": [{"client": "alice", "sha256": "...", "made": 1767225600.0, "until": null, "organisation": "acme"}]}

The keys themselves are not in it, only their digests. A key that has ended stays, so that the list tells of it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway.policy.clients import ApiKey, new_key

__all__ = ["KeptKey", "KeyFile"]


@dataclass(frozen=True, kw_only=True)
class KeptKey:
    """One key of one client; times are seconds since 1970, `until` None is for ever."""

    client: str
    sha256: str
    made: float
    until: float | None = None
    organisation: str = ""  # as in `ApiKey`
    payment: str = ""

    def __post_init__(self) -> None:
        self.key()  # a name and a digest that the gate would take

    @property
    def id(self) -> str:
        """What people call the key by; it says nothing of the key itself."""
        return self.sha256[:12].lower()

    def key(self) -> ApiKey:
        return ApiKey(client=self.client, sha256=self.sha256, until=self.until,
                      organisation=self.organisation, payment=self.payment)  # fmt: skip

    def ended(self, now: float) -> bool:
        return self.until is not None and now > self.until


class KeyFile:
    """The keys in a file, which is made with the first of them. `clock` gives seconds since 1970; `accept` is shown
    all keys before they are written, and raises where the gate would not take them.

    Writers take turns, and a reader finds the file before a change or after it. InputError where it cannot be used.
    """

    def __init__(
        self, path: str | Path, *, clock: Callable[[], float] = time.time,
        accept: Callable[[Sequence[KeptKey]], object] = lambda keys: None,
    ) -> None:  # fmt: skip
        self.path = Path(path)
        self._clock, self._accept = clock, accept

    def read(self) -> tuple[KeptKey, ...]:
        try:
            tree = json.loads(self.path.read_text("utf-8"))
            return tuple(_kept(entry) for entry in tree["keys"])
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise InputError(f"The keys in {self.path} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path} was expected to hold API keys as `portcullis keys` writes them; it does not ({error})."
            ) from error

    def stamp(self) -> tuple[str, int, int, int]:
        """What changes when the file does."""
        try:
            stat = self.path.stat()
        except OSError:
            return str(self.path), 0, 0, 0
        return str(self.path), stat.st_mtime_ns, stat.st_ino, stat.st_size

    def make(
        self, client: str, *, for_s: float | None = None, organisation: str = "", payment: str = ""
    ) -> tuple[str, KeptKey]:
        """(a new key, which is told this once; what is kept of it). It counts for `for_s` seconds, or for ever."""
        _positive("for_s", for_s)
        key, digest = new_key()
        now = self._clock()
        kept = KeptKey(client=client, sha256=digest, made=now, until=None if for_s is None else now + for_s,
                       organisation=organisation, payment=payment)  # fmt: skip
        with self._changing() as keys:
            keys.append(kept)
        return key, kept

    def rotate(self, which: str, *, overlap_s: float, for_s: float | None = None) -> tuple[str, KeptKey, KeptKey]:
        """(a new key of the same client; what is kept of it; the old one). The old one counts for `overlap_s` more."""
        _positive("for_s", for_s)
        if not (math.isfinite(overlap_s) and overlap_s >= 0):
            raise ParameterError("overlap_s", "seconds from 0 up", overlap_s)
        key, digest = new_key()
        now = self._clock()
        with self._changing() as keys:
            at = self._one(keys, which)
            ends = now + overlap_s
            old = replace(keys[at], until=ends if keys[at].until is None else min(ends, keys[at].until or ends))
            new = replace(old, sha256=digest, made=now, until=None if for_s is None else now + for_s)
            keys[at : at + 1] = [old, new]
        return key, new, old

    def revoke(self, which: str) -> KeptKey:
        """The key as it ended: now."""
        with self._changing() as keys:
            at = self._one(keys, which)
            keys[at] = replace(keys[at], until=math.nextafter(self._clock(), 0))
            return keys[at]

    def _one(self, keys: Sequence[KeptKey], which: str) -> int:
        """The place of the key that is called so: by its id, or by its client if it has one that counts."""
        now = self._clock()
        live = [i for i, key in enumerate(keys) if not key.ended(now)]
        found = [i for i in live if keys[i].id == which.lower()] or [i for i in live if keys[i].client == which]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(keys[i].id for i in found)
            raise InputError(f"{which} has {len(found)} keys that count ({ids}). Name one of them.")
        ended = any(which.lower() == key.id or which == key.client for key in keys)
        known = "has ended already" if ended else "is not there"
        raise InputError(
            f"No key that counts in {self.path} is called {which}: it {known}. See `portcullis keys list`."
        )

    @contextmanager
    def _changing(self) -> Iterator[list[KeptKey]]:
        """The keys to be changed; what they are at the end is in the file, whole and on the disk."""
        try:
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(f"The keys in {self.path} cannot be written ({error.strerror}).") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(self.read())
            yield keys
            self._accept(keys)
            self._write(keys)
        finally:
            os.close(lock)

    def _write(self, keys: Sequence[KeptKey]) -> None:
        fresh = self.path.with_name(self.path.name + ".new")
        text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=1) + "\n"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _kept(entry: Any) -> KeptKey:
    until = entry.get("until")
    return KeptKey(
        client=entry["client"],
        sha256=entry["sha256"],
        made=float(entry["made"]),
        until=None if until is None else float(until),
        organisation=entry.get("organisation", ""),
        payment=entry.get("payment", ""),
    )


def _positive(name: str, seconds: float | None) -> None:
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ParameterError(name, "seconds above 0", seconds)
