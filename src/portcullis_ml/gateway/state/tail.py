"""The tail of the journal: a small file beside the state file that takes every event at once, and is moved on in bulk.

A transaction for each request is what a state file is slowest at: seven pages, fourteen writes and six locks, 80
microseconds. One write into a file that exists already is 5, and what it wrote survives `kill -9` just as well. When
the file is full, the state file takes all that it holds in one transaction, and it begins anew from its first byte.

A record is known by a mark of 16 random bytes, drawn whenever the file begins anew: what an earlier round left behind
does not bear it, and nobody can have put it into a row beforehand.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator

from portcullis_ml.core.errors import ParameterError

__all__ = ["ROOM", "Tail"]

ROOM = 512 << 10  # bytes; the state file takes so many in some 2 ms
HEAD = struct.Struct("<16sqII")  # mark, place of the last event in the body, bytes of the client's name and of the body
PROBE = 8_192  # bytes
SUM = 4  # bytes of a CRC-32 of all that follows, before the head: a record that a crash cut short is none


class Tail:
    """The file at `path`, made if there is none. One process holds it.

    full  every record is on the disk on return, not only safe from the process's own end
    """

    def __init__(self, path: str, *, full: bool) -> None:
        self._full = full
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if full:
                _keep_name(path)
        except OSError as error:
            raise ParameterError("state", "a file that can be written", path, str(error)) from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            why = f"Is another gate running? {error.strerror}."
            raise ParameterError("state", "a file that no other process uses", path, why) from None
        self.begin()

    def __iter__(self) -> Iterator[tuple[str, int, bytes]]:
        """(client, place of the last event, body) of every record that the file holds, in the order of writing."""
        data = os.pread(self._file, ROOM, 0)
        at, first = 0, data[SUM : SUM + 16]
        while len(data) - at >= SUM + HEAD.size:
            mark, n, name, size = HEAD.unpack_from(data, at + SUM)
            end = at + SUM + HEAD.size + name + size
            whole = data[at + SUM : end]
            if mark != first or end > len(data) or zlib.crc32(whole) != int.from_bytes(data[at : at + SUM], "little"):
                return
            yield whole[HEAD.size : HEAD.size + name].decode(), n, whole[HEAD.size + name :]
            at = end

    def begin(self) -> None:
        """Write from the first byte again: what the file held is safe elsewhere."""
        self._mark, self._at = os.urandom(16), 0

    def fits(self, size: int) -> bool:
        """Whether there is room for a body of so many bytes."""
        return self._at + size <= ROOM - 1_024  # and a head and a name of at most 200 characters

    def write(self, client: str, n: int, body: bytes) -> None:
        """Keep a record. OSError if that failed: the next one takes its place."""
        name = client.encode()
        head = HEAD.pack(self._mark, n, len(name), len(body)) + name
        total = zlib.crc32(body, zlib.crc32(head)).to_bytes(SUM, "little")
        size = len(total) + len(head) + len(body)
        if os.pwritev(self._file, (total, head, body), self._at) != size:
            raise OSError(errno.ENOSPC, "the disk is full")
        if self._full:
            os.fdatasync(self._file)
        self._at += size

    def probe(self) -> None:
        """OSError unless some kilobytes could be written behind the last record. What this writes is no record."""
        if not self.fits(PROBE):
            return  # the next record goes into the state file
        if os.pwritev(self._file, (bytes(PROBE),), self._at) != PROBE:
            raise OSError(errno.ENOSPC, "the disk is full")
        if self._full:
            os.fdatasync(self._file)

    def close(self) -> None:
        """Let go of the file, if that has not been done."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _keep_name(path: str) -> None:
    """A file that was just made is in its folder after a power cut too."""
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
