"""The head of a request as it was read, a request that is refused, and the bytes of a response's head."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools

__all__ = ["Rejected", "Request", "fields", "header_name", "response_head", "target_path"]


@dataclass(slots=True)
class Request:
    """The head of a request."""

    method: str
    path: str
    headers: dict[str, str]  # by lower-case name
    twice: Set[str] = frozenset()  # the names that came more than once
    raw_path: bytes = b""  # the path as it was spelled
    keep_alive: bool = True  # the connection may stay open after the response
    expects_continue: bool = False  # the client waits for "100 Continue" before it sends the body


@dataclass
class Rejected(Exception):
    """A request that gets no answer: the decision that it is counted as, and what the client is sent."""

    decision: str
    status: int
    sentence: str
    retry_after: float | None = None
    remaining: int | None = None  # rows that the client's quota still has


@lru_cache(maxsize=256)
def header_name(raw: bytes) -> str:
    """A header's name in small letters; nearly all that come are among a few dozen."""
    return raw.decode("latin-1").lower()


def fields(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, str], set[str]]:
    """(headers by lower-case name, the names that came more than once); of those the last one holds."""
    headers: dict[str, str] = {}
    twice: set[str] = set()
    for raw, value in pairs:
        name = header_name(raw)
        if name in headers:
            twice.add(name)
        headers[name] = value.decode("latin-1")
    return headers, twice


@lru_cache(maxsize=64)
def target_path(target: bytes) -> tuple[str, bytes]:
    """(path, the path as it was spelled) of a request's target, whose query is left out; what is no address is a path
    that leads nowhere. Nearly all requests have one of a few targets."""
    try:
        found: Any = httptools.parse_url(target)
        raw: bytes = found.path or b""
    except httptools.HttpParserInvalidURLError:
        raw = target
    return unquote(raw.decode("ascii", "replace")), raw


@lru_cache(maxsize=256)
def response_head(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    """Status line and headers, each with its line end."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in headers)]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
