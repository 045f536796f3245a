"""Wire protocols: what is read, what is refused, and that both halves fit together."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.harness import NUMERIC

from portcullis_ml.core.errors import ParameterError, Unreachable
from portcullis_ml.core.types import Answer, Feature, Interface
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.strict import BadRequest, loads, no_booleans, numbers
from portcullis_ml.gateway.protocols.v2 import OpenInference
from portcullis_ml.gateway.protocols.v2_question import LENGTH
from portcullis_ml.gateway.protocols.wire import DTYPES, Inquiry, ModelSpec

INTERFACE = Interface(input_shape=(4,), n_classes=3, bounds=(-3, 3))
SERVED = ModelSpec(name="m", interface=INTERFACE, max_rows=8)
X = np.array([[0.1, -2.5, 1 / 3, 1e-12], [1.0, 0.0, -0.0, 2.0]])
ANSWER = Answer(np.array([2, 0]), np.array([[0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3]]))
PATHS = {"v2": "/v2/models/m/infer", "v1": "/v1/models/m:predict", "invocations": "/invocations", "mapping": "/predict",
         "grpc": "/inference.GRPCInferenceService/ModelInfer/models/m"}  # fmt: skip


def wire(name: str) -> Any:
    return CATALOG.load(name)()


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("binary", [False, True])
def test_a_question_and_its_answer_cross_the_wire_unchanged(name: str, binary: bool) -> None:
    served = ModelSpec(name="m", interface=INTERFACE, binary=binary, max_rows=8)
    w = wire(name)
    ask = w.ask(served, X)
    assert ask.path == PATHS[name]
    assert w.route("CALL" if name == "grpc" else "POST", ask.path, served) == "infer"
    inquiry = w.read(served, ask.headers, ask.body)
    np.testing.assert_array_equal(inquiry.x, X)
    reply = w.write(served, inquiry, ANSWER)
    back = w.understand(served, 2, dict(reply.headers), reply.body)
    np.testing.assert_array_equal(back.labels, ANSWER.labels)
    np.testing.assert_array_equal(back.scores, ANSWER.scores)


@pytest.mark.parametrize("binary", [False, True])
def test_withheld_scores_and_rows_cross_the_v2_wire_as_they_are(binary: bool) -> None:
    partly = Answer(np.array([2, -1, 1]), np.array([[np.nan, np.nan, 0.7], [np.nan] * 3, [np.nan] * 3]))
    served = ModelSpec(name="m", interface=INTERFACE, binary=binary)
    w = OpenInference()
    inquiry = w.read(served, w.ask(served, X).headers, w.ask(served, X).body)
    reply = w.write(served, inquiry, partly)
    back = w.understand(served, 3, dict(reply.headers), reply.body)
    np.testing.assert_array_equal(back.labels, partly.labels)
    np.testing.assert_array_equal(back.scores, partly.scores)


def test_a_policy_may_write_withheld_scores_as_one_hot_so_that_clients_keep_working() -> None:
    served = ModelSpec(name="m", interface=INTERFACE, withheld="one_hot")
    partly = Answer(np.array([2, -1]), np.full((2, 3), np.nan))
    tree = orjson.loads(OpenInference().write(served, Inquiry(X), partly).body)
    assert tree["outputs"][1]["data"] == [0, 0, 1, None, None, None]
    labels_only = Answer(np.array([1, 0]))
    tree = orjson.loads(OpenInference().write(served, Inquiry(X), labels_only).body)
    assert tree["outputs"][1]["data"] == [0, 1, 0, 1, 0, 0]


def test_the_older_protocols_write_a_known_class_without_scores_as_one_hot() -> None:
    partly = Answer(np.array([2, -1]), np.full((2, 3), np.nan))
    for name in ("v1", "invocations"):
        tree = orjson.loads(wire(name).write(SERVED, Inquiry(X), partly).body)
        assert tree["predictions"] == [[0, 0, 1], [None, None, None]]
        assert orjson.loads(wire(name).write(SERVED, Inquiry(X), Answer(np.array([2, 0]))).body)["predictions"] == [
            2,
            0,
        ]


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_is_brought_to_what_the_model_reads_before_it_is_inspected(datatype: str) -> None:
    served = ModelSpec(name="m", interface=INTERFACE, datatype=datatype, binary=True)
    whole = np.array([[0.0, 1.0, 1.0, 0.0]])
    w = OpenInference()
    for binary in (False, True):
        ask = w.ask(ModelSpec(name="m", interface=INTERFACE, datatype=datatype, binary=binary), whole)
        np.testing.assert_array_equal(w.read(served, ask.headers, ask.body).x, whole)


def test_a_32_bit_model_is_asked_exactly_what_the_guard_saw() -> None:
    served = ModelSpec(name="m", interface=INTERFACE, datatype="FP32")
    w = OpenInference()
    ask = w.ask(SERVED, X)  # in 64 bits
    seen = w.read(served, ask.headers, ask.body).x
    np.testing.assert_array_equal(seen, X.astype(np.float32).astype(float))
    again = w.read(served, w.ask(served, seen).headers, w.ask(served, seen).body).x
    np.testing.assert_array_equal(again, seen)


def body(**changes: Any) -> bytes:
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP64", "data": [0.1, 0.2, 0.3, 0.4]}
    tree = {"inputs": [{**tensor, **changes.pop("tensor", {})}], **changes}
    return json.dumps(tree).encode()


def raw(tail: bytes, size: Any = None, **tensor: Any) -> tuple[dict[str, str], bytes]:
    size = len(tail) if size is None else size
    tree = {"name": "input", "shape": [1, 4], "datatype": "FP64", "parameters": {"binary_data_size": size}, **tensor}
    header = json.dumps({"inputs": [tree]}).encode()
    return {LENGTH: str(len(header))}, header + tail


BAD = {
    "not JSON": (b"{", "valid JSON"),
    "empty": (b"", "valid JSON"),
    "a list": (b"[1]", "must be a JSON object; got a list"),
    "NaN": (body().replace(b"0.1", b"NaN"), "valid JSON"),
    "too large a number": (body(tensor={"data": [1e300, 1, 1, 1], "datatype": "FP32"}), "finite"),
    "infinity": (body().replace(b"0.1", b"1e999"), "valid JSON|finite"),
    "strings": (body(tensor={"data": ["0.1", 0.2, 0.3, 0.4]}), "numbers only"),
    "null": (body(tensor={"data": [None, 0.2, 0.3, 0.4]}), "numbers only"),
    "true": (body(tensor={"data": [True, 0.2, 0.3, 0.4]}), "numbers only"),
    "objects": (body(tensor={"data": [{"a": 1}]}), "numbers only"),
    "ragged": (body(tensor={"data": [[1, 2], [3]]}), "equal length"),
    "nothing": (body(tensor={"data": []}), "at least one number"),
    "wrong width": (body(tensor={"shape": [1, 3], "data": [1, 2, 3]}), r"shape \(n, 4\); got \(1, 3\)"),
    "wrong count": (body(tensor={"data": [1, 2, 3]}), "as its shape says; got 3"),
    "a huge shape": (body(tensor={"shape": [10**9, 4]}), "as its shape says"),
    "a huger shape": (body(tensor={"shape": [10**18] * 30}), "as its shape says"),
    "a shape of words": (body(tensor={"shape": ["1", 4]}), "positive integers"),
    "a negative shape": (body(tensor={"shape": [-1, -4]}), "positive integers"),
    "no shape": (body(tensor={"shape": None}), '"shape" must be a list'),
    "another input": (body(tensor={"name": "x"}), "one input named 'input'"),
    "two inputs": (b'{"inputs":[{},{}]}', '"inputs" must be a list of 1 to 1'),
    "no inputs": (b"{}", '"inputs" must be a list'),
    "a strange datatype": (body(tensor={"datatype": "BYTES"}), '"datatype" must be one of'),
    "a strange key": (body(more=1), "'more', which is not allowed"),
    "shared memory": (body(tensor={"parameters": {"shared_memory_region": "r"}}), "'shared_memory_region'"),
    "classification": (
        body(outputs=[{"name": "probabilities", "parameters": {"classification": 3}}]),
        "'classification'",
    ),
    "a sequence": (body(parameters={"sequence_id": 1}), "'sequence_id'"),
    "another output": (body(outputs=[{"name": "logits"}]), "outputs are 'label' and 'probabilities'"),
    "a long id": (body(id="x" * 200), '"id" must be text'),
    "too many rows": (body(tensor={"shape": [9, 4], "data": [0.0] * 36}), "1 to 8 rows; got 9"),
    "deep": (b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}", "nested at most|must be an object"),
    "deeper": (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "valid JSON|more lists"),
    "deep data": (body(tensor={"data": 0}).replace(b": 0}", b": " + b"[" * 40 + b"1" + b"]" * 40 + b"}"), "deep|equal"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_v2_body_is_refused_in_one_sentence(case: str) -> None:
    text, sentence = BAD[case]
    with pytest.raises(BadRequest, match=sentence) as refused:
        OpenInference().read(SERVED, {}, text)
    assert 400 <= refused.value.status < 500
    assert refused.value.sentence.endswith(".")
    assert len(refused.value.sentence) < 200


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        raw(b"\0" * 31, 32),
        raw(b"\0" * 32, 31),
        raw(b"\0" * 32, "32"),
        raw(b"\0" * 40),
        raw(b"\0" * 32, data=[1, 2, 3, 4]),
        raw(np.full(4, np.nan).tobytes()),
        raw(np.full(4, np.inf).tobytes()),
        ({LENGTH: "0"}, body()),
        ({LENGTH: "-1"}, body()),
        ({LENGTH: "9" * 400}, body()),
        ({LENGTH: "\u0661"}, body()),
        ({LENGTH: str(len(body()) + 1)}, body()),
        ({LENGTH: str(len(body()))}, body() + b"trailing"),
    ],
)
def test_a_bad_binary_body_is_refused(headers: dict[str, str], text: bytes) -> None:
    with pytest.raises(BadRequest):
        OpenInference().read(SERVED, headers, text)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("v1", b'{"instances":[[1,2,3]]}', "shape"),
        ("v1", b'{"instances":[[1,2,3,4]],"inputs":[[1,2,3,4]]}', "one of"),
        ("v1", b'{"instances":[{"other":[1,2,3,4]}]}', "'other'"),
        ("v1", b'{"instances":[{"b64":"AAAA"}]}', "'b64'"),
        ("v1", b'{"signature_name":"x","instances":[[1,2,3,4]]}', "signature_name"),
        ("v1", b'{"instances":[["1",2,3,4]]}', "numbers only"),
        ("v1", b'{"instances":[[true,2,3,4]]}', "numbers only"),
        ("v1", b'{"instances":null}', "one of"),
        ("invocations", b'{"inputs":[[1,2,3,4]],"instances":[[1,2,3,4]]}', "exactly one"),
        ("invocations", b'{"dataframe_records":[{"a":1}]}', "no names"),
        ("invocations", b'{"inputs":[[1,2,3,4]],"params":{"temperature":1}}', "'params'"),
        ("mapping", b'{"inputs":[[1,2,3,4]],"debug":1}', "'debug'"),
        ("mapping", b'{"inputs":[[1,2,3]]}', "shape"),
    ],
)
def test_the_other_protocols_refuse_bad_bodies_too(name: str, text: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        wire(name).read(SERVED, {}, text)


@pytest.mark.parametrize(
    "spelled",
    [b'{"instances":[[1,2,3,4]]}', b'{"inputs":[[1,2,3,4]]}', b'{"inputs":{"input":[[1,2,3,4]]}}',
     b'{"instances":[{"input":[1,2,3,4]}],"signature_name":"serving_default"}'],
)  # fmt: skip
def test_v1_reads_rows_and_columns(spelled: bytes) -> None:
    np.testing.assert_array_equal(wire("v1").read(SERVED, {}, spelled).x, [[1, 2, 3, 4]])


TABLE = Interface(
    input_shape=(2,), n_classes=2, features=(Feature("age", 0, 100), Feature("sex", values=("f", "m"))), missing=True
)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("application/json", b'{"dataframe_split":{"columns":["sex","age"],"data":[[1,30],[0,null]]}}'),
        ("application/json; charset=utf-8", b'{"dataframe_records":[{"age":30,"sex":1},{"age":null,"sex":0}]}'),
        ("application/json", b'{"inputs":[[30,1],[null,0]]}'),
        ("text/csv", b"sex,age\n1,30\n0,\n"),
        ("text/csv", b"30,1\r\n,0"),
    ],
)
def test_invocations_reads_a_table_in_every_spelling(kind: str, text: bytes) -> None:
    served = ModelSpec(name="m", interface=TABLE)
    x = wire("invocations").read(served, {"content-type": kind}, text).x
    np.testing.assert_array_equal(x, [[30, 1], [np.nan, 0]])


@pytest.mark.parametrize(
    ("kind", "text", "status"),
    [("text/csv", b"a,b\n1,2", 400), ("text/csv", b"1,x", 400), ("text/csv", b"", 400), ("text/csv", "é".encode(), 400),
     ("text/csv", b"1,2\n1", 400), ("text/csv", b"age,sex\n1_0,2", 400), ("text/csv", b"inf,1", 400),
     ("application/xml", b"<a/>", 415), ("text/csv", b"1,1\n" * 2000, 413)],
)  # fmt: skip
def test_invocations_refuses_bad_tables(kind: str, text: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        wire("invocations").read(ModelSpec(name="m", interface=TABLE), {"content-type": kind}, text)
    assert refused.value.status == status


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize(
    "path",
    ["/", "/v2/repository/index", "/v2/models/m/versions/9/infer", "/v2/models/other/infer", "/v2/models/m/generate",
     "/v2/systemsharedmemory/region/r/register", "/v2/models/m/infer/", "//v2/models/m/infer",
     "/v2/models/m/../m/infer",
     "/V2/models/m/infer", "/v2/models/m/infer\n", "/v1/models/m:regress", "/v2/models/m/trace/setting", "/predict/"],
)  # fmt: skip
def test_routes_that_are_not_on_the_list_are_nobodys(name: str, path: str) -> None:
    assert wire(name).route("POST", path, SERVED) is None


@pytest.mark.parametrize("name", NUMERIC)
def test_infer_is_for_posts_only(name: str) -> None:
    assert (wire(name).route("POST", PATHS[name], SERVED) is None) == (name == "grpc")
    assert wire(name).route("GET", PATHS[name], SERVED) is None
    assert wire(name).route("PUT", PATHS[name], SERVED) is None


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize(
    "text",
    [b"", b"x", b"{}", b"[]", b'{"outputs":[{"name":"probabilities"}]}', b'{"predictions":"x"}', b'{"scores":[1]}',
     b'{"outputs":[{"name":"label","datatype":"INT64","data":["a"]}]}'],
)  # fmt: skip
def test_an_upstream_that_answers_nonsense_is_unreachable(name: str, text: bytes) -> None:
    with pytest.raises(Unreachable):
        wire(name).understand(SERVED, 2, {}, text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["input", "FP64", "INT64", 4, [1, 4], [[0.1, 0.2, 0.3, 0.4]]]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["inputs", "name", "shape", "datatype", "data", "parameters", "outputs", "id", "instances",
                         "binary_data_size", "dataframe_split", "columns", "dataframe_records", "x"]),
        inner, max_size=6),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(tree=JSON, name=st.sampled_from(NUMERIC), tail=st.binary(max_size=8), cut=st.integers(0, 60))
def test_whatever_comes_is_read_or_refused(tree: Any, name: str, tail: bytes, cut: int) -> None:
    text = json.dumps(tree).encode() + tail
    for headers in ({}, {LENGTH: str(cut)}, {"content-type": "text/csv"}):
        try:
            x = wire(name).read(SERVED, headers, text).x
        except BadRequest:
            continue
        assert x.shape[1:] == (4,)
        assert np.isfinite(x).all()


@settings(max_examples=200, deadline=None)
@given(text=st.binary(max_size=80))
def test_bytes_are_read_or_refused(text: bytes) -> None:
    for name in NUMERIC:
        with pytest.raises(BadRequest):
            wire(name).read(SERVED, {}, text)


KEYED = st.recursive(
    st.integers(0, 3) | st.text(alphabet='ab":{}\\,', max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.sampled_from(["a", "b", 'a"', "a:", "\\"]), inner), max_size=4)
    ),
    max_leaves=12,
)


def written(tree: Any) -> str:
    if isinstance(tree, list) and tree and all(isinstance(t, tuple) for t in tree):
        return "{" + ",".join(f"{json.dumps(k)}:{written(v)}" for k, v in tree) + "}"
    return "[" + ",".join(map(written, tree)) + "]" if isinstance(tree, list) else json.dumps(tree)


@settings(max_examples=250, deadline=None)
@given(tree=KEYED)
def test_of_equal_keys_the_last_one_holds(tree: Any) -> None:
    text = ('{"top":' + written(tree) + "}").encode()
    assert loads(text) == json.loads(text)


def test_a_mapping_reads_and_writes_where_it_is_told() -> None:
    options = {"path": "/score", "rows": "$.data.rows", "scores": "$.result.p", "labels": "$.result.y"}
    served = ModelSpec(name="m", interface=INTERFACE, options=options)
    w = wire("mapping")
    ask = w.ask(served, X)
    assert (ask.path, orjson.loads(ask.body)) == ("/score", {"data": {"rows": X.tolist()}})
    reply = orjson.loads(w.write(served, w.read(served, {}, ask.body), ANSWER).body)
    assert reply == {"result": {"p": ANSWER.scores.tolist(), "y": [2, 0]}}  # type: ignore[union-attr]
    with pytest.raises(ParameterError, match="written"):
        w.ask(ModelSpec(name="m", interface=INTERFACE, options={"rows": "data.rows"}), X)


PARAMETERS = {
    "priority": 3,
    "timeout": 1_000_000,
    "headers": {"a": 1},
    "content_type": "np",
    "binary_data_output": None,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"outputs": None},
        {"outputs": []},
        {"parameters": None},
        {"parameters": {}},
        {"parameters": PARAMETERS},
        {"tensor": {"parameters": None}},
        {"tensor": {"parameters": {**PARAMETERS, "binary_data_size": None}}},
        {"outputs": [{"name": "label", "parameters": None}, {"name": "probabilities", "parameters": PARAMETERS}]},
    ],
    ids=str,
)
def test_what_v2_leaves_open_may_be_null_and_what_the_gate_does_not_know_is_read_past(changes: Any) -> None:
    w = OpenInference()
    inquiry = w.read(SERVED, {}, body(**changes))
    np.testing.assert_array_equal(inquiry.x, [[0.1, 0.2, 0.3, 0.4]])
    tree = orjson.loads(w.write(SERVED, inquiry, Answer(np.array([2]), np.array([[0.1, 0.2, 0.7]]))).body)
    assert [o["name"] for o in tree["outputs"]] == ["label", "probabilities"]
    assert "id" not in tree


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v1", b'{"instances":[[1,2,3,4]],"signature_name":null,"inputs":null}'),
        ("v1", b'{"inputs":[[1,2,3,4]],"instances":null}'),
        ("invocations", b'{"inputs":[[1,2,3,4]],"params":null,"dataframe_split":null}'),
        ("invocations", b'{"dataframe_split":{"data":[[1,2,3,4]],"columns":null,"index":null}}'),
    ],
)
def test_what_other_protocols_leave_open_may_be_null_too(name: str, text: bytes) -> None:
    np.testing.assert_array_equal(wire(name).read(SERVED, {}, text).x, [[1, 2, 3, 4]])


@pytest.mark.parametrize("id", ["", "x" * 128, "für-7 \u2713", "7"])
def test_an_id_comes_back_as_it_was(id: str) -> None:
    w = OpenInference()
    reply = w.write(SERVED, w.read(SERVED, {}, body(id=id)), Answer(np.array([2])))
    assert orjson.loads(reply.body)["id"] == id


@pytest.mark.parametrize("id", [7, 7.5, True, ["7"], {"a": 1}, "x" * 129, "a\nb"], ids=str)
def test_an_id_that_is_no_text_is_refused(id: Any) -> None:
    with pytest.raises(BadRequest, match='"id" must be text'):
        OpenInference().read(SERVED, {}, body(id=id))


def test_data_is_nested_as_its_shape_says_or_flat() -> None:
    x = np.arange(8.0).reshape(2, 4)
    for data in (x, x.ravel()):
        asked = body(tensor={"shape": [2, 4], "data": data.tolist()})
        np.testing.assert_array_equal(OpenInference().read(SERVED, {}, asked).x, x)
    for data in (x.T, x.reshape(2, 2, 2)):
        with pytest.raises(BadRequest, match="nested as its shape says"):
            OpenInference().read(SERVED, {}, body(tensor={"shape": [2, 4], "data": data.tolist()}))


def test_health_and_metadata_come_from_the_gate_itself() -> None:
    w = OpenInference()
    tree = orjson.loads(w.tell(SERVED, "model").body)
    assert tree["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}]
    assert [o["name"] for o in tree["outputs"]] == ["label", "probabilities"]
    assert orjson.loads(w.tell(SERVED, "server").body)["extensions"] == ["binary_tensor_data"]
    for path, what in {"/v2": "server", "/v2/health/live": "live", "/v2/health/ready": "ready",
                       "/v2/models/m": "model", "/v2/models/m/ready": "model_ready"}.items():  # fmt: skip
        assert w.route("GET", path, SERVED) == what


def test_a_client_gets_the_outputs_that_it_named_and_its_id() -> None:
    w = OpenInference()
    asked = body(outputs=[{"name": "label"}], id="q7")
    tree = orjson.loads(
        w.write(SERVED, w.read(SERVED, {}, asked), Answer(np.array([2]), np.array([[0.1, 0.2, 0.7]]))).body
    )
    assert (tree["id"], [o["name"] for o in tree["outputs"]]) == ("q7", ["label"])


@pytest.mark.parametrize(
    "data",
    [[0.5, 1, -0.0], [1, 2.5, 3], [2**63, 2**64 - 1, -1, 0.1], [0, 1, 2], [[0.5, 1], [2, 3]], [5e-324, 1.7e308]],
)  # fmt: skip
def test_numbers_are_read_as_numpy_reads_them(data: list[Any]) -> None:
    found = numbers(data, "x")
    slow = np.array(data, dtype=np.float64)
    assert found.shape == slow.shape
    assert found.tobytes() == slow.tobytes()


@pytest.mark.parametrize("data", [[0.5, "1"], [1, None], [0.5, [1]], [0.5, {}], ["0.5"], [], 0.5, None, [[1], [1, 2]]])
def test_what_is_no_list_of_numbers_is_refused(data: Any) -> None:
    with pytest.raises(BadRequest):
        numbers(data, "x")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (b'{"data": [0.5, true], "name": "x"}', True),
        (b'{"name": "x", "data": [0.5, false]}', True),
        (b'{"true": 1, "data": [0.5, 1]}', False),
        (b'{"data": [0.5, 1], "name": "ul"}', False),
        (b'{"data": [[true, false]]}', True),
    ],
)
def test_booleans_among_numbers_are_found_wherever_the_list_stands(text: bytes, refused: bool) -> None:
    data = orjson.loads(text)["data"]
    with pytest.raises(BadRequest, match="numbers only") if refused else nullcontext():
        no_booleans(text, data, "x")
