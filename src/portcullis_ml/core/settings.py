"""Settings are frozen data: checked once, printed as JSON, built again from JSON or from a word.

A unit (an attack, a defense, a detector) is a frozen keyword-only dataclass whose fields are its settings. `check`
validates one of them in `__post_init__`; `describe` makes a dict of a unit, `catalog.Catalog.build` the unit again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import ParameterError

__all__ = ["bound", "check", "describe"]

U = TypeVar("U")


def check(unit: object, name: str, expected: str, test: Callable[[Any], bool]) -> None:
    """Raise ParameterError unless `test(value of that setting)` holds. A value of the wrong type fails too."""
    value = getattr(unit, name)
    try:
        good = test(value) and not (isinstance(value, float) and math.isnan(value))
    except (TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise ParameterError(f"{type(unit).__name__}.{name}", expected, value)


def describe(unit: object) -> dict[str, Any]:
    """{"unit": catalog name or "module:Class", setting: value, ...}, JSON throughout; nested units too."""
    if not is_dataclass(unit) or isinstance(unit, type):
        raise ParameterError("describe(unit)", "a unit: an instance of a settings dataclass", unit)
    name = getattr(type(unit), "name", None) or f"{type(unit).__module__}:{type(unit).__qualname__}"
    return {"unit": name, **{f.name: _plain(getattr(unit, f.name)) for f in fields(unit) if f.init}}


def bound(unit: U, **loaded: Any) -> U:
    """A copy of a unit that holds what it loaded, in fields that are no settings: field(init=False, compare=False)."""
    made = copy.copy(unit)
    for name, value in loaded.items():
        object.__setattr__(made, name, value)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Artifact):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return describe(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ParameterError("a setting", "a number, text, a list, a mapping or another unit", value)
