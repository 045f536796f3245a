"""The question of a home-made JSON server: rows at their place, and the keys that a policy passes on."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import orjson

from portcullis_ml.core.types import Array, Floats
from portcullis_ml.gateway.protocols.claims import fits
from portcullis_ml.gateway.protocols.described import Schema, object_of, rows, some
from portcullis_ml.gateway.protocols.json_paths import put
from portcullis_ml.gateway.protocols.mapping_table import MappingTable
from portcullis_ml.gateway.protocols.number_lists import loads_with_numbers
from portcullis_ml.gateway.protocols.records import described_row, records_out, rows_by_name
from portcullis_ml.gateway.protocols.strict import (
    BadRequest,
    listed,
    loads,
    no_booleans,
    numbers,
    only_keys,
    rows_in,
    text,
)
from portcullis_ml.gateway.protocols.text_questions import fits_texts, inquiry_of, schema_of, texts_in, texts_out
from portcullis_ml.gateway.protocols.v1 import rows_out
from portcullis_ml.gateway.protocols.wire import NOTHING, Carried, ModelSpec

__all__ = ["described_question", "read_question", "written_question"]

LONGEST = 256  # characters of a text that is passed on
LARGEST = 2.0**53  # of a number that is passed on: beyond, readers of JSON disagree about whole numbers
EXTRA: Schema = {"type": ["string", "number", "boolean", "null"]}
TOP = b'"rows"'  # the key that is put before a body that is nothing but rows


def read_question(served: ModelSpec, table: MappingTable, body: bytes) -> tuple[Floats, Carried]:
    """(n, *input_shape) the rows in a body, and the extras beside them. BadRequest."""
    tree, row = _tree(served, table, body)
    extras: dict[str, Any] = {}
    found = _walked(table, tree, "$", extras)
    where = f'"{table.rows}"'
    if found is None:
        raise BadRequest(f"The request must hold rows at {where}.")
    if served.text is not None:
        inquiry = inquiry_of(served, texts_in(served, found) if table.batch else [found], where)
        return inquiry.x, dataclasses.replace(inquiry.carried, extras=extras)
    if table.rows_as == "object":
        x = rows_by_name(_records(served, table, found, where), served)
    else:
        if row is None:
            no_booleans(body, found, where)
        x = numbers(found, where, row=row, missing=served.interface.missing)
        x = x if table.batch else _one(x, served.interface.input_shape, where)
    return rows_in(x, served.interface.input_shape, served.max_rows, where), Carried(
        extras=extras
    ) if extras else NOTHING


def _tree(served: ModelSpec, table: MappingTable, body: bytes) -> tuple[Any, Array | None]:
    """The body as JSON, and its numbers where they were read separately."""
    keys, missing = table.rows.keys, served.interface.missing
    if served.text is not None:
        fits_texts(body, served.max_rows)
    elif table.rows_as == "list" and keys:
        return loads_with_numbers(body, *keys, most=served.most, missing=missing)
    elif table.rows_as == "list" and b'"' not in body:  # so no key can be spelled in it
        tree, row = loads_with_numbers(b"{%b:%b}" % (TOP, body), "rows", most=served.most, missing=missing)
        return tree["rows"], row
    else:
        fits(body, served.most)
    if keys or not table.batch:
        return loads(body), None
    tree = loads(b"{%b:%b}" % (TOP, body))
    if len(tree) > 1 or not isinstance(tree["rows"], list) or not _is_json(body):
        raise BadRequest("The body must be a JSON list.")
    return tree["rows"], None


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), list)
    except orjson.JSONDecodeError:
        return False


def _walked(table: MappingTable, tree: Any, at: str, extras: dict[str, Any]) -> Any:
    """The rows in a question, or None; the extras on the way are added to `extras`, by their paths. BadRequest where
    there is a key that is neither."""
    here = () if at == "$" else tuple(at.split(".")[1:])
    known = {p.keys[len(here)] for p in (*table.extras, table.rows) if p.keys[: len(here)] == here != p.keys}
    if here == table.rows.keys:
        if not known or not isinstance(tree, dict):
            return tree
        found: Any = {key: value for key, value in tree.items() if key not in known}
    else:
        only_keys(tree, known, "The request")
        found = None
    for key in known & tree.keys():
        inner = f"{at}.{key}"
        if any(str(extra) == inner for extra in table.extras):
            if tree[key] is not None:
                extras[inner] = _scalar(tree[key], inner)
        else:
            below = _walked(table, tree[key], inner, extras)
            found = below if below is not None else found
    return found


def _scalar(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return text(value, f'"{where}"', LONGEST)
    if type(value) not in (bool, int, float) or not math.isfinite(value) or abs(value) > LARGEST:
        raise BadRequest(f'"{where}" must be a number of at most 2^53, a boolean, or text.')
    return value


def _records(served: ModelSpec, table: MappingTable, found: Any, where: str) -> list[Any]:
    if not table.batch:
        return [found]
    if isinstance(found, list) and len(found) > served.max_rows:
        raise BadRequest(f"{where} must hold 1 to {served.max_rows} rows; got {len(found)}.", 413)
    return listed(found, where, range(1, served.max_rows + 1))


def _one(x: Array, shape: tuple[int, ...], where: str) -> Array:
    if x.shape[1:] == shape:
        raise BadRequest(f"{where} must hold one row by itself; got a list of {len(x)} rows.")
    return x[None]


def written_question(table: MappingTable, served: ModelSpec, x: Floats, carried: Carried) -> bytes:
    """The body that asks for these rows. BadRequest where they cannot be said by name, or are more than one row of a
    table that takes one."""
    if not table.batch and len(x) != 1:
        raise BadRequest(f"The model server takes one row a request; got {len(x)}.")
    if carried.texts is not None:
        written: Any = texts_out(served, carried.texts) if table.batch else carried.texts[0]
    elif table.rows_as == "list":
        written = rows_out(x if table.batch else x[0])
    else:
        written = records_out(x, served) if table.batch else records_out(x, served)[0]
    tree = put(None, table.rows, written)
    for extra in table.extras:
        if str(extra) in carried.extras:
            tree = put(tree, extra, carried.extras[str(extra)])
    return orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)


def described_question(table: MappingTable, served: ModelSpec) -> Schema:
    """What a question holds."""
    many = rows(served.interface, served.max_rows)
    row: Any = described_row(served) if table.rows_as == "object" else many["items"]
    tree = some(row, 1, served.max_rows) if table.batch else row
    if served.text is not None:
        tree = schema_of(served) if table.batch else {"type": "string", "maxLength": served.text.longest}
    for key in reversed(table.rows.keys):
        tree = object_of((key,), **{key: tree})
    for extra in table.extras:
        _add(tree, extra.keys)
    return tree


def _add(tree: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Describe an extra in the objects that a question holds."""
    for key in keys[:-1]:
        tree = tree["properties"].setdefault(key, object_of())
    tree["properties"][keys[-1]] = EXTRA
