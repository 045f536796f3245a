"""Questions whose rows are texts, in each protocol: from a body to texts, and from texts to a body.

What a body may hold is counted before it is parsed. A text may be full of commas and brackets, so they are counted
outside of texts.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.gateway.protocols.described import const, object_of, some
from portcullis_ml.gateway.protocols.strict import BadRequest, given, listed, loads, only_keys
from portcullis_ml.gateway.protocols.tensors import raw_words
from portcullis_ml.gateway.protocols.v2_question import NO_DATA, SIZE, TOP, asked_for, tensor_form
from portcullis_ml.gateway.protocols.wire import Carried, Inquiry, ModelSpec

__all__ = ["fits_texts", "inquiry_of", "loads_texts", "schema_of", "table_asked", "table_described", "table_of",
           "tensor_asked", "texts_in", "texts_out", "v2_inquiry"]  # fmt: skip

SLACK = 1_024  # of each, for what stands around the texts
SPLIT = ("columns", "data", "index")  # of "dataframe_split"


def inquiry_of(served: ModelSpec, values: Any, where: str, **about: Any) -> Inquiry:
    """The question that these texts are. Raises BadRequest."""
    assert served.text is not None
    texts = served.text.taken(values, served.max_rows, where)
    return Inquiry(served.text.rows(texts), carried=Carried(texts=texts), **about)


def loads_texts(body: bytes, most: int) -> dict[str, Any]:
    """What `strict.loads` says of a body, if it holds no more than so many texts."""
    fits_texts(body, most)
    return loads(body)


def fits_texts(body: bytes, most: int) -> None:
    """BadRequest if a body holds more than so many texts, each of which may be in a list or an object of its own."""
    quotes = body.count(b'"') - body.count(b'\\"')  # at least one for every text and key, whatever is escaped
    if quotes > 4 * most + SLACK:
        raise BadRequest(f"The body must hold at most {most} texts; it holds more.", 413)
    around = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])  # all that is in no text
    if around.count(b",") > 2 * most + SLACK or max(map(around.count, (b"[", b"{", b":"))) > most + SLACK:
        raise BadRequest(f"The body must hold at most {most} texts; it holds more lists, keys or values.", 413)


def texts_in(served: ModelSpec, data: Any) -> Any:
    """The texts of objects {column: text}, or of one object {column: texts}; everything else as it is."""
    assert served.text is not None
    name = served.text.column or served.input
    if isinstance(data, dict):
        return only_keys(data, (name,), "The input").get(name)
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return [only_keys(row, (name,), "A row").get(name) for row in data]
    return data


def texts_out(served: ModelSpec, texts: Sequence[str]) -> list[Any]:
    """Texts as a model server takes them: bare, or as objects where the policy names a column."""
    column = served.text.column if served.text else None
    return list(texts) if column is None else [{column: text} for text in texts]


# A table with a column of texts, as MLflow reads it.


def table_of(served: ModelSpec, body: bytes) -> Inquiry:
    """The question in a body of the protocol `invocations`."""
    spellings = ("inputs", "instances", "dataframe_split", "dataframe_records")
    tree = given(only_keys(loads_texts(body, served.max_rows), spellings, "The request"))
    if len(tree) != 1:
        raise BadRequest(f"The request must hold exactly one of {', '.join(spellings)}.")
    ((key, data),) = tree.items()
    if key == "dataframe_split":
        data = given(only_keys(data, SPLIT, '"dataframe_split"'))
        column = served.text.column if served.text else None
        names = data.get("columns")
        if names is not None and (not isinstance(names, list) or len(names) != 1 or names[0] != (column or names[0])):
            raise BadRequest(f'"columns" must be a list of one name{f", {column!r}" if column else ""}.')
        data = data.get("data")
    return inquiry_of(served, texts_in(served, data), f'"{key}"')


def table_asked(served: ModelSpec, texts: Sequence[str]) -> Mapping[str, Any]:
    """The same for the model server: a table where the policy names a column."""
    column = served.text.column if served.text else None
    if column is None:
        return {"inputs": texts}
    return {"dataframe_split": {"columns": [column], "data": [[text] for text in texts]}}


def table_described(served: ModelSpec) -> list[dict[str, Any]]:
    """Schemas of the spellings of a table of texts."""
    texts, name = schema_of(served), {"type": "string"}
    split = object_of(("data",), columns=some(name, 1, 1), data=texts, index={})
    ways = {"inputs": texts, "instances": texts, "dataframe_split": split, "dataframe_records": texts}
    return [object_of((key,), **{key: way}) for key, way in ways.items()]


# Tensors of the Open Inference Protocol.


def v2_inquiry(served: ModelSpec, header: bytes, raw: bytes) -> Inquiry:
    """The question in a body of the Open Inference Protocol: one tensor of BYTES, [n] or [n, 1]."""
    tree = given(only_keys(loads_texts(header, served.max_rows), TOP, "The request"))
    mark, outputs, binary = asked_for(served, tree)
    name, data, shape, datatype, size = tensor_form(listed(tree.get("inputs"), '"inputs"', range(1, 2))[0], ("BYTES",))
    if name != served.input:
        raise BadRequest(f"The model takes one input named {served.input!r}.")
    if datatype != "BYTES":
        raise BadRequest('The model takes texts: "datatype" must be "BYTES".')
    if len(shape) > 2 or shape[1:] not in ((), (1,)):
        raise BadRequest('"shape" must be [n] or [n, 1]: one text a row.')
    if size is None and raw:
        raise BadRequest(NO_DATA)
    if size is not None and size != len(raw):
        raise BadRequest(SIZE)
    values = data if size is None else _raw_texts(raw, served.max_rows)
    found = inquiry_of(served, values, "The input", id=mark, binary=binary, outputs=outputs)
    if len(found.x) != shape[0]:
        raise BadRequest(f"The input must hold as many texts as its shape says; got {len(found.x)}.")
    return found


def _raw_texts(raw: bytes, most: int) -> list[str]:
    """The texts of a raw tensor: the length of each in four bytes, and its UTF-8."""
    texts, at = list[str](), 0
    while at < len(raw):
        if len(texts) == most:
            raise BadRequest(f"The input must hold 1 to {most} rows; it holds more.", 413)
        begin = at + 4
        at = begin + struct.unpack_from("<I", raw, at)[0] if begin <= len(raw) else begin
        if at > len(raw):
            raise BadRequest("Every text of a raw tensor must be its length in four bytes, and that many bytes.")
        try:
            texts.append(raw[begin:at].decode("utf-8"))
        except UnicodeDecodeError:
            raise BadRequest("The texts of a raw tensor must be UTF-8.") from None
    return texts


def tensor_asked(served: ModelSpec, texts: Sequence[str]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The only tensor of a question for the model server, and its bytes where that reads them."""
    tensor: dict[str, Any] = {"name": served.input, "shape": [len(texts), 1], "datatype": "BYTES"}
    if not served.binary:
        return [{**tensor, "parameters": {"content_type": "str"}, "data": texts}], []  # so MLServer makes strings of it
    raw = raw_words(list(texts))
    return [{**tensor, "parameters": {"binary_data_size": len(raw)}}], [raw]


def schema_of(served: ModelSpec, *, tensor: bool = False) -> dict[str, Any]:
    """What `texts_in` and `taken` read, described; or the tensor of it."""
    assert served.text is not None
    word = {"type": "string", "maxLength": served.text.longest}
    single = some(word, 1, 1)
    texts = {"anyOf": [some(item, 1, served.max_rows) for item in (word, single)]}
    if tensor:
        many = {"type": "integer", "minimum": 1, "maximum": served.max_rows}
        shape = {"prefixItems": [many, const(1)], **some({"type": "integer"}, 1, 2)}
        rest = {"name": const(served.input), "parameters": {"type": ["object", "null"]}}
        return object_of(
            ("name", "shape", "datatype", "data"), shape=shape, datatype=const("BYTES"), data=texts, **rest
        )
    name = served.text.column or served.input
    texts["anyOf"].append(some(object_of((name,), **{name: word}), 1, served.max_rows))
    return texts
