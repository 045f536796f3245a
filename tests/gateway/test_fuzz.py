"""Fuzzing of everything that reads strangers' bytes: it understands them, or refuses them in its own words."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.harness import NUMERIC

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Feature, Interface
from portcullis_ml.gateway.policy.clients import ApiKey, Clients, Named, Token, hashed
from portcullis_ml.gateway.policy.principals import Caller, Forwarded, Principals
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.parts import Part
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.v2_question import LENGTH
from portcullis_ml.gateway.protocols.wire import DTYPES, Inquiry, ModelSpec
from portcullis_ml.gateway.upstream import checked

PLAIN = Interface(input_shape=(4,), n_classes=3, bounds=(-3, 3))
IMAGE = Interface(input_shape=(2, 2), n_classes=3)
NAMED = Interface(
    input_shape=(2,), n_classes=3, features=(Feature("age", 0, 9), Feature("sex", values=("f", "m"))), missing=True
)
COLUMNS = (Feature("age", 0, 9), Feature("sex", 0, 1))
TABLE = Interface(input_shape=(2,), n_classes=0, task="regression", missing=True, features=COLUMNS)
PARTS = (Part("age"), Part("kids", (), "INT64"), Part("city", (), "BYTES", ("Bern", 'Z"rich, [x]')))
PEOPLE = tuple(Feature(p.name, 0, 9, p.words) for p in PARTS)
PICTURED = (Part("image", (2, 2), "FP32"), Part("meta", (3,)))
N = int(os.environ.get("PORTCULLIS_FUZZ", "250"))  # examples of each; many thousands make a hunt
SERVED = {
    "plain": ModelSpec(name="m", interface=PLAIN, max_rows=8),
    "single": ModelSpec(name="m", interface=PLAIN, max_rows=8, datatype="FP32"),
    "half": ModelSpec(name="m", interface=PLAIN, max_rows=8, datatype="FP16"),
    "whole": ModelSpec(name="m", interface=PLAIN, max_rows=8, datatype="INT8"),
    "bits": ModelSpec(name="m", interface=PLAIN, max_rows=8, datatype="BOOL"),
    "image": ModelSpec(name="m", interface=IMAGE, max_rows=8),
    "table": ModelSpec(name="m", interface=TABLE, max_rows=8, label=None, scores="value"),
    "columns": ModelSpec(
        name="m",
        interface=Interface(input_shape=(3,), n_classes=3, features=PEOPLE),
        max_rows=8,
        parts=PARTS,
        several=True,
    ),
    "gaps": ModelSpec(
        name="m",
        interface=Interface(input_shape=(2,), n_classes=3, features=PEOPLE[::2], missing=True),
        max_rows=8,
        parts=PARTS[::2],
        several=True,
    ),
    "embedding": ModelSpec(
        name="m",
        interface=Interface(input_shape=(4,), task="regression", outputs=3),
        max_rows=8,
        label=None,
        scores="embedding",
    ),
    "inputs": ModelSpec(
        name="m", interface=Interface(input_shape=(7,), n_classes=3), max_rows=8, parts=PICTURED, several=True
    ),
    "flat": ModelSpec(
        name="m", interface=PLAIN, max_rows=1,
        options={"rows": "$.features", "batch": False, "scores": "$.p", "scores_as": "object", "labels": "$.y",
                 "extras": ["$.lang", "$.options.top"]},
    ),
    "by name": ModelSpec(
        name="m", interface=NAMED, max_rows=8,
        options={"rows": "$", "rows_as": "object", "scores": "$.all[*].p", "scores_as": "top", "labels": "$.all[*].y"},
    ),
}  # fmt: skip
TOKENS = [
    b"null", b"true", b"-0.0", b"1e999", b"NaN", b"18446744073709551616", b'"x"', b"[]", b"{}", b"[[1]]", b",", b":",
    b'"',
    b"\\", b"\\u0000", b"\\ud800", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r\n", b'"shape"', b'"data"', b"1,2", b"inf",
    b'"Bern"', b'"BYTES"', b'"city"',
    b'"parameters":{"binary_data":true},', b'"binary_data_size":32', b"nan", b"_", b"1e-400", b"0x1",
]  # fmt: skip


def valid(served: ModelSpec) -> list[tuple[str, dict[str, str], bytes]]:
    """(protocol, headers, body) of honest questions, in every spelling."""
    import dataclasses

    x = np.tile([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]], 2)[:, : int(np.prod(served.interface.input_shape))]
    x = x.reshape(2, *served.interface.input_shape)[: served.max_rows]
    found = []
    for name in NUMERIC:
        for binary in (False, True):
            ask = CATALOG.load(name)().ask(dataclasses.replace(served, binary=binary), x)
            found.append((name, dict(ask.headers), ask.body))
    rows = x.tolist()
    for tree in ({"instances": rows}, {"dataframe_split": {"columns": ["sex", "age"], "data": rows}},
                 {"dataframe_records": [{"age": 1, "sex": None}]}):  # fmt: skip
        found.append(("invocations", {}, json.dumps(tree).encode()))
    found.append(("invocations", {"content-type": "text/csv"}, b"age,sex\n1,0\n,1\n"))
    found += [("v1", {}, json.dumps({"inputs": {"input": rows}, "signature_name": ""}).encode())]
    flags = {"binary_data_output": True, "content_type": "np"}
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP64", "data": rows, "parameters": {}}
    tree = {"id": "q", "parameters": flags, "inputs": [tensor], "outputs": [{"name": "label", "parameters": None}]}
    found.append(("v2", {}, json.dumps(tree).encode()))
    if served.several:
        columns = json.dumps({"inputs": {p.name: x[:, :1].tolist() for p in served.parts}}).encode()
        found += [("v1", {}, columns), ("invocations", {}, columns)]
        found.append(("invocations", {"content-type": "text/csv"}, b"city,age\nBern,37\n"))
    return found


VALID = {name: valid(served) for name, served in SERVED.items()}


@st.composite
def mutated(draw: Any, body: bytes) -> bytes:
    """A body after a few accidents: bytes put in, taken out, changed, moved and said twice."""
    for _ in range(draw(st.integers(0, 4))):
        i, j = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
        how = draw(st.integers(0, 4))
        piece = body[i:j]
        if how == 0:
            body = body[:i] + draw(st.sampled_from(TOKENS)) + body[i:]
        elif how == 1:
            body = body[:i] + draw(st.sampled_from(TOKENS)) + body[j:]
        elif how == 2:
            body = body[:i] + body[min(j, i + 9) :]
        elif how == 3:
            body = body[:j] + piece + body[j:]
        else:
            body = body[:i] + draw(st.binary(min_size=1, max_size=3)) + body[i + 1 :]
    return body


def attempt(do: Callable[..., Any], *values: Any) -> Any:
    """What comes of it, or the gate's own refusal; any other exception is a mistake of ours."""
    try:
        return do(*values)
    except (BadRequest, Unreachable) as refusal:
        return refusal


def understood(name: str, served: ModelSpec, headers: dict[str, str], body: bytes) -> Inquiry | None:
    """What the protocol reads, after a look at it; None where it refuses."""
    wire = CATALOG.load(name)()
    inquiry = attempt(wire.read, served, headers, body)
    if isinstance(inquiry, BadRequest):
        assert 400 <= inquiry.status < 500
        assert inquiry.sentence.endswith(".")
        assert len(inquiry.sentence) < 250
        said = wire.refuse(inquiry.status, inquiry.sentence).body
        assert said.decode() == inquiry.sentence if name == "grpc" else json.loads(said)
        return None
    x = inquiry.x
    assert x.dtype == (np.float32 if served.datatype == "FP32" else np.float64)
    assert x.shape[1:] == served.interface.input_shape
    assert 1 <= len(x) <= served.max_rows
    assert np.isfinite(x).all() or (served.interface.missing and not np.isinf(x).any())
    return cast(Inquiry, inquiry)


@pytest.mark.parametrize("kind", SERVED)
def test_honest_bodies_are_understood(kind: str) -> None:
    read = [understood(name, SERVED[kind], headers, body) is not None for name, headers, body in VALID[kind]]
    assert sum(read) >= 8 - (kind == "flat")  # a table of two rows is too long there


@settings(max_examples=N, deadline=2_000)
@given(data=st.data(), kind=st.sampled_from(sorted(SERVED)))
def test_a_body_after_an_accident_is_read_or_refused_and_what_is_read_is_what_is_asked(data: Any, kind: str) -> None:
    served = SERVED[kind]
    name, headers, body = data.draw(st.sampled_from(VALID[kind]))
    if LENGTH in headers and data.draw(st.booleans()):
        headers = {**headers, LENGTH: data.draw(st.sampled_from(["0", "1", "99", "1e2", "", " 10", str(len(body))]))}
    body = data.draw(mutated(body))
    inquiry = understood(data.draw(st.sampled_from([name, name, name, *NUMERIC])), served, headers, body)
    if inquiry is None:
        return
    for far in NUMERIC:  # whatever the upstream speaks, it is asked exactly what was inspected
        ask = attempt(CATALOG.load(far)().ask, served, inquiry.x, inquiry.carried)
        if isinstance(ask, BadRequest):  # a number that is no category has no word
            assert (far, kind) == ("mapping", "by name")
            continue
        again = understood(far, served, dict(ask.headers), ask.body)
        assert again is not None
        np.testing.assert_array_equal(again.x, inquiry.x)
        assert again.carried == inquiry.carried or far != "mapping"
    n, classes = len(inquiry.x), served.interface.n_classes
    answer = Answer(np.zeros(n, int) if classes else None, np.full((n, served.interface.columns), 0.5))
    assert CATALOG.load(name)().write(served, inquiry, answer).status == 200


@settings(max_examples=N, deadline=2_000)
@given(
    data=st.data(),
    tensor=st.sampled_from(sorted(DTYPES)),
    raw=st.binary(max_size=80),
    kind=st.sampled_from(sorted(SERVED)),
)
def test_raw_tensors_of_any_bytes_are_read_or_refused(data: Any, tensor: str, raw: bytes, kind: str) -> None:
    size = data.draw(st.sampled_from([len(raw), len(raw), 0, -1, 2**70, 1.5, "8", None, True]))
    rows = data.draw(st.integers(0, 3))
    tree = {"name": "input", "shape": [rows, *SERVED[kind].interface.input_shape], "datatype": tensor,
            "parameters": {"binary_data_size": size}}  # fmt: skip
    header = json.dumps({"inputs": [tree]}).encode()
    inquiry = understood("v2", SERVED[kind], {LENGTH: str(len(header))}, header + raw)
    if inquiry is not None:
        assert size == len(raw) == inquiry.x.size * np.dtype(DTYPES[tensor]).itemsize


@settings(max_examples=N, deadline=2_000)
@given(
    age=st.binary(max_size=24),
    city=st.lists(st.sampled_from([b"Bern", b'Z"rich, [x]', b"Rome", b"\xff", b""]), max_size=3),
    cut=st.integers(0, 6),
    rows=st.integers(1, 3),
    size=st.sampled_from([0, 0, 0, 1, -1, 2**70]),
)
def test_raw_words_beside_raw_numbers_are_read_or_refused(
    age: bytes, city: list[bytes], cut: int, rows: int, size: int
) -> None:
    words = b"".join(struct.pack("<I", len(w)) + w for w in city)
    words = words[: len(words) - cut] if cut > 3 else words
    kids = np.arange(rows, dtype="i1").tobytes()
    parts = [("city", "BYTES", words), ("age", "FP64", age), ("kids", "INT8", kids)]
    tensors = [{"name": n, "shape": [rows, 1], "datatype": d, "parameters": {"binary_data_size": len(raw) + size}}
               for n, d, raw in parts]  # fmt: skip
    header = json.dumps({"inputs": tensors}).encode()
    raw = b"".join(part for _, _, part in parts)
    inquiry = understood("v2", SERVED["columns"], {LENGTH: str(len(header))}, header + raw)
    if inquiry is not None:
        assert size == 0
        assert len(age) == 8 * rows
        assert [PARTS[2].words[int(c)].encode() for c in inquiry.x[:, 2]] == city


@settings(max_examples=N, deadline=2_000)
@given(
    method=st.sampled_from(["GET", "POST", "CALL"]),
    text=st.text(max_size=30),
    start=st.integers(0, 40),
    name=st.sampled_from(NUMERIC),
)
def test_a_path_is_on_the_list_letter_for_letter_or_nobodys(method: str, text: str, start: int, name: str) -> None:
    wire, served = CATALOG.load(name)(), SERVED["plain"]
    honest = wire.ask(served, np.zeros((1, 4))).path
    path = honest[:start] + text
    asked = "CALL" if name == "grpc" else "POST"
    assert (wire.route(method, path, served) == "infer") == (method == asked and path == honest)


WAYS = Clients(
    keys=(ApiKey(client="alice", sha256=hashed("k")),),
    named=(Named(header="x-client", trusted=("10.0.0.0/8",)),),
    anonymous="shared",
)


@settings(max_examples=N, deadline=2_000)
@given(
    headers=st.dictionaries(st.sampled_from(["x-client", "x-api-key", "authorization"]), st.text(max_size=200)),
    twice=st.sets(st.sampled_from(["x-client", "x-api-key"])),
    peer=st.sampled_from([None, "10.0.0.1", "11.0.0.1", "::1", "::ffff:10.0.0.1", "fe80::1%eth0"]),
)
def test_whoever_comes_has_a_name_or_is_refused(headers: dict[str, str], twice: set[str], peer: str | None) -> None:
    caller = attempt(WAYS.identify, headers, twice, peer, 0.0)
    if isinstance(caller, BadRequest):
        assert caller.status in (400, 401, 403)
    elif "x-client" in headers:
        assert (caller.account, peer) == (headers["x-client"].encode("latin-1").decode(), "10.0.0.1")
        assert 1 <= len(caller.account) <= 128
    else:
        assert caller.account in ("alice", "(anonymous)")


@settings(max_examples=N, deadline=2_000)
@given(
    text=st.text(max_size=60)
    | st.lists(st.sampled_from(["10.0.0.1", "::1", "1.2.3.4", "fe80::1%a", "x", " "])).map(",".join),
    peer=st.sampled_from([None, "10.0.0.1", "11.0.0.1", "::1", "::ffff:10.0.0.1", "fe80::1%eth0"]),
)
def test_wherever_a_request_came_from_it_has_a_network_or_is_refused(text: str, peer: str | None) -> None:
    way = Forwarded(trusted=("10.0.0.0/8",))
    address = attempt(way.origin, {"x-forwarded-for": text}, frozenset(), peer)
    if isinstance(address, BadRequest):
        assert address.status == (400 if peer == "10.0.0.1" else 403)
    else:
        assert peer == "10.0.0.1"
        links = Principals(principal=("address",), forwarded=way)
        assert links.owner(Caller("a"), {}, address).principal.startswith("net:")


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    path = tmp_path_factory.mktemp("token") / "key"
    path.write_text("s" * 32)
    return Token(key_file=str(path), algorithms=("HS256",))


CLAIM = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)


@settings(max_examples=N, deadline=2_000)
@given(
    claims=st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "iss"]), CLAIM),
    cut=st.binary(max_size=4),
)
def test_a_token_of_any_claims_names_a_client_or_is_refused(token: Token, claims: dict[str, Any], cut: bytes) -> None:
    import jwt

    text = jwt.api_jws.encode(json.dumps(claims).encode(), "s" * 32, "HS256") + cut.decode("latin-1")
    caller = attempt(token.caller, text)
    if isinstance(caller, BadRequest):
        assert caller.status in (400, 401)
    else:
        assert caller.account == str(claims["sub"])  # a number is one too


@pytest.mark.parametrize("part", [b"[" * 5_000 + b"]" * 5_000, b'{"alg":[]}', b'{"alg":"none"}', b"{}", b"1", b"\xff"])
def test_a_token_whose_head_is_no_head_is_refused(token: Token, part: bytes) -> None:
    from base64 import urlsafe_b64encode

    text = urlsafe_b64encode(part).decode().rstrip("=")
    for words in (f"{text}.e30.x", f"{text}.{text}.", f"eyJhbGciOiJIUzI1NiJ9.{text}.x", text):
        with pytest.raises(BadRequest):
            token.caller(words)


@settings(max_examples=N, deadline=2_000)
@given(data=st.data(), kind=st.sampled_from(["plain", "single", "table", "flat", "by name"]))
def test_a_model_servers_answer_is_an_answer_or_it_is_unreachable(data: Any, kind: str) -> None:
    served = SERVED[kind]
    name = data.draw(st.sampled_from(NUMERIC))
    wire = CATALOG.load(name)()
    n = min(2, served.max_rows)
    x = np.zeros((n, *served.interface.input_shape))
    binary = ("label", "probabilities") if data.draw(st.booleans()) else ()
    classes = served.interface.n_classes
    answer = Answer(np.arange(n) if classes else None, np.full((n, max(classes, 1)), 0.25))
    reply = wire.write(served, Inquiry(x, binary=binary), answer)
    headers = dict(reply.headers)
    if data.draw(st.booleans()):
        headers[LENGTH] = data.draw(st.sampled_from(["", "x", "-1", "0", "7", "9" * 30, "\u0661"]))
    body = data.draw(mutated(reply.body))
    found = attempt(wire.understand, served, n, headers, body)
    if isinstance(found, Answer):
        found = attempt(checked, found, n, served)
    assert isinstance(found, Unreachable) or len(found) == n
