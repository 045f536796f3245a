"""An append-only log: each entry is bound to all before it by SHA-256, and its last link, the head, stands for all.

    link = SHA-256(link before || SHA-256(entry))

A file has one JSON object a line: {"entry": {...}, "link": "..."}. The head lies in a file beside it, so that a log cut
short is noticed; whoever has seen a head once can check that a later log goes on from it. An inclusion proof shows one
entry, the link before it and the hashes of the entries after it, and nothing else of the log.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, ProofError

__all__ = ["EMPTY", "Inclusion", "Log", "LogFile"]

EMPTY = hashlib.sha256(b"").hexdigest()  # the head of a log without entries


def digest(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def linked(before: str, entry_digest: str) -> str:
    return hashlib.sha256(bytes.fromhex(before) + bytes.fromhex(entry_digest)).hexdigest()


@dataclass(frozen=True)
class Inclusion:
    """That an entry stands in a log: the link before it, and the hashes of the entries after it."""

    entry: Mapping[str, Any]
    before: str
    after: tuple[str, ...]

    def verify(self, head: str) -> None:
        """Raise ProofError unless the entry stands in the log of that head."""
        found = linked(self.before, digest(self.entry))
        for later in self.after:
            found = linked(found, later)
        if found != head:
            raise ProofError(f"The entry does not stand in the log whose head is {head[:12]}....")


@dataclass(frozen=True)
class Log:
    """Entries, JSON each, whose links hold."""

    entries: tuple[Mapping[str, Any], ...] = ()
    links: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Log:
        """The log in these lines. ProofError where a link does not hold."""
        entries: list[Mapping[str, Any]] = []
        links: list[str] = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                found = json.loads(line)
                entry, link = dict(found["entry"]), str(found["link"])
            except (ValueError, KeyError, TypeError) as error:
                raise ProofError(
                    f"Line {number} of the log is no entry with its link: it was changed or cut."
                ) from error
            if link != linked(links[-1] if links else EMPTY, digest(entry)):
                raise ProofError(f"Entry {number} of the log does not follow from those before it: one was changed.")
            entries.append(entry)
            links.append(link)
        return cls(tuple(entries), tuple(links))

    @property
    def head(self) -> str:
        return self.links[-1] if self.links else EMPTY

    def grown(self, entry: Mapping[str, Any]) -> Log:
        """The log with one more entry."""
        return Log((*self.entries, entry), (*self.links, linked(self.head, digest(entry))))

    def text(self) -> str:
        pairs = zip(self.entries, self.links, strict=True)
        return "".join(json.dumps({"entry": e, "link": link}, sort_keys=True) + "\n" for e, link in pairs)

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        return [entry for entry in self.entries if entry.get("kind") == kind]

    def prove(self, place: int) -> Inclusion:
        """That the entry at this place, from 0, stands in the log."""
        after = tuple(digest(entry) for entry in self.entries[place + 1 :])
        return Inclusion(self.entries[place], self.links[place - 1] if place else EMPTY, after)

    def goes_on_from(self, head: str) -> None:
        """Raise ProofError unless `head`, seen at some time, is that of this log or of a beginning of it."""
        if head not in (EMPTY, *self.links):
            raise ProofError(f"The head {head[:12]}... is none of this log's: it is another log, or was cut short.")


class LogFile:
    """A log on disk. Appending locks the file, and returns when the entry is safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head = path.with_suffix(".head")

    def read(self) -> Log:
        """The log; ProofError where it was changed or cut short.

        What a crash left of an entry that was never acknowledged, a part of a line, is left out; a whole entry whose
        head was not written any more counts.
        """
        if not self.path.exists() and not self._head.exists():
            return Log()
        try:
            log, head = Log.read(self._whole()), self._head.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path} and {self._head.name} cannot be read ({error}). Bring both back.") from error
        if head not in (EMPTY, *log.links):
            raise ProofError(f"The log's {len(log.entries)} entries do not lead to its head: it was cut short.")
        return log

    def append(self, entry: Mapping[str, Any] | Callable[[Log], Mapping[str, Any]]) -> Log:
        """The log with the entry, or with the one that a function makes of the log; nobody appends in between."""
        with self.path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = self._whole()
            log = self.read() if whole or self._head.exists() else Log()
            grown = log.grown(entry(log) if callable(entry) else entry)
            file.truncate(len(whole.encode()))
            file.write(Log(grown.entries[-1:], grown.links[-1:]).text())
            file.flush()
            os.fsync(file.fileno())
            unfinished = self._head.with_suffix(".head-new")
            unfinished.write_text(grown.head + "\n")
            os.replace(unfinished, self._head)
        return grown

    def _whole(self) -> str:
        """The lines that end."""
        text = self.path.read_text()
        return text[: text.rfind("\n") + 1]


def chosen(available: Sequence[int], challenge: bytes, n: int) -> list[int]:
    """n of the available places, in the order that the challenge gives them."""
    order = sorted(available, key=lambda place: hashlib.sha256(challenge + place.to_bytes(8, "big")).digest())
    return order[:n]
