"""A ledger on disk: every row paid for and what came back, safe before the attack sees it.

An attack that is killed and started again asks the same questions in the same order (randomness is
an argument), so the ledger answers them from the record, and only what was never answered is asked.

The file is a magic line followed by frames of (length, checksum, payload), one for each batch,
appended and fsynced. Space for an answer is set aside *before* the question is asked, so a full disk stops
the attack before it pays for something that could not be kept. What a crash leaves behind the last
whole frame is cut off; a damaged frame before it is an error. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.core.state import pack, unpack
from portcullis_ml.core.types import Answer, Array

__all__ = ["DiskFull", "FileLedger", "disk_full", "no_room"]

MAGIC = b"portcullis ledger 1\n"
FRAME = struct.Struct("<QI")  # payload length, crc32 of the payload
OVERHEAD = 1024  # more than the header of any frame


class DiskFull(PortcullisError):
    """There is no room to keep what would be paid for. What is on disk is whole; run again to go on."""


def disk_full(path: Path, kept: str) -> DiskFull:
    return DiskFull(
        f"There is no room left on the disk for {path.name}; {kept} are safe. "
        "Make room and run the same command again: it goes on from there."
    )


def no_room(error: OSError) -> bool:
    """Whether the system says that the disk, a quota or a file size limit is reached."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Entry:
    """One batch: questions and what was shown in return."""

    x: np.ndarray
    labels: np.ndarray | None
    scores: np.ndarray | None
    explanation: np.ndarray | None

    @property
    def answer(self) -> Answer:
        return Answer(self.labels, self.scores, self.explanation)


class FileLedger:
    """A `core.oracle.Ledger` in one file; one process at a time.

    columns   how many numbers an answer may show for a row, scores and explanation, to set room aside for them
    """

    def __init__(self, path: Path | str, *, columns: int = 0) -> None:
        self.path = Path(path)
        self._columns = columns
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._open()
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{self.path.name} is in use by another run. Wait for it, or stop it.") from error
        data = self._all()
        if len(data) < len(MAGIC) and MAGIC.startswith(data.rstrip(b"\0")):
            self._write(MAGIC, 0)
            data = MAGIC
        if not data.startswith(MAGIC):
            raise InputError(f"{self.path.name} was expected to be a ledger of this version; it is something else.")
        entries, self._end = self._parse(data)
        os.ftruncate(self._fd, self._end)
        self._entries = entries
        self.rows = sum(len(e.x) for e in entries)
        self._at = (0, 0)  # the entry, and the row in it, to be recalled next

    def recall(self, x: Array) -> Answer | None:
        """The recorded answers for the head of x; before anything new is asked, room for it is set aside."""
        known: list[Answer] = []
        asked = 0
        while asked < len(x) and self._at[0] < len(self._entries):
            i, offset = self._at
            entry = self._entries[i]
            n = min(len(x) - asked, len(entry.x) - offset)
            self._same(x[asked : asked + n], entry.x[offset : offset + n])
            known.append(entry.answer.take(slice(offset, offset + n)))
            asked += n
            self._at = (i, offset + n) if offset + n < len(entry.x) else (i + 1, 0)
        if asked < len(x):
            self._reserve(len(x) - asked, x[:1].nbytes)
        return Answer.concat(known) if known else None

    def record(self, x: Array, answer: Answer) -> None:
        """Append one batch; on return it is on disk."""
        payload = pack(Entry(np.asarray(x, np.float64), answer.labels, answer.scores, answer.explanation))
        frame = FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        self._write(frame, self._end)
        self._end += len(frame)
        self._entries.append(Entry(np.array(x, np.float64), answer.labels, answer.scores, answer.explanation))
        self._at = (len(self._entries), 0)
        self.rows += len(x)

    def close(self) -> None:
        if self._fd >= 0:
            os.ftruncate(self._fd, self._end)  # give back room that was set aside and not needed
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _same(self, x: Array, recorded: Array) -> None:
        if x.shape[1:] != recorded.shape[1:] or not np.array_equal(x, recorded, equal_nan=True):
            raise InputError(
                f"{self.path.name} was expected to hold the questions that are asked now; it holds others. "
                "Settings or code have changed since: "
                "move the ledger away to start anew, and every row is paid for again."
            )

    def _reserve(self, rows: int, row_bytes: int) -> None:
        need = rows * (row_bytes + 8 * (self._columns + 1)) + FRAME.size + OVERHEAD
        if not hasattr(os, "posix_fallocate"):
            return  # macOS: a full disk is then found when the answer is written
        try:
            os.posix_fallocate(self._fd, self._end, need)
        except OSError as error:
            self._cut()
            if no_room(error):
                raise disk_full(self.path, f"{self.rows:,} paid rows") from error
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot set room aside
                raise

    def _write(self, data: bytes, at: int) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], at + written)
            os.fsync(self._fd)
        except OSError as error:
            if at:
                self._cut()
            if no_room(error):
                raise disk_full(self.path, f"{self.rows if at else 0:,} paid rows") from error
            raise

    def _cut(self) -> None:
        os.ftruncate(self._fd, self._end)

    def _all(self) -> bytes:
        with open(self._fd, "rb", closefd=False) as file:
            return file.read()

    def _parse(self, data: bytes) -> tuple[list[Entry], int]:
        """The whole frames at the head of the file, and where they end."""
        entries: list[Entry] = []
        at = len(MAGIC)
        while at + FRAME.size <= len(data):
            length, checksum = FRAME.unpack_from(data, at)
            payload = data[at + FRAME.size : at + FRAME.size + length]
            if length == 0 or len(payload) < length:
                break
            if zlib.crc32(payload) != checksum:
                if data[at + FRAME.size + length :].strip(b"\0"):
                    raise InputError(
                        f"{self.path.name} is damaged after {sum(len(e.x) for e in entries):,} paid rows. "
                        "Move it away to start anew, or restore it from a copy."
                    )
                break
            entries.append(unpack(Entry, payload))
            at += FRAME.size + length
        return entries, at
