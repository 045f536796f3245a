"""Reading TOML for people: where a key stands, and values as settings want them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from portcullis.core.errors import PortcullisError

__all__ = ["PolicyError", "lines_of", "seconds", "tuples"]


class PolicyError(PortcullisError, ValueError):
    """A policy has a mistake: the line and one sentence."""

    def __init__(self, where: str, line: int, sentence: str) -> None:
        super().__init__(f"{where}, line {line}: {sentence}" if line else f"{where}: {sentence}")
        self.line = line


def tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}


def seconds(until: Any) -> float | None:
    if until is None or isinstance(until, int | float):
        return until
    if isinstance(until, datetime.datetime):
        return (until if until.tzinfo else until.replace(tzinfo=datetime.UTC)).timestamp()
    day = datetime.datetime.combine(until, datetime.time(), datetime.UTC)
    return (day + datetime.timedelta(days=1)).timestamp()  # through the end of that day


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """(table, key) -> line, for plain tables and arrays of tables; good enough to point at a mistake."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[(\[)?\s*([\w.\-\"]+)\s*\]", line)
        key = re.match(r"\s*([\w\-\"]+)\s*=", line)
        if head:
            name = head.group(2)
            table = tuple(name.split("."))
            if head.group(1):
                table = (*table, str(counts.get(name, 0)))
                counts[name] = counts.get(name, 0) + 1
                found.setdefault(table[:-1], number)
            found.setdefault(table, number)
        elif key:
            found.setdefault((*table, key.group(1).strip('"')), number)
    return found
