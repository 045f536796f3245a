"""Reading TOML for people: where a key stands, and values as settings want them."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from portcullis_ml.core.errors import InputError, ParameterError, PortcullisError

__all__ = ["PolicyError", "Positions", "known", "made", "positions", "seconds", "tuples"]

T = TypeVar("T")
Positions = dict[tuple[str, ...], int]  # (table, key) -> line


class PolicyError(PortcullisError, ValueError):
    """A policy has a mistake: the line and one sentence."""

    def __init__(self, where: str, line: int, sentence: str) -> None:
        super().__init__(f"{where}, line {line}: {sentence}" if line else f"{where}: {sentence}")
        self.line = line


def tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}


KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
}


def known(table: Any, keys: Iterable[str], name: str) -> None:
    """Refuse what is no table, and a table with a key that is not among these."""
    if not isinstance(table, Mapping):
        raise ParameterError(name, "a table such as { key = value }", table)
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(keys)}."
            raise InputError(f"{key!r} is not known in {name}. {hint}")


def made(kind: Callable[..., T], table: Any) -> T:
    """Settings from a table, whose values must be of the types that the settings say."""
    fields = [f for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    known(table, [f.name for f in fields], kind.__name__)
    for f in fields:
        if f.name not in table and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise InputError(f"{kind.__name__} must say {f.name}.")
        value, word = table.get(f.name), str(f.type).removesuffix(" | None")
        if value is None:
            continue
        if word == "tuple[str, ...]" and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise ParameterError(f"{kind.__name__}.{f.name}", "a list of text", value)
        types, name = KINDS.get(word, ((object,), ""))
        if object not in types and (type(value) not in types or value != value):
            raise ParameterError(f"{kind.__name__}.{f.name}", name, value)
    return kind(**tuples(table))


def seconds(until: Any) -> float | None:
    if until is None or isinstance(until, int | float):
        return until
    if isinstance(until, datetime.datetime):
        return (until if until.tzinfo else until.replace(tzinfo=datetime.UTC)).timestamp()
    day = datetime.datetime.combine(until, datetime.time(), datetime.UTC)
    return (day + datetime.timedelta(days=1)).timestamp()  # through the end of that day


def positions(text: str) -> Positions:
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
