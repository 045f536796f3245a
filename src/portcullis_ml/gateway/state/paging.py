"""Snapshots in pages: what did not change since the last one is not written again.

A client with 20,000 rows on record is 63 MB; between two snapshots one row in ten of them is new. A snapshot is
cut into pages named by their digests, and a store keeps each page once, so that what is written is what changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence, Set

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["PAGE", "SLICE_S", "Marks", "cut", "named", "names"]

PAGE = 64 << 10  # bytes; smaller ones name more digests, larger ones write more that did not change
SLICE_S = 0.002  # the longest that other clients wait for one piece of work on a stream
DIGEST = 16  # bytes of a page's name


class Marks:
    """The names of pages that were named before in this process, so that one that did not change is not named again.

    A page is told by its tag under AES-GCM, at a quarter of a digest's time. The key is this process's own and no tag
    leaves it, so nobody can make two pages alike, and a nonce that is always the same tells nobody anything.
    """

    _key = AESGCM(AESGCM.generate_key(128))

    def __init__(self) -> None:
        self._names: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, page: bytes | memoryview, into: Marks) -> bytes:
        """The page's name, which `into` knows from then on."""
        tag = self._key.encrypt(bytes(12), b"", page)
        name = into._names[tag] = self._names.get(tag) or named(page)
        return name


def named(page: bytes | memoryview) -> bytes:
    """A page's name. SHA-256, because processors have an instruction for it."""
    return hashlib.sha256(page).digest()[:DIGEST]


def names(order: bytes) -> list[bytes]:
    """The names that were written one after another."""
    return [order[i : i + DIGEST] for i in range(0, len(order), DIGEST)]


async def cut(
    buffers: Sequence[bytes | memoryview], known: Set[bytes], before: Marks
) -> tuple[list[bytes], dict[bytes, bytes], Marks]:
    """(names of all pages in order, those pages that are not `known`, the marks of all). Others run in between.

    before  the marks of the latest cut of the same stream
    """
    marks = Marks()
    order: list[bytes] = []
    fresh: dict[bytes, bytes] = {}
    since = time.perf_counter()
    for page in _pages(buffers):
        name = before.name(page, marks)
        order.append(name)
        if name not in known:
            fresh[name] = bytes(page)
        if time.perf_counter() - since > SLICE_S:
            await asyncio.sleep(0)
            since = time.perf_counter()
    return order, fresh, marks


def _pages(buffers: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Large buffers begin pages of their own, so that one that grows moves no other; small ones share pages."""
    small: list[bytes | memoryview] = []
    for buffer in buffers:
        if len(buffer) < PAGE // 4:
            small.append(buffer)
            if sum(map(len, small)) < PAGE:
                continue
        if small:
            yield b"".join(small)
            small = []
        if len(buffer) >= PAGE // 4:
            whole = memoryview(buffer)
            yield from (whole[at : at + PAGE] for at in range(0, len(whole), PAGE))
    if small:
        yield b"".join(small)
