"""Snapshots in pages: what did not change since the last one is not written again.

A client with 20,000 rows on record is 63 MB; between two snapshots one row in ten of them is new. A snapshot is
cut into pages named by their digests, and a store keeps each page once, so that what is written is what changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence, Set

__all__ = ["PAGE", "SLICE_S", "cut", "named", "names"]

PAGE = 64 << 10  # bytes; smaller ones name more digests, larger ones write more that did not change
SLICE_S = 0.002  # the longest that other clients wait for one piece of work on a stream
DIGEST = 16  # bytes of a page's name


def named(page: bytes | memoryview) -> bytes:
    """A page's name. SHA-256, because processors have an instruction for it."""
    return hashlib.sha256(page).digest()[:DIGEST]


def names(order: bytes) -> list[bytes]:
    """The names that were written one after another."""
    return [order[i : i + DIGEST] for i in range(0, len(order), DIGEST)]


async def cut(buffers: Sequence[bytes | memoryview], known: Set[bytes]) -> tuple[list[bytes], dict[bytes, bytes]]:
    """(names of all pages in order, those pages that are not `known`). Others run in between."""
    order: list[bytes] = []
    fresh: dict[bytes, bytes] = {}
    since = time.perf_counter()
    for page in _pages(buffers):
        name = named(page)
        order.append(name)
        if name not in known:
            fresh[name] = bytes(page)
        if time.perf_counter() - since > SLICE_S:
            await asyncio.sleep(0)
            since = time.perf_counter()
    return order, fresh


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
