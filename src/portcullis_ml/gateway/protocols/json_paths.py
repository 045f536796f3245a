"""Places in JSON: "$" is all of it, "$.a.b" a key within a key, "$.a[*].b" that key of every object in a list.

Nothing else of JSONPath is understood. A place says where values are found, and where they are put.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from portcullis_ml.core.errors import ParameterError

__all__ = ["NOWHERE", "Place", "apart", "found_at", "place", "put"]

PATH = re.compile(r"\$((?:\.[^.\[\]*?()\"']+)*)(?:(\[\*\])((?:\.[^.\[\]*?()\"']+)*))?")


NOWHERE: Any = object()


class Place(NamedTuple):
    """One place, or one in every object of a list."""

    keys: tuple[str, ...]
    each: tuple[str, ...] | None = None  # behind [*]; None where no list is entered

    @property
    def steps(self) -> tuple[str, ...]:
        return self.keys if self.each is None else (*self.keys, "[*]", *self.each)

    def __str__(self) -> str:
        return "$" + "".join(step if step == "[*]" else f".{step}" for step in self.steps)


def place(path: str, name: str, *, lists: bool = False) -> Place:
    """The place that a path names: "$.a.b" -> Place(("a", "b")). ParameterError where it is none; `lists` takes [*]."""
    found = PATH.fullmatch(path)
    if found is None or (found[2] and not lists):
        more = ', or "$.key[*].key" for that of each object in a list' if lists else ""
        raise ParameterError(name, f'written "$.key" or "$.key.key", or "$" for all of it{more}', path)
    keys = tuple(found[1].split(".")[1:])
    return Place(keys, tuple(found[3].split(".")[1:]) if found[2] else None)


def apart(a: Place, b: Place) -> bool:
    """Whether values can be put at both: neither lies within the other, and no list is an object too."""
    for left, right in zip(a.steps, b.steps, strict=False):
        if left != right:
            return "[*]" not in (left, right)
    return False


def found_at(tree: Any, where: Place) -> Any:
    """What stands there, a list of it where the place enters a list; NOWHERE where nothing does, not even null."""
    found = _walked(tree, where.keys)
    if where.each is None:
        return found
    if not isinstance(found, list):
        return NOWHERE
    each = [_walked(item, where.each) for item in found]
    return NOWHERE if all(value is NOWHERE for value in each) else [None if v is NOWHERE else v for v in each]


def _walked(tree: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return NOWHERE
        tree = tree[key]
    return tree


def put(tree: Any, where: Place, value: Any) -> Any:
    """`tree` with the value put there; where the place enters a list, with each of the values in its own object."""
    if where.each is None:
        return _set(tree, where.keys, value)
    held = _walked(tree, where.keys)
    rows: Sequence[Any] = held if isinstance(held, list) else [None] * len(value)
    return _set(tree, where.keys, [_set(row, where.each, v) for row, v in zip(rows, value, strict=True)])


def _set(tree: Any, keys: tuple[str, ...], value: Any) -> Any:
    if not keys:
        return value
    inner = tree if isinstance(tree, dict) else {}
    inner[keys[0]] = _set(inner.get(keys[0]), keys[1:], value)
    return inner
