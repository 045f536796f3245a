"""MLflow and SageMaker scoring: POST /invocations, in JSON or CSV.

MLflow, "Deploy MLflow Model as a Local Inference Server"; Amazon SageMaker, "Use Your Own Inference Code".

MLflow's four spellings of a table are read (`inputs`, `instances`, `dataframe_split`,
`dataframe_records`); columns come in the order of the interface's features where it names them.
The upstream is always asked with "inputs". Its error texts can hold a stack trace, so they are never
passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import orjson

from portcullis_ml.core.types import Answer, Array, Floats
from portcullis_ml.gateway.protocols.claims import fits
from portcullis_ml.gateway.protocols.described import Described, answers, object_of, rows, some
from portcullis_ml.gateway.protocols.json_parts import (
    columns_described,
    columns_in,
    columns_out,
    record_described,
    records_in,
)
from portcullis_ml.gateway.protocols.number_lists import loads_with_numbers
from portcullis_ml.gateway.protocols.strict import (
    BadRequest,
    given,
    listed,
    loads,
    no_booleans,
    numbers,
    only_keys,
    rows_in,
)
from portcullis_ml.gateway.protocols.text_questions import table_asked, table_described, table_of
from portcullis_ml.gateway.protocols.v1 import plain_rows, read_rows, rows_out
from portcullis_ml.gateway.protocols.wire import NOTHING, Ask, Carried, Headers, Inquiry, ModelSpec, Reply, Wire, parsed

__all__ = ["Invocations"]

SPELLINGS = ("inputs", "instances", "dataframe_split", "dataframe_records")


class Invocations(Wire):
    """The protocol of MLflow's server and of SageMaker containers."""

    name: ClassVar[str] = "invocations"
    health: ClassVar[frozenset[str]] = frozenset(("ready",))
    common: ClassVar[frozenset[str]] = frozenset(("ready",))
    parts: ClassVar[bool] = True
    carries: ClassVar[frozenset[str]] = frozenset(("texts",))

    def route(self, method: str, path: str, served: ModelSpec) -> str | None:
        if path == "/invocations":
            return "infer" if method == "POST" else None
        return "ready" if path in ("/ping", "/health") and method == "GET" else None

    def routes(self, served: ModelSpec) -> tuple[Described, ...]:
        ways = _ways_in_parts(served) if served.several else _ways(served)
        answer = object_of(("predictions",), predictions=answers(served.interface, served.class_names))
        table = {"text/csv": {"type": "string"}} if served.text is None else {}
        return (
            Described("get", "/ping", "Whether the gate is up"),
            Described("get", "/health", "Whether the gate is up"),
            Described("post", "/invocations", "Ask the model", answer, {"oneOf": ways}, table),
        )

    def read(self, served: ModelSpec, headers: Headers, body: bytes) -> Inquiry:
        kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if served.text is not None:
            if kind != "application/json":
                raise BadRequest("Texts are sent as application/json; a CSV table of them is not read here.", 415)
            return table_of(served, body)
        if kind == "text/csv":
            found = _table(body, served)
        elif kind == "application/json":
            found = _spelled(body, served)
        else:
            raise BadRequest("The content type must be application/json or text/csv.", 415)
        x = rows_in(found, served.interface.input_shape, served.max_rows, "The table")
        return Inquiry(served.inspected(x))

    def write(self, served: ModelSpec, inquiry: Inquiry, answer: Answer) -> Reply:
        return Reply(orjson.dumps({"predictions": plain_rows(served, answer)}, option=orjson.OPT_SERIALIZE_NUMPY))

    def tell(self, served: ModelSpec, what: str) -> Reply:
        return Reply(b"\n")

    def ready_paths(self, served: ModelSpec) -> tuple[str, ...]:
        return ("/ping",)

    def ask(self, served: ModelSpec, x: Floats, carried: Carried = NOTHING) -> Ask:
        if carried.texts is not None:
            table: Any = table_asked(served, carried.texts)
        else:
            table = _table_out(served, x) if served.several else {"inputs": rows_out(x)}
        body = orjson.dumps(table, option=orjson.OPT_SERIALIZE_NUMPY)
        return Ask("/invocations", body, {"content-type": "application/json"})

    def understand(self, served: ModelSpec, n: int, headers: Headers, body: bytes) -> Answer:
        tree = parsed(body)
        return read_rows(served, n, tree.get("predictions") if isinstance(tree, dict) else tree)

    def refusal(self) -> dict[str, Any]:
        return object_of(("error_code", "message"), error_code={"type": "string"}, message={"type": "string"})

    def refuse(self, status: int, sentence: str) -> Reply:
        code = "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"
        return Reply(orjson.dumps({"error_code": code, "message": sentence}), status)


def _ways(served: ModelSpec) -> list[dict[str, Any]]:
    """Schemas of the spellings of a table."""
    if served.text is not None:
        return table_described(served)
    asked = rows(served.interface, served.max_rows)
    width = served.interface.input_shape[-1]
    split = {"columns": some({}, width, width), "data": asked, "index": {}}
    ways = [object_of((key,), **{key: asked}) for key in ("inputs", "instances")]
    ways.append(object_of(("dataframe_split",), dataframe_split=object_of(("data",), **split)))
    if served.interface.features is not None:
        record = object_of((), **{f.name: asked["items"]["items"] for f in served.interface.features})
        ways.append(object_of(("dataframe_records",), dataframe_records=some(record, 1, served.max_rows)))
    return ways


def _ways_in_parts(served: ModelSpec) -> list[dict[str, Any]]:
    """The same where the columns are inputs of their own."""
    most, width = served.max_rows, len(served.parts)
    records, lists = some(record_described(served), 1, most), some(some({}, width, width), 1, most)
    either = {"anyOf": [columns_described(served), records, lists]}
    split = object_of(("data",), columns=some({"type": "string"}, width, width), data=lists, index={})
    ways = {"inputs": either, "instances": either, "dataframe_split": split, "dataframe_records": records}
    return [object_of((key,), **{key: way}) for key, way in ways.items()]


def _spelled(body: bytes, served: ModelSpec) -> np.ndarray:
    spelled, row = "inputs" if b'"inputs"' in body else "instances", None
    if served.several:  # whose words and numbers stand in one row
        fits(body, served.most)
        tree = loads(body)
    else:
        tree, row = loads_with_numbers(body, spelled, most=served.most, missing=served.interface.missing)
    tree = only_keys(given(tree), SPELLINGS, "The request")
    if len(tree) != 1:
        raise BadRequest(f"The request must hold exactly one of {', '.join(SPELLINGS)}.")
    ((key, data),) = tree.items()
    if served.several:
        return _in_parts(served, body, key, data)
    if key == "dataframe_split":
        data = given(only_keys(data, ("columns", "data", "index"), '"dataframe_split"'))
        data = _ordered(data.get("data"), data["columns"], served) if "columns" in data else data.get("data")
    elif key == "dataframe_records":
        records = listed(data, '"dataframe_records"', range(1, served.max_rows + 1))
        names = _names(served)
        data = [[only_keys(r, names, "A record").get(name) for name in names] for r in records]
    if row is None:
        no_booleans(body, data, f'"{key}"')
    return numbers(data, f'"{key}"', row=row, missing=served.interface.missing)


def _in_parts(served: ModelSpec, body: bytes, key: str, data: Any) -> Array:
    """(n, d) rows from any spelling of a table whose columns have names: records, columns, or names beside rows."""
    where, names = f'"{key}"', [p.name for p in served.parts]
    if isinstance(data, dict) and key != "dataframe_split":
        return columns_in(served, body, data, where)
    if key == "dataframe_split":
        data = given(only_keys(data, ("columns", "data", "index"), where))
        names = data.get("columns", names)
        data = data.get("data")
        if (
            not isinstance(names, list)
            or not all(isinstance(name, str) for name in names)
            or (sorted(names) != sorted(p.name for p in served.parts))
        ):
            raise BadRequest(f'"columns" must name the model\'s {len(served.parts)} columns, each once.')
        return records_in(served, body, _records(names, data), where)
    if isinstance(data, list) and data and isinstance(data[0], list):
        data = _records(names, data)
    return records_in(served, body, data, where)


def _records(names: list[str], rows: Any) -> Any:
    """Rows of values as {name: value}."""
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != len(names) for row in rows):
        raise BadRequest(f"Every row must hold {len(names)} values.")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _table_out(served: ModelSpec, x: Floats) -> dict[str, Any]:
    """A table as the upstream is asked: names beside rows; or, where an input is more than a column, by columns."""
    columns = columns_out(served, x)
    if any(part.shape for part in served.parts):
        return {"inputs": columns}
    return {"dataframe_split": {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}}


def _names(served: ModelSpec) -> list[str]:
    features = served.interface.features
    if features is None:
        raise BadRequest('The model\'s columns have no names; send "inputs".')
    return [f.name for f in features]


def _ordered(data: Any, columns: Any, served: ModelSpec) -> Any:
    """Rows with their columns brought into the interface's order, by name."""
    if served.interface.features is None:
        width = served.interface.input_shape[-1]
        if not isinstance(columns, list) or len(columns) != width:
            raise BadRequest(f'"columns" must be a list of {width} names.')
        return data
    names = _names(served)
    if (
        not isinstance(columns, list)
        or not all(isinstance(c, str) for c in columns)
        or sorted(columns) != sorted(names)
    ):
        raise BadRequest(f'"columns" must name the model\'s {len(names)} columns, each once.')
    order = [columns.index(name) for name in names]
    rows = listed(data, '"data"', range(1, served.max_rows + 1))
    if any(not isinstance(row, list) or len(row) != len(names) for row in rows):
        raise BadRequest(f'Every row of "data" must hold {len(names)} values.')
    return [[row[j] for j in order] for row in rows]


def _table(body: bytes, served: ModelSpec) -> np.ndarray:
    """CSV: an optional head line of names, then numbers; an empty cell is an omitted input."""
    if body.count(b"\n") > 2 * served.max_rows + 2:  # counted before they are cut: all of them may be empty
        raise BadRequest(f"The table must hold 1 to {served.max_rows} rows.", 413)
    try:
        text = body.decode("utf-8" if served.several else "ascii")
    except UnicodeDecodeError:
        raise BadRequest(f"A CSV table must be {'UTF-8' if served.several else 'ASCII'} text.") from None
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines or len(lines) > served.max_rows + 1:
        raise BadRequest(f"The table must hold 1 to {served.max_rows} rows.", 413 if lines else 400)
    width = len(served.parts) if served.several else served.interface.input_shape[-1]
    if any(line.count(",") != width - 1 for line in lines):  # counted before they are cut: a line may be all commas
        raise BadRequest(f"Every line of the table must hold {width} values.")
    if served.several:
        return _cells_in_parts(lines, body, served)
    first = [c.strip() for c in lines[0].split(",")]
    head = first if any(_number(c) is None and c for c in first) else None
    rows = [_line(line) for line in (lines[1:] if head else lines)]
    return numbers(_ordered(rows, head, served) if head else rows, "The table", missing=served.interface.missing)


def _cells_in_parts(lines: list[str], body: bytes, served: ModelSpec) -> Array:
    """(n, d) rows from lines of numbers and words, which stand as they are, without quotation marks."""
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    names = [p.name for p in served.parts]
    if sorted(rows[0]) == sorted(names):
        names = rows.pop(0)
    words = {p.name: p.codes for p in served.parts}
    records = [{n: _cell(c, words[n]) for n, c in zip(names, row, strict=True)} for row in rows]
    return records_in(served, body, records, "The table")


def _cell(cell: str, words: Mapping[str, float]) -> float | str | None:
    """A word where it is one, else a number; an empty cell is an omitted input."""
    if cell in words:
        return cell
    number = _number(cell)
    return cell or None if number is None else number


def _line(line: str) -> list[float | None]:
    cells = line.split(",")
    try:
        if "_" not in line:
            return list(map(float, cells))
    except ValueError:
        pass
    found = [_number(c.strip()) for c in cells]
    if any(v is None and c.strip() for v, c in zip(found, cells, strict=True)):
        raise BadRequest("The table must hold numbers only.")
    return found


def _number(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None
