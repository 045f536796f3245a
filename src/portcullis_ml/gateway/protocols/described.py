"""A protocol's routes as OpenAPI 3.1 describes them: what each protocol file says of itself, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from portcullis_ml.core.types import Interface

__all__ = ["Described", "answers", "const", "object_of", "rows", "some"]

Schema = Mapping[str, Any]  # JSON Schema 2020-12, which OpenAPI 3.1 speaks


@dataclass(frozen=True)
class Described:
    """One route: what it takes and what it answers."""

    method: str
    path: str
    summary: str
    answer: Schema | None = None  # of the body with status 200; None where it is no JSON
    body: Schema | None = None  # of what is posted as JSON
    kinds: Mapping[str, Schema] = field(default_factory=dict)  # other content types of what is posted


def object_of(required: tuple[str, ...] = (), /, **properties: Schema) -> dict[str, Any]:
    """An object with these keys and no others."""
    tree = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**tree, "required": list(required)} if required else tree


def some(items: Schema, least: int = 1, most: int | None = None) -> dict[str, Any]:
    """A list."""
    return {"type": "array", "items": items, "minItems": least, **({} if most is None else {"maxItems": most})}


def const(*words: Any) -> dict[str, Any]:
    return {"enum": list(words)}


def rows(interface: Interface, max_rows: int) -> dict[str, Any]:
    """1 to `max_rows` rows of the model's input."""
    found: dict[str, Any] = {"type": ["number", "null"] if interface.missing else "number"}
    for width in reversed(interface.input_shape):
        found = some(found, width, width)
    return some(found, 1, max_rows)


def answers(interface: Interface, class_names: tuple[str | int, ...]) -> dict[str, Any]:
    """One row of scores for every row asked, in which a score that is not shown is null; or one class."""
    columns = interface.columns
    scores = some(some({"type": ["number", "null"]}, columns, columns))
    return {"anyOf": [scores, some(const(*class_names, None) if class_names else {"type": "number"})]}
