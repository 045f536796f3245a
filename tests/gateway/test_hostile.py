"""What strangers send to a gate's port: each is a 4xx with one sentence, in a moment, and changes no state."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import sqlite3
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from tests.gateway.asgi import question
from tests.gateway.harness import KEYS, Softmax, gate, policy_of, running, served_of

from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import ModelSpec

STAGES = (
    '[[guard]]\nunit = "quota"\nrows = 30\nper = 86400\n'
    '[[guard]]\nunit = "watch"\ndetector = { unit = "tests.gateway.units:At", row = 20 }\nthen = { unit = "block" }\n'
)
MORE = f"""[clients]
header = {{ header = "x-client", trusted = ["10.0.0.0/8"] }}
key = [
    {{ client = "alice", sha256 = "{hashed(KEYS["alice"])}" }},
    {{ client = "bob", sha256 = "{hashed(KEYS["bob"])}" }},
]
[listen]
port = 0
protocols = ["v2", "v1", "invocations", "mapping"]
[limits]
body_bytes = 4000
body_s = 0.3
head_s = 0.3
connections = 30
"""
URL, X = "/v2/models/m/infer", [[0.1, 0.2, 0.3, 0.4]]
GOOD = question(X)
KEY = {"x-api-key": KEYS["alice"]}


def http(body: bytes = GOOD, path: str = URL, method: str = "POST", headers: Any = (), key: Any = KEY) -> bytes:
    """A request as it stands on the wire; nothing is corrected."""
    pairs = [*key.items(), *(headers.items() if isinstance(headers, dict) else headers)]
    if not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in pairs):
        pairs.append(("content-length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return f"{method} {path} HTTP/1.1\r\nhost: gate\r\n{head}\r\n".encode("latin-1") + body


def chunked(body: bytes, *, length: str = "") -> bytes:
    headers = {"transfer-encoding": "chunked", **({"content-length": length} if length else {})}
    return http(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n", headers=headers)


def v2(data: bytes) -> bytes:
    return b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP64","data":' + data + b"}]}"


NESTED = b"[1," * 500 + b"true" + b"]" * 500
WIRE = {
    # bodies
    "not JSON": http(b"{"),
    "nothing": http(b""),
    "not text": http(b"\xff\xfe{}"),
    "a text for a number": http(GOOD.replace(b"0.1", b'"0.1"')),
    "NaN": http(GOOD.replace(b"0.1", b"NaN")),
    "infinity": http(GOOD.replace(b"0.1", b"1e999")),
    "a wrong shape": http(question([[1.0, 2.0, 3.0]])),
    "a huge shape": http(GOOD.replace(b"[1,4]", b"[1000000000,1000000000]")),
    "a huge shape, raw": http(
        b'{"inputs":[{"name":"input","shape":[1000000000,4],"datatype":"FP64","parameters":{"binary_data_size":8}}]}'
        + bytes(8),
        headers={"inference-header-content-length": "105"},
    ),
    "deep": http(b'{"inputs":' + b"[" * 1_500 + b"]" * 1_500 + b"}"),
    "deep among numbers": http(v2(NESTED)),
    "deep in v1": http(b'{"instances":' + NESTED + b"}", "/v1/models/m:predict"),
    "deep in invocations": http(b'{"inputs":' + NESTED + b"}", "/invocations"),
    "deep in a mapping": http(b'{"inputs":' + NESTED + b"}", "/predict"),
    "a large body": http(GOOD + b" " * 4_000),
    "a large body in chunks": chunked(GOOD + b" " * 4_000),
    "a large body that only says so": http(GOOD, headers={"content-length": "99999999999"}),
    "a slow body": http(GOOD[:20], headers={"content-length": str(len(GOOD))}),
    "a body that never begins": http(b"", headers={"content-length": "50"}),
    "a body that stops between chunks": http(b"5\r\nhello\r\n", headers={"transfer-encoding": "chunked"}),
    "a gzip bomb": http(gzip.compress(bytes(10**6)), headers={"content-encoding": "gzip"}),
    "a damaged gzip": http(gzip.compress(GOOD)[:-5], headers={"content-encoding": "gzip"}),
    "a gzip bomb by transfer": http(gzip.compress(GOOD), headers={"transfer-encoding": "gzip"}),
    "another content type": http(b"<x/>", "/invocations", headers={"content-type": "application/xml"}),
    "another content type of v2": http(headers={"content-type": "multipart/form-data; boundary=x"}),
    "a table in v2": http(headers={"content-type": "text/csv"}),
    "a page in v1": http(b'{"instances":[[1,2,3,4]]}', "/v1/models/m:predict", headers={"content-type": "text/html"}),
    "a form": http(b"a=1", headers={"content-type": "application/x-www-form-urlencoded"}),
    # framing
    "two lengths": http(headers=[("content-length", str(len(GOOD))), ("content-length", "5")]),
    "a length in words": http(headers={"content-length": "ten"}),
    "a negative length": http(headers={"content-length": "-1"}),
    "a length with a sign": http(headers={"content-length": f"+{len(GOOD)}"}),
    "a list of transfer codings": http(b"0\r\n\r\n", headers={"transfer-encoding": "gzip, chunked"}),
    "no host": http().replace(b"host: gate\r\n", b"", 1),
    "two hosts": http(headers={"host": "elsewhere"}),
    "a head of 70 kB in one write": http(headers={"x": "y" * 70_000}),
    "chunks and a length": chunked(GOOD, length="5"),
    "a bad chunk": http(b"zz\r\n", headers={"transfer-encoding": "chunked"}),
    "an unknown version": http().replace(b"HTTP/1.1", b"HTTP/9.9", 1),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a header without an end": b"POST / HTTP/1.1\r\nx: " + b"y" * 70_000,
    "a long address": b"POST /" + b"y" * 70_000,
    "a slow head": http()[:40],
    "silence": b"",
    "an endless piece of a chunk's head": http(b"5;" + b"y" * 70_000, headers={"transfer-encoding": "chunked"}),
    "a header that goes on": http(headers={"x-request-id": "a\r\n b"}),
    "a header without a name": http(headers={"": "x"}),
    "a zero byte in a header": http(headers={"x-request-id": "a\0b"}),
    "a bare line feed": http(headers={"x-request-id": "a\nx-client: carol"}),
    # names
    "no name": http(key={}),
    "a wrong key": http(key={"x-api-key": "wrong"}),
    "two keys": http(headers={"x-api-key": KEYS["bob"]}),
    "a key of 10 kB": http(key={"x-api-key": "k" * 10_000}),
    "a key in other letters": http(key={"x-api-key": KEYS["alice"].upper()}),
    "a forged name": http(headers={"x-client": "carol"}),
    "a forged name alone": http(key={"x-client": "carol"}),
    "a forged name of 10 kB": http(key={"x-client": "c" * 10_000}),
    # routes
    **{
        f"the path {path}": http(path=path)
        for path in ("/", "/v2", "/v2/models/m", "//v2/models/m/infer", "/v2//models/m/infer", "/v2/models/m/infer/",
                     "/v2/models/m/../m/infer", "/v2/models/m/%2e%2e/m/infer", "/v2/models/m/./infer",
                     "/v2/models/m%2Finfer", "/v2%2fmodels%2fm%2finfer", "/v2/models/%6d/infer",
                     "/v2/models/m;a=b/infer", "/v2/models/m/infer;a",
                     "/V2/models/m/infer", "/v2/models/M/infer", "/v2/models/m/INFER",
                     "/v2/models/m/infer%00", "/v2/models/m/infer%0d%0a", "/v2/models/m/infer%3Fa",
                     "/v2/models/m\\infer", "/v2/models/%c0%ae/infer", "*",
                     "/v2/models/m/versions/1/infer", "/v2/models/m/generate", "/v2/repository/models/m/unload",
                     "/v2/systemsharedmemory/region/r/register", "/metrics", "/healthz", "/live", "/act",
                     "/invocations/", "/invocations/../v2/models/m/infer", "/predict%20", "/v1/models/m:regress",
                     "http://elsewhere.example/v2/models/other/infer", "http:///v2/models/m/infer", "/" + "a" * 9_000)
    },
    **{f"the method {m}": http(method=m) for m in ("GET", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT")},
    "a method of its own": http(method="INFER"),
    "a WebSocket": http(b"", method="GET", headers={"connection": "upgrade", "upgrade": "websocket"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gate that alice has used for two rows."""
    folder, model = tmp_path_factory.mktemp("hostile"), Softmax()
    with running(ModelServer(model, served_of(model))) as upstream:
        policy = policy_of(model, upstream, folder, STAGES, MORE)
        with gate(policy) as made:
            made.model, made.folder = model, folder
            for _ in range(2):
                assert asked(made.url, http())[0] == 200
            yield made


def asked(url: str, text: bytes, wait: float = 5.0) -> tuple[int, bytes]:
    """(status, body) of the first answer to these bytes; the connection stays open for a slow body."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=wait) as s:
        s.sendall(text)
        got = b""
        while b"\r\n\r\n" not in got:
            part = s.recv(65_536)
            if not part:
                break
            got += part
        head, _, body = got.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", 0)):
            body += s.recv(65_536)
    return int(lines[0].split()[1]), body


def state(server: Any) -> tuple[Any, ...]:
    """All that a request could have changed, once the state file has it."""
    while server.store._held:
        time.sleep(0.05)
    with sqlite3.connect(server.folder / "state.db") as db:
        tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {t: db.execute(f"SELECT * FROM {t}").fetchall() for t in tables}
    db.close()
    streams = {n: (s.position, s.blocked, dict(s.tally), repr(s.states)) for n, s in server.streams.open.items()}
    return rows, streams, server.model.asked, server.gate.metrics.rows, server.gate.bodies.buffered


@pytest.mark.parametrize("case", WIRE)
def test_it_is_a_4xx_with_one_sentence_and_changes_nothing(case: str, server: Any) -> None:
    before, start = state(server), time.monotonic()
    status, body = asked(server.url, WIRE[case])
    assert 400 <= status < 500 or (status == 501 and "transfer" in case), (status, body)
    tree = json.loads(body) if body[:1] == b"{" else body.decode()
    sentence = tree.get("error", tree.get("message")) if isinstance(tree, dict) else tree
    assert sentence.endswith("."), body
    assert len(sentence) < 250
    assert state(server) == before
    assert time.monotonic() - start < 3
    while server.gate.in_flight:  # a body that is no HTTP is refused below the gate, which hears of it a moment later
        assert time.monotonic() - start < 3
        time.sleep(0.01)
    assert asked(server.url, http(b"", "/v2/health/live", "GET"))[0] == 200


ADMIN = {
    "a form of bytes": ("POST", "/act", b"\xff\xfe=%ff", {}),
    "a long form": ("POST", "/act", b"deed=block&name=bob&x=" + b"y" * 10_000, {}),
    "a deed of its own": ("POST", "/act", b"deed=delete&name=bob", {}),
    "a name of 10 kB": ("POST", "/act", b"deed=block&name=" + b"b" * 3_000, {}),
    "no name": ("POST", "/act", b"deed=block", {}),
    "a form from elsewhere": ("POST", "/act", b"deed=block&name=bob", {"origin": "http://elsewhere.example"}),
    "a wrong token": ("POST", "/login", b"token=%00%ff", {}),
    "no token": ("POST", "/login", b"", {}),
    "a path upwards": ("GET", "/../settings.py", b"", {}),
    "a path upwards in escapes": ("GET", "/%2e%2e%2fsettings.py", b"", {}),
    "a file of the gate's": ("GET", "/page.html", b"", {}),
    "nobody's page": ("GET", "/client?name=%ff%00<script>", b"", {}),
    "a deed by GET": ("GET", "/act?deed=block&name=bob", b"", {}),
    "a long head": ("GET", "/" + "a" * 70_000, b"", {}),
}


@pytest.mark.parametrize("case", ADMIN)
def test_on_the_operators_port_too_it_is_a_4xx_and_changes_nothing(case: str, server: Any) -> None:
    method, path, body, headers = ADMIN[case]
    before = state(server)
    given = {**headers, "authorization": f"Bearer {server.admin.state.token}"}
    status, text = asked(server.admin_url, http(body, path, method, given, {}))
    assert 400 <= status < 500, (status, text)
    assert b"Traceback" not in text
    assert b"<script>" not in text.replace(b'<script src="/live.js" defer></script>', b"")
    assert state(server) == before


def test_more_connections_than_allowed_are_told_to_come_back_and_those_that_say_nothing_go(server: Any) -> None:
    parts = urlsplit(server.url)
    silent = [socket.create_connection((parts.hostname, parts.port), timeout=5) for _ in range(30)]
    time.sleep(0.1)
    assert asked(server.url, b"")[0] == 503
    for s in silent:
        assert s.recv(100).startswith(b"HTTP/1.1 408")
        s.close()
    assert asked(server.url, http(b"", "/v2/health/live", "GET"))[0] == 200


def test_the_rest_of_a_refused_body_cannot_trickle_in_for_ever(server: Any) -> None:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as s:
        s.sendall(http(b"", headers={"content-length": "4000"}, key={}))
        assert s.recv(1_000).startswith(b"HTTP/1.1 401")
        sent = 0
        with contextlib.suppress(OSError):
            for sent in range(200):  # noqa: B007
                s.sendall(b" ")
                time.sleep(0.02)
    assert sent < 100  # a second; four were tried


N = 1 << 20  # bytes of each body below
FLOODS = {
    "a long text among numbers": ("v2", v2(b'[1,"' + b"a" * (N // 2) + b'"' + b",1" * (N // 4) + b"]")),
    "a long text among rows": ("v1", b'{"instances":[["' + b"a" * (N // 2) + b'"' + b',"1"' * (N // 8) + b"]]}"),
    "many keys": ("v2", b"{" + b",".join(b'"%d":1' % i for i in range(N // 10)) + b',"9999":1}'),
    "many equal keys": ("v2", b'{"\\n":[' + b",".join([b'{"a":1,"a":1}'] * (N // 14)) + b"]}"),
    "empty lists": ("v2", v2(b"[" + b",".join([b"[]"] * (N // 3)) + b"]")),
    "lists of one": ("v1", b'{"instances":[' + b",".join([b"[1]"] * (N // 4)) + b"]}"),
    "objects": ("invocations", b'{"inputs":[' + b",".join([b"{}"] * (N // 3)) + b"]}"),
    "records": ("invocations", b'{"dataframe_records":[' + b",".join([b"{}"] * (N // 3)) + b"]}"),
    "numbers": ("mapping", b'{"inputs":[' + b",".join([b"1"] * (N // 2)) + b",true]}"),
    "commas": ("csv", b"," * N),
    "lines": ("csv", b"\n" * N),
    "values": ("csv", b"1," * (N // 2)),
    "rows": ("csv", b"1,1,1,1\n" * (N // 8)),
    "digits": ("csv", b"1" * N),
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_megabyte_of_anything_is_refused_in_a_moment_and_in_little_memory(case: str) -> None:
    name, body = FLOODS[case]
    headers = {"content-type": "text/csv"} if name == "csv" else {}
    wire = CATALOG.load("invocations" if name == "csv" else name)()
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(BadRequest):
            wire.read(ModelSpec(name="m", interface=Interface(input_shape=(4,), n_classes=3)), headers, body)
        took, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < 3  # a quarter of a second without the tracing
    assert peak < 100 * N


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/octet-stream", ""],
)  # fmt: skip
def test_honest_content_types_are_taken_and_what_curl_says_by_itself(kind: str) -> None:
    served = ModelSpec(name="m", interface=Interface(input_shape=(4,), n_classes=3))
    headers = {"content-type": kind or "application/x-www-form-urlencoded"}
    for name in ("v2", "v1", "mapping"):
        wire = CATALOG.load(name)()
        body = wire.ask(served, np.zeros((1, 4))).body
        assert wire.read(served, headers, body).x.shape == wire.read(served, {}, body).x.shape == (1, 4)
