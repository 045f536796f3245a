"""A fuzzer of bodies that are dear to read: kinds, from each of which it draws some and keeps the slowest."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import ModelSpec

MOST = (4 << 20) - 1_000  # bytes; the default of limits.body_bytes
PATHS = {"v2": "/v2/models/m/infer", "v1": "/v1/models/m:predict", "invocations": "/invocations", "mapping": "/predict"}
JSON = ("v2", "v1", "invocations", "mapping")


class Sent(NamedTuple):
    """One request but for its client."""

    protocol: str
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})
    chunk: int = 0  # bytes of each chunk; 0 sends it with its length


Rng = np.random.Generator
Kind = Callable[[ModelSpec, Rng], Sent]


def around(rng: Rng, served: ModelSpec, data: bytes, rows: int | None = None) -> Sent:
    """Data in the place of the rows, in one of the protocols."""
    d, name = served.interface.input_shape[0], str(rng.choice(JSON))
    if name == "v2":
        rows = rows or int(rng.choice([1, served.max_rows]))
        head = b'{"inputs":[{"name":"input","shape":[%d,%d],"datatype":"FP32","data":' % (rows, d)
        return Sent(name, head + data + b"}]}")
    return Sent(name, (b'{"instances":' if name == "v1" else b'{"inputs":') + data + b"}")


def filled(token: bytes, by: bytes = b",") -> bytes:
    """As many of a token as there is room for."""
    return by.join([token] * ((MOST - 200) // (len(token) + len(by))))


def small_lists(served: ModelSpec, rng: Rng) -> Sent:
    token = [b"[1]", b"[]", b"[0,0]", b"[[0]]", b"[0.25,null]", b"[-1e9]"][rng.integers(6)]
    return around(rng, served, b"[" + filled(token) + b"]")


def deep(served: ModelSpec, rng: Rng) -> Sent:
    n = int(rng.choice([30, 1_000, 1_000_000]))
    opening, closing = [(b"[", b"]"), (b'{"a":', b"}")][rng.integers(2)]
    n = min(n, MOST // 2 // len(opening))
    return around(rng, served, opening * n + b"1" + closing * n * int(rng.integers(2)))


def long_numbers(served: ModelSpec, rng: Rng) -> Sent:
    digits = bytes(rng.integers(48, 58, int(rng.choice([19, 40, 300, 770, 5_000, 1_000_000]))).astype(np.uint8))
    token = [b"0.%b" % digits, b"1%b" % digits, b"1.%be-300" % digits][rng.integers(3)]
    return around(rng, served, b"[" + filled(token) + b"]")


def huge_text(served: ModelSpec, rng: Rng) -> Sent:
    text = b'"' + [b"a", b"\xc3\xa9", b"\xf0\x9f\x98\x80"][rng.integers(3)] * 1_000_000 + b'"'
    return around(rng, served, [text, b"[0," + text + b"]", b"{" + text + b":1}"][rng.integers(3)])


def escapes(served: ModelSpec, rng: Rng) -> Sent:
    token = [b"\\n", b"\\u0041", b"\\u20ac", b"\\ud83d\\ude00", b'\\"'][rng.integers(5)]
    return around(rng, served, b'"' + filled(token, b"") + b'"')


def many_keys(served: ModelSpec, rng: Rng) -> Sent:
    value = [b"1", b"[]", b"{}"][rng.integers(3)]
    same = rng.random() < 0.3
    pairs = [b'"%d":%b' % (0 if same else i, value) for i in range(MOST // (11 + len(value)))]
    return around(rng, served, b"{" + b",".join(pairs) + b"}")


def texts(served: ModelSpec, rng: Rng) -> Sent:
    token = [b'""', b'"1"', b'"\\u0031"', b"null", b"true", b"{}"][rng.integers(6)]
    return around(rng, served, b"[" + filled(token) + b"]")


def spaces(served: ModelSpec, rng: Rng) -> Sent:
    gap = [b" ", b"\n", b"\t \r\n"][rng.integers(3)]
    return around(rng, served, b"[" + gap * (MOST // len(gap) // 2) + b"1" + gap * (MOST // len(gap) // 4) + b"]")


def rows_of(served: ModelSpec, rng: Rng, most: int = MOST) -> list[bytes]:
    """As many rows as may be asked, in numbers of some length."""
    d, decimals = served.interface.input_shape[0], int(rng.choice([1, 2, 6, 17]))
    x = np.round(rng.random((served.max_rows, d)), decimals)
    rows = [",".join(map(repr, row)).encode() for row in x.tolist()]
    fit = np.searchsorted(np.cumsum([len(row) + 3 for row in rows]), most - 200)
    return rows[: max(int(fit), 1)]


def last_wrong(served: ModelSpec, rng: Rng) -> Sent:
    """Right but for its end, so that all of it must be read."""
    rows = rows_of(served, rng)
    text = b"[[" + b"],[".join(rows) + [b"]", b",0]]", b",null]]", b"],[]]", b",true]]", b"]],"][rng.integers(6)]
    return around(rng, served, text, len(rows))


def other_shape(served: ModelSpec, rng: Rng) -> Sent:
    """The right numbers in lists of another form."""
    flat = b",".join(rows_of(served, rng)).split(b",")
    width = int(rng.choice([1, 2, 7, len(flat)]))
    lists = [b"[%b]" % b",".join(flat[i : i + width]) for i in range(0, len(flat), width)]
    return around(rng, served, b"[" + b",".join(lists)[: MOST - 200].rpartition(b",[")[0] + b"]")


def table(served: ModelSpec, rng: Rng) -> Sent:
    """CSV: too many lines, long cells, or right but for the last cell."""
    body = [b"\n" * MOST, filled(b"1", b",\n"), filled(b"1" * 1_000), b"," * MOST,
            b"\n".join(rows_of(served, rng)) + b"x"][rng.integers(5)]  # fmt: skip
    return Sent("invocations", body, {"content-type": "text/csv"})


def records(served: ModelSpec, rng: Rng) -> Sent:
    token = [b'{"a":1}', b'{"input":[1]}', b"{}"][rng.integers(3)]
    key = [b"dataframe_records", b"dataframe_split", b"instances"][rng.integers(3)]
    return Sent("v1" if key == b"instances" else "invocations", b'{"%b":[%b]}' % (key, filled(token)))


def raw(served: ModelSpec, rng: Rng) -> Sent:
    """Raw bytes: as many rows as may be asked, or their size claimed wrong."""
    d = served.interface.input_shape[0]
    n = min(served.max_rows, (MOST - 300) // (4 * d))
    size = 4 * d * n - int(rng.integers(2))
    tensor = {"name": "input", "shape": [n, d], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    x = rng.random((n, d)).astype(np.float32)
    return Sent("v2", head + x.tobytes(), {"inference-header-content-length": str(len(head))})


def chunks(served: ModelSpec, rng: Rng) -> Sent:
    """A body in chunks of a few bytes."""
    return last_wrong(served, rng)._replace(chunk=1)


def batch(served: ModelSpec, rng: Rng) -> Sent:
    """The largest question that is answered."""
    rows = rows_of(served, rng)
    return around(rng, served, b"[[" + b"],[".join(rows) + b"]]", len(rows))


def bomb(served: ModelSpec, rng: Rng) -> Sent:
    """A little gzip that becomes much: something of another kind, or more than a body may be long."""
    sent = [small_lists, batch, spaces][rng.integers(3)](served, rng)
    body = sent.body if rng.random() < 0.7 else sent.body + b" " * MOST
    return sent._replace(body=gzip.compress(body, 6), headers={"content-encoding": "gzip"})


KINDS: dict[str, Kind] = {
    "many small lists": small_lists, "deep nesting": deep, "long numbers": long_numbers, "a huge text": huge_text,
    "escapes": escapes, "many keys": many_keys, "texts and words for numbers": texts, "white space": spaces,
    "right but for its end": last_wrong, "lists of another shape": other_shape, "CSV": table, "records": records,
    "raw bytes": raw, "gzip that becomes much": bomb, "chunks of a few bytes": chunks,
    "the largest valid question": batch,
}  # fmt: skip


def slowest(kind: Kind, served: ModelSpec, draws: int, seed: int) -> tuple[Sent, float, str]:
    """Of so many bodies of a kind: the one that takes most processor time to read, that time in ms, and what it is
    told."""
    found = []
    for draw in range(draws):
        sent = kind(served, np.random.default_rng([seed, draw]))
        wire, told = CATALOG.load(sent.protocol)(), "it is read"
        begun = time.thread_time()
        try:
            packed = "content-encoding" in sent.headers
            wire.read(served, sent.headers, zlib.decompress(sent.body, 47) if packed else sent.body)
        except BadRequest as refusal:
            told = refusal.sentence
        found.append((1e3 * (time.thread_time() - begun), draw, told))
    took, draw, told = max(found)
    return kind(served, np.random.default_rng([seed, draw])), took, told
