"""Several inputs: a tensor for every column, or tensors of different shapes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.asgi import URL, Here
from tests.gateway.harness import KEYS, SECRET, alarms_of, gate, policy_of, running
from tests.gateway.test_openapi import fits

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, Unreachable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Feature, Interface
from portcullis_ml.extraction.tree_paths import TreePaths
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.parts import Part, parted
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.v2_metadata import differences
from portcullis_ml.gateway.protocols.v2_question import LENGTH
from portcullis_ml.gateway.protocols.wire import ModelSpec

CITIES = ("Bern", "Genève", "Basel")
PARTS = (Part("age"), Part("kids", (), "INT64"), Part("city", (), "BYTES", CITIES))
FEATURES = (Feature("age", 0, 99), Feature("kids", 0, 9), Feature("city", values=CITIES))
INTERFACE = Interface(input_shape=(3,), n_classes=2, features=FEATURES)
SERVED = ModelSpec(name="m", interface=INTERFACE, parts=PARTS, several=True, max_rows=4)
PICTURE = (Part("image", (2, 2), "FP32"), Part("meta", (3,)))
PICTURED = ModelSpec(name="m", interface=Interface(input_shape=(7,), n_classes=2), parts=PICTURE, several=True)
X = np.array([[37.5, 2.0, 0.0], [20.0, 0.0, 2.0]])
AGE = {"name": "age", "shape": [2, 1], "datatype": "FP64", "data": [37.5, 20]}
KIDS = {"name": "kids", "shape": [2], "datatype": "INT32", "data": [2, 0]}
CITY = {"name": "city", "shape": [2, 1], "datatype": "BYTES", "data": ["Bern", "Basel"]}
COLUMNS = {"age": [37.5, 20], "kids": [2, 0], "city": ["Bern", "Basel"]}
RECORDS = [{"age": 37.5, "kids": 2, "city": "Bern"}, {"city": "Basel", "kids": 0, "age": 20}]
MODEL = '[model]\nname = "m"\ninput_shape = [3]\nclasses = 2\ninputs = "columns"\nfeatures = [\n' + (
    '  { name = "age", low = 0.0, high = 99.0 },\n  { name = "kids", low = 0.0, high = 9.0, datatype = "INT64" },\n'
    '  { name = "city", values = ["Bern", "Genève", "Basel"] },\n]\n'
)


def read(protocol: str, tree: Any, served: ModelSpec = SERVED, headers: dict[str, str] | None = None) -> np.ndarray:
    body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return PROTOCOLS.load(protocol)().read(served, headers or {}, body).x


def sentence_of(protocol: str, tree: Any, served: ModelSpec = SERVED) -> str:
    with pytest.raises(BadRequest) as refused:
        read(protocol, tree, served)
    assert 400 <= refused.value.status < 500
    return refused.value.sentence


SPELLED = {
    "v2": ("v2", {"parameters": {"content_type": "pd"}, "inputs": [AGE, KIDS, CITY]}),
    "v2, another order": ("v2", {"inputs": [CITY, AGE, KIDS]}),
    "v2, nested": ("v2", {"inputs": [{**AGE, "data": [[37.5], [20]]}, KIDS, {**CITY, "data": [["Bern"], ["Basel"]]}]}),
    "v2, codes": ("v2", {"inputs": [AGE, KIDS, {**CITY, "datatype": "UINT8", "data": [0, 2]}]}),
    "v2, content types": ("v2", {"inputs": [AGE, KIDS, {**CITY, "parameters": {"content_type": "str"}}]}),
    "v1, columns": ("v1", {"inputs": COLUMNS}),
    "v1, nested columns": ("v1", {"inputs": {**COLUMNS, "age": [[37.5], [20]], "city": [["Bern"], ["Basel"]]}}),
    "v1, codes": ("v1", {"inputs": {**COLUMNS, "city": [0, 2]}}),
    "v1, rows": ("v1", {"instances": RECORDS, "signature_name": "serving_default"}),
    "records": ("invocations", {"dataframe_records": RECORDS}),
    "split": ("invocations", {"dataframe_split": {"columns": ["city", "kids", "age"],
                                                   "data": [["Bern", 2, 37.5], ["Basel", 0, 20]]}}),
    "split without names": ("invocations", {"dataframe_split": {"data": [[37.5, 2, "Bern"], [20, 0, "Basel"]]}}),
    "inputs as columns": ("invocations", {"inputs": COLUMNS}),
    "instances as records": ("invocations", {"instances": RECORDS}),
    "inputs as rows": ("invocations", {"inputs": [[37.5, 2, "Bern"], [20, 0, "Basel"]]}),
}  # fmt: skip


@pytest.mark.parametrize("case", SPELLED)
def test_every_spelling_of_a_table_is_the_same_rows(case: str) -> None:
    np.testing.assert_array_equal(read(*SPELLED[case]), X)


@pytest.mark.parametrize("table", ["city,kids,age\nBern,2,37.5\nBasel,0,20\n", "37.5,2,Bern\r\n20,0,Basel\n"])
def test_a_csv_table_may_hold_words(table: str) -> None:
    np.testing.assert_array_equal(read("invocations", table.encode(), headers={"content-type": "text/csv"}), X)
    with pytest.raises(BadRequest, match="3 words"):
        read("invocations", table.replace("Bern", "Born").encode(), headers={"content-type": "text/csv"})


HOSTILE = {
    "a column twice": ([AGE, KIDS, AGE], "two inputs named 'age'"),
    "one too many": ([AGE, KIDS, CITY, AGE], "a list of 1 to 3"),
    "missing": ([AGE, CITY], "lacks the input 'kids'"),
    "none": ([], "a list of 1 to 3"),
    "not a list": (5, "a list of 1 to 3"),
    "no object": ([AGE, KIDS, "city"], "must be an object"),
    "unknown": ([AGE, KIDS, {**CITY, "name": "town"}], "takes the inputs 'age', 'kids', 'city'"),
    "a name that is none": ([AGE, KIDS, {**CITY, "name": ["city"]}], "has another"),
    "of other length": ([AGE, {**KIDS, "shape": [1], "data": [2]}, CITY], "equally many rows"),
    "wide": ([{**AGE, "shape": [1, 2]}, KIDS, CITY], "must have shape (n)"),
    "deep": ([{**AGE, "shape": [2, 1, 1], "data": [[[1]], [[2]]]}, KIDS, CITY], "must have shape (n)"),
    "too few values": ([{**AGE, "data": [1]}, KIDS, CITY], "as its shape says"),
    "a datatype that is none": ([{**AGE, "datatype": "STRING"}, KIDS, CITY], '"datatype" must be one of'),
    "words for numbers": ([{**AGE, "datatype": "BYTES", "data": ["37", "20"]}, KIDS, CITY], "BYTES has no place"),
    "numbers as texts": ([{**AGE, "data": ["37", "20"]}, KIDS, CITY], "numbers only"),
    "words in numbers": ([AGE, KIDS, {**CITY, "datatype": "FP64"}], "numbers only"),
    "numbers in words": ([AGE, KIDS, {**CITY, "data": ["Bern", 2]}], "got a value that is no word"),
    "null": ([AGE, KIDS, {**CITY, "data": ["Bern", None]}], "got a value that is no word"),
    "a list among words": ([AGE, KIDS, {**CITY, "data": ["Bern", ["Basel"]]}], "got a value that is no word"),
    "an unknown word": ([AGE, KIDS, {**CITY, "data": ["Bern", "bern"]}], "3 words ('Bern', 'Genève', 'Basel')"),
    "a code too high": ([AGE, KIDS, {**CITY, "datatype": "INT8", "data": [0, 3]}], "the numbers 0 to 2 of its words"),
    "a code between": ([AGE, KIDS, {**CITY, "datatype": "FP64", "data": [0, 0.5]}], "the numbers 0 to 2"),
    "a fraction": ([AGE, {**KIDS, "datatype": "FP64", "data": [0.5, 1]}, CITY], "'kids' must hold whole numbers"),
    "true": ([{**AGE, "data": [True, 1]}, KIDS, CITY], "numbers only"),
    "infinite": ([{**AGE, "data": [1e999, 1]}, KIDS, CITY], ""),
    "shared memory": ([{**AGE, "parameters": {"shared_memory_region": "r"}}, KIDS, CITY], "not allowed here"),
    "raw bytes that are not there": ([{k: v for k, v in AGE.items() if k != "data"} | {
        "parameters": {"binary_data_size": 16}}, KIDS, CITY], "raw bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_in_v2_whatever_is_not_the_table_is_refused_in_a_sentence(case: str) -> None:
    tensors, words = HOSTILE[case]
    if case == "infinite":
        tree: Any = json.dumps({"inputs": tensors}).replace("Infinity", "1e999").encode()
    else:
        tree = {"inputs": tensors}
    said = sentence_of("v2", tree)
    assert words in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"inputs": {**COLUMNS, "town": [1, 2]}}, "has 'town'"),
        ({"inputs": {"age": [1], "kids": [1]}}, "lacks the input 'city'"),
        ({"inputs": {**COLUMNS, "age": [1]}}, "equally many rows"),
        ({"inputs": {**COLUMNS, "age": 37}}, "numbers only"),
        ({"inputs": {**COLUMNS, "age": [True, False]}}, "numbers only"),
        ({"inputs": {**COLUMNS, "age": ["37", "20"]}}, "numbers only"),
        ({"inputs": {**COLUMNS, "city": ["Bern", "Rome"]}}, "got 'Rome'"),
        ({"inputs": {**COLUMNS, "city": [["Bern", "Bern"], ["Bern", "Bern"]]}}, "must have shape (n)"),
        ({"inputs": {**COLUMNS, "city": []}}, "at least one number"),
        ({"inputs": [[37, 2, 0]]}, "must be an object"),
        ({"instances": [[37, 2, 0]]}, "must be an object"),
        ({"instances": []}, "a list of 1 to 4 objects"),
        ({"instances": [RECORDS[0]] * 5}, "a list of 1 to 4 objects"),
        ({"instances": [RECORDS[0], {"age": 1, "kids": 2}]}, "lacks the input 'city'"),
        ({"instances": [{**RECORDS[0], "age": None}]}, "lacks the input 'age'"),
        ({"instances": [{**RECORDS[0], "age": [1, 2]}]}, "must have shape (n)"),
        ({"instances": [{**RECORDS[0], "age": {"b64": "AA=="}}]}, "numbers only"),
        ({"instances": COLUMNS}, "a list of 1 to 4 objects"),
        ({"instances": RECORDS, "inputs": COLUMNS}, "one of"),
    ],
    ids=str,
)
def test_in_v1_whatever_is_not_the_table_is_refused_in_a_sentence(tree: Any, words: str) -> None:
    assert words in sentence_of("v1", tree)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"dataframe_split": {"columns": ["age", "kids"], "data": [[1, 2]]}}, "the model's 3 columns"),
        ({"dataframe_split": {"columns": ["age", "kids", "kids"], "data": [[1, 2, 3]]}}, "the model's 3 columns"),
        ({"dataframe_split": {"columns": ["age", "kids", 5], "data": [[1, 2, 3]]}}, "the model's 3 columns"),
        ({"dataframe_split": {"data": [[1, 2]]}}, "must hold 3 values"),
        ({"dataframe_split": {"data": None}}, "must hold 3 values"),
        ({"dataframe_records": {"age": [1]}}, "lacks"),
        ({"dataframe_records": 3}, "a list of 1 to 4 objects"),
        ({"inputs": "age"}, "a list of 1 to 4 objects"),
    ],
    ids=str,
)
def test_in_invocations_too(tree: Any, words: str) -> None:
    assert words in sentence_of("invocations", tree)


def binary(tensors: list[dict[str, Any]], raw: bytes) -> tuple[dict[str, str], bytes]:
    head = json.dumps({"inputs": tensors}).encode()
    return {LENGTH: str(len(head))}, head + raw


def test_raw_bytes_belong_to_the_inputs_in_their_order() -> None:
    ask = PROTOCOLS.load("v2")().ask(replace(SERVED, binary=True), X)
    np.testing.assert_array_equal(read("v2", ask.body, headers=dict(ask.headers)), X)
    words = b"\x04\0\0\0Bern\x05\0\0\0Basel"
    sized = [{"name": n, "shape": [2, 1], "datatype": d, "parameters": {"binary_data_size": s}}
             for n, d, s in (("city", "BYTES", len(words)), ("age", "FP32", 8))]  # fmt: skip
    raw = words + np.array([37.5, 20], "<f4").tobytes()
    headers, body = binary([*sized, KIDS], raw)
    np.testing.assert_array_equal(read("v2", body, headers=headers), X)
    for bad, said in (
        (raw + b"\0", "raw bytes"), (raw[:-1], "raw bytes"),
        (raw.replace(b"Basel", b"Bas\xffl"), "UTF-8"), (raw.replace(b"\x05", b"\x06"), "UTF-8"),
        (raw.replace(b"Basel", b"Bagel"), "3 words"),
    ):  # fmt: skip
        headers, body = binary([*sized, KIDS], bad)
        with pytest.raises(BadRequest, match=said):
            read("v2", body, headers=headers)


@settings(max_examples=60, deadline=2_000)
@given(data=st.data(), form=st.sampled_from(["v2", "v2 binary", "v1", "invocations"]))
def test_what_is_written_is_read_as_the_same_rows(data: Any, form: str) -> None:
    floats = st.floats(allow_nan=False, allow_infinity=False)
    rows = data.draw(
        st.lists(st.tuples(floats, st.integers(-(2**53), 2**53), st.integers(0, 2)), min_size=1, max_size=4)
    )
    x = np.array(rows, np.float64)
    wire, spec = PROTOCOLS.load(form.split()[0])(), replace(SERVED, binary=form.endswith("binary"))
    ask = wire.ask(spec, x)
    np.testing.assert_array_equal(wire.read(SERVED, ask.headers, ask.body).x, x)


@pytest.mark.parametrize("protocol", ["v2", "v2 binary", "v1", "invocations"])
def test_inputs_of_different_shapes_are_one_row_one_behind_the_other(protocol: str) -> None:
    x = np.arange(14.0).reshape(2, 7) / 4
    wire, spec = PROTOCOLS.load(protocol.split()[0])(), replace(PICTURED, binary=protocol.endswith("binary"))
    ask = wire.ask(spec, x)
    np.testing.assert_array_equal(wire.read(PICTURED, ask.headers, ask.body).x, x)
    (image, values), (meta, numbers) = parted(PICTURE, x)
    assert (image.name, values.shape, values.dtype) == ("image", (2, 2, 2), np.float32)
    assert (meta.name, numbers.shape) == ("meta", (2, 3))
    tensors = [{"name": "meta", "shape": [2, 3], "datatype": "FP64", "data": numbers.tolist()},
               {"name": "image", "shape": [2, 2, 2], "datatype": "FP32", "data": values.ravel().tolist()}]  # fmt: skip
    np.testing.assert_array_equal(read("v2", {"inputs": tensors}, PICTURED), x)
    for shape in ([2, 4], [2, 2, 1], [2], [8], [4, 2, 1]):
        assert sentence_of("v2", {"inputs": [tensors[0], {**tensors[1], "shape": shape}]}, PICTURED)


def test_a_model_that_reads_32_bits_is_inspected_in_32_bits() -> None:
    tensors = [{"name": "meta", "shape": [1, 3], "datatype": "FP64", "data": [0.1, 0.2, 0.3]},
               {"name": "image", "shape": [1, 2, 2], "datatype": "FP64", "data": [0.1] * 4}]  # fmt: skip
    found = read("v2", {"inputs": tensors}, PICTURED)
    np.testing.assert_array_equal(found[0], [*[np.float32(0.1)] * 4, 0.1, 0.2, 0.3])
    tensors[1]["data"] = [1e300] * 4
    assert "finite" in sentence_of("v2", {"inputs": tensors}, PICTURED)


def test_an_input_may_be_missing_where_the_policy_says_so() -> None:
    served = replace(SERVED, interface=replace(INTERFACE, missing=True))
    want = [[np.nan, 2.0, 0.0], [20.0, 0.0, np.nan]]
    columns = {"age": [None, 20], "kids": [2, 0], "city": ["Bern", None]}
    np.testing.assert_array_equal(read("v1", {"inputs": columns}, served), want)
    records = [{"kids": 2, "city": "Bern"}, {"age": 20, "kids": 0, "city": None}]
    np.testing.assert_array_equal(read("v1", {"instances": records}, served), want)
    np.testing.assert_array_equal(read("invocations", {"dataframe_records": records}, served), want)
    ask = PROTOCOLS.load("v2")().ask(served, np.array(want))
    assert json.loads(ask.body)["inputs"][2]["data"] == ["Bern", None]
    np.testing.assert_array_equal(read("v2", ask.body, served), want)


def test_what_is_between_two_categories_cannot_be_asked() -> None:
    for column, value in ((1, 0.5), (2, 0.5), (2, 3.0)):
        x = X.copy()
        x[0, column] = value
        with pytest.raises(InputError, match="whole numbers"):
            PROTOCOLS.load("v2")().ask(SERVED, x)


# The documented shapes of other servers.


def test_mlservers_pandas_content_type() -> None:
    ask = PROTOCOLS.load("v2")().ask(SERVED, X)
    tree = json.loads(ask.body)
    assert tree["parameters"] == {"content_type": "pd"}
    assert tree["inputs"] == [
        {"name": "age", "shape": [2, 1], "datatype": "FP64", "parameters": {"content_type": "np"}, "data": [37.5, 20]},
        {"name": "kids", "shape": [2, 1], "datatype": "INT64", "parameters": {"content_type": "np"}, "data": [2, 0]},
        {"name": "city", "shape": [2, 1], "datatype": "BYTES", "parameters": {"content_type": "str"},
         "data": ["Bern", "Basel"]},
    ]  # fmt: skip
    assert tree["outputs"] == [{"name": "label"}, {"name": "probabilities"}]


def test_tensorflow_serving_takes_rows_and_columns_and_answers_as_it_was_asked() -> None:
    wire = PROTOCOLS.load("v1")()
    assert json.loads(wire.ask(SERVED, X).body) == {"instances": [
        {"age": 37.5, "kids": 2, "city": "Bern"}, {"age": 20.0, "kids": 0, "city": "Basel"}]}  # fmt: skip
    several = {"predictions": [{"scores": [0.25, 0.75], "embedding": [1, 2, 3]}, {"scores": [1, 0], "embedding": [4]}]}
    asked = replace(SERVED, scores="scores", label=None)
    np.testing.assert_array_equal(
        wire.understand(asked, 2, {}, json.dumps(several).encode()).scores, [[0.25, 0.75], [1, 0]]
    )
    columnar = {"outputs": {"scores": [[0.25, 0.75], [1, 0]], "embedding": [[1], [2]]}}
    answer = wire.understand(asked, 2, {}, json.dumps(columnar).encode())
    np.testing.assert_array_equal(answer.scores, [[0.25, 0.75], [1, 0]])
    for key, shown in (("instances", "predictions"), ("inputs", "outputs")):
        inquiry = wire.read(SERVED, {}, json.dumps({key: RECORDS if key == "instances" else COLUMNS}).encode())
        assert json.loads(wire.write(SERVED, inquiry, answer).body) == {shown: [[0.25, 0.75], [1, 0]]}


def test_mlflow_is_asked_with_names_beside_rows() -> None:
    tree = json.loads(PROTOCOLS.load("invocations")().ask(SERVED, X).body)
    assert tree == {"dataframe_split": {"columns": ["age", "kids", "city"],
                                        "data": [[37.5, 2, "Bern"], [20.0, 0, "Basel"]]}}  # fmt: skip


def test_triton_gets_binary_tensors_and_only_the_outputs_that_the_policy_names_are_asked_for() -> None:
    ask = PROTOCOLS.load("v2")().ask(replace(SERVED, binary=True, label=None, scores="logits"), X)
    head = json.loads(ask.body[: int(ask.headers[LENGTH])])
    assert head["outputs"] == [{"name": "logits", "parameters": {"binary_data": True}}]
    assert [t["parameters"]["binary_data_size"] for t in head["inputs"]] == [16, 16, 17]
    assert "parameters" not in head


def test_metadata_names_each_input_and_differences_name_the_key() -> None:
    told = json.loads(PROTOCOLS.load("v2")().tell(SERVED, "model").body)
    assert told["inputs"] == [
        {"name": "age", "datatype": "FP64", "shape": [-1, 1]}, {"name": "kids", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "city", "datatype": "BYTES", "shape": [-1, 1]},
    ]  # fmt: skip
    assert differences(SERVED, told) == []
    told["inputs"][1]["datatype"] = "FP32"
    told["inputs"].append({"name": "zip"})
    told["outputs"].append({"name": "embedding"})
    assert [s.rpartition(": ")[2] for s in differences(SERVED, told)[:2]] == [
        "see [model] features or inputs.", 'give it datatype = "FP32".'
    ]  # fmt: skip
    assert differences(SERVED, told)[2] == (
        "The model also answers 'embedding', which the gate does not ask for and shows nobody."
    )


# The policy.


class Table:
    """A model of the table that is worked out by hand: class 1 is older than 40, or has children in Basel."""

    input_shape, n_classes = (3,), 2

    def scores(self, x: np.ndarray) -> np.ndarray:
        p = np.where(x[:, 0] > 40, 0.9, np.where((x[:, 2] == 2) & (x[:, 1] > 0.5), 0.8, 0.125))
        return np.stack([1 - p, p], axis=1)


def test_a_policy_says_what_the_inputs_are(tmp_path: Path) -> None:
    policy = policy_of(Table(), "http://127.0.0.1:9", tmp_path, more=MODEL)
    assert policy.served.several
    assert policy.asked.several
    assert policy.served.parts == PARTS
    mixed = policy_of(Table(), "", tmp_path, more=MODEL + '[upstream]\nurl = "http://h"\ninputs = "tensor"\n')
    assert (mixed.served.several, mixed.asked.several) == (True, False)
    shapes = (
        '[model]\nname = "m"\ninput_shape = [787]\nclasses = 2\ninputs = [{ name = "image", shape = [28, 28] }, '
        + ('{ name = "meta", shape = [3], datatype = "FP32" }]\n')
    )
    found = policy_of(Table(), "http://127.0.0.1:9", tmp_path, more=shapes)
    assert found.served.parts == (Part("image", (28, 28)), Part("meta", (3,), "FP32"))


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (('inputs = "columns"', 'inputs = "table"'), 'inputs = "table"', '"tensor", "columns" or a list'),
        (('inputs = "columns"', "inputs = []"), "input_shape", "1 to 64 inputs"),
        (('inputs = "columns"', 'inputs = "columns"\ninput = "x"'), "input =", "left out"),
        (('inputs = "columns"\n', ""), "features", "datatype of its own where inputs"),
        (('"INT64"', '"BYTES"'), "", "datatype must be one of"),
        (('"Bern", "Gen', '"Basel", "Gen'), "", "different words"),
        (("classes = 2", "classes = 2\nmissing = true"), "missing", "'kids' is INT64"),
        (("[model]", '[listen]\nport = 0\nprotocols = ["v2", "mapping"]\n[model]'), "protocols", "v1 or invocations"),
        (("[model]", '[upstream]\nurl = "http://h"\nprotocol = "mapping"\n[model]'), "protocol", "or invocations"),
        (("[model]", '[upstream]\nurl = "http://h"\ninput = "x"\n[model]'), "input", "several inputs"),
        (("[model]", '[upstream]\nurl = "http://h"\ninputs = "rows"\n[model]'), "inputs", '"tensor" or "columns"'),
        (("[model]", '[upstream]\nurl = "http://h"\ndatatype = "FP32"\n[model]'), "datatype", "each input has"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_work_is_refused_at_check(change: tuple[str, str], line: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as error:
        policy_of(Table(), "http://127.0.0.1:9", tmp_path, more=MODEL.replace(*change))
    assert words in str(error.value)


def test_columns_need_names_and_a_lists_sizes_must_be_the_rows(tmp_path: Path) -> None:
    head = '[model]\nname = "m"\ninput_shape = [3]\nclasses = 2\n'
    for inputs, words in (
        ('"columns"', "features that name the columns"),
        ('[{ name = "a", shape = [2] }, { name = "b", shape = [2] }]', "[4], which is 2 + 2"),
        ('[{ name = "a", shape = [2] }, { name = "a", shape = [1] }]', "different names"),
        ('[{ name = "a", shape = [0] }]', "a list of positive ints"),
        ('[{ name = "a", shape = [3], values = ["x"] }]', "'values' is not known in an input"),
        ("[3]", "a table such as"),
    ):
        with pytest.raises(PolicyError) as error:
            policy_of(Table(), "http://127.0.0.1:9", tmp_path, more=f"{head}inputs = {inputs}\n")
        assert words in str(error.value)


def test_of_two_heads_one_is_guarded_and_the_other_not_shown(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="the gate guards one, and shows no other"):
        policy_of(Table(), "http://h", tmp_path, more=MODEL + 'scores = ["left", "right"]\n')


def test_check_says_what_the_inputs_are(tmp_path: Path) -> None:
    behind = '[upstream]\nurl = "http://h"\ninputs = "tensor"\n'
    said = " ".join(explained(policy_of(Table(), "", tmp_path, more=MODEL + behind)))
    assert (
        "A row consists of 3 inputs ('age', 'kids', 'city'); clients send one tensor for each input, and the model "
        in said
    )
    assert "server is asked with one tensor for all inputs." in said
    assert "refused with 400, in 'city' (3)." in said
    assert "Guarded and shown of the model's outputs: 'probabilities'; whatever else" in said


def test_no_number_may_change_between_columns_and_one_tensor(tmp_path: Path) -> None:
    behind = '[upstream]\nurl = "http://h"\ninputs = "tensor"\n'
    narrow = MODEL.replace("classes = 2", 'classes = 2\ndatatype = "FP32"')
    with pytest.raises(PolicyError, match=r"FP64, or that of 'kids' \(INT64\), with all inputs in one tensor"):
        policy_of(Table(), "", tmp_path, more=narrow + behind)
    policy_of(Table(), "http://h", tmp_path, more=narrow)
    policy_of(Table(), "", tmp_path, more=narrow.replace(', datatype = "INT64"', "") + behind)


@pytest.mark.parametrize("protocol", ["v2", "v1", "invocations"])
def test_as_many_rows_as_are_allowed_have_room_whatever_is_in_their_words_and_more_have_not(protocol: str) -> None:
    words = ('a, "b": [c], {d}', "e,,,,")
    parts = (Part("x, y: [z]", (), "BYTES", words), *(Part(f"c{i}") for i in range(40)), Part("b", (), "INT64"))
    interface = Interface(input_shape=(42,), n_classes=2)
    spec = ModelSpec(name="m", interface=interface, parts=parts, several=True, max_rows=500)
    x = np.ones((500, 42))
    x[::2, 0] = 0.0
    wire = PROTOCOLS.load(protocol)()
    np.testing.assert_array_equal(read(protocol, wire.ask(spec, x).body, spec), x)
    nested = {p.name: [[w] for w in v] for p, v in zip(parts, x.T.tolist(), strict=True)}
    np.testing.assert_array_equal(read("v1", {"inputs": nested}, spec), x)
    with pytest.raises(BadRequest) as refused:
        read(protocol, wire.ask(spec, np.tile(x, (4, 1))).body, spec)
    assert refused.value.status in (400, 413)
    assert "at most" in refused.value.sentence


@pytest.mark.parametrize("case", SPELLED)
def test_every_spelling_is_as_the_description_of_the_routes_says(case: str) -> None:
    protocol, tree = SPELLED[case]
    (body,) = [r.body for r in PROTOCOLS.load(protocol)().routes(SERVED) if r.body]
    assert fits(tree, dict(body))
    assert not fits({**tree, "more": 1}, dict(body))


# Through a whole gate.


@pytest.mark.parametrize("side", ["tensor", "columns"])
async def test_of_equal_keys_the_guard_and_the_model_get_the_last_one(side: str, tmp_path: Path) -> None:
    here = Here(tmp_path, "", MODEL + '[listen]\nport = 0\nprotocols = ["v2", "v1", "invocations"]\n'
                f'[upstream]\nurl = "http://h"\ninputs = "{side}"\n')  # fmt: skip
    here.upstream.model = Table()  # type: ignore[assignment]
    city = '"name":"city","shape":[1],"datatype":"BYTES","data":["Basel"],"data":["Bern"]'
    one = ['{"name":"age","shape":[1],"datatype":"FP64","data":[20],"data":[37.5]}', "{" + city + "}"]
    kids = '{"name":"kids","shape":[1],"datatype":"INT64","data":[2]}'
    v2 = '{"inputs":[' + ",".join([*one, kids]) + "]}"
    row = '{"age":20,"age":37.5,"kids":2,"city":"Basel","city":"Bern"}'
    column = '{"age":[20],"age":[37.5],"kids":[2],"city":["Basel"],"city":["Bern"]}'
    for path, body in (
        (URL, v2), ("/v1/models/m:predict", '{"instances":[' + row + "]}"),
        ("/v1/models/m:predict", '{"inputs":' + column + "}"), ("/invocations", '{"dataframe_records":[' + row + "]}"),
    ):  # fmt: skip
        assert (await here.send("POST", path, body.encode()))[0] == 200
        np.testing.assert_array_equal(here.upstream.x[-1], X[:1])
    seen = [event.x for event in (await here.store.load("alice")).events if event.kind == "admit"]
    np.testing.assert_array_equal(np.concatenate(seen), np.repeat(X[:1], 4, axis=0))


async def test_rows_by_name_of_a_home_made_client_come_to_the_model_as_tensors(tmp_path: Path) -> None:
    tensors = '[upstream]\nurl = "http://h"\ninputs = "columns"\n'
    listen = '[listen]\nport = 0\nprotocols = ["mapping"]\n'
    mapping = '[model.mapping]\nrows = "$.rows"\nrows_as = "object"\n'
    here = Here(tmp_path, "", MODEL.replace('inputs = "columns"\n', "") + mapping + tensors + listen)
    here.upstream.model = Table()  # type: ignore[assignment]
    assert (await here.send("POST", "/predict", json.dumps({"rows": RECORDS}).encode()))[0] == 200
    np.testing.assert_array_equal(here.upstream.x, [X])
    asked = json.loads(PROTOCOLS.load("v2")().ask(here.policy.asked, here.upstream.x[0]).body)
    assert [t["data"] for t in asked["inputs"]] == [[37.5, 20], [2, 0], ["Bern", "Basel"]]
    half = [{**RECORDS[0], "kids": 0.5}]
    assert (await here.send("POST", "/predict", json.dumps({"rows": half}).encode()))[0] == 400


WATCHED = '[[guard]]\nunit = "quota"\nrows = 120\n[[guard]]\nunit = "rounding"\ndecimals = 2\n' + (
    '[[guard]]\nunit = "watch"\ndetector = { unit = "prada", threshold = 1.5 }\nthen = { unit = "log" }\n'
)


@pytest.mark.parametrize("protocol", ["v2", "v1", "invocations"])
@pytest.mark.parametrize("behind", ["v2 columns", "v2 tensor", "v1 columns", "invocations columns"])
def test_a_table_of_words_is_attacked_online_as_it_is_offline(protocol: str, behind: str, tmp_path: Path) -> None:
    upstream_protocol, side = behind.split()
    parts = (PARTS[0], Part("kids"), PARTS[2])  # the attack asks for fractions, too
    stub = replace(SERVED, max_rows=1024, parts=parts, several=side == "columns")
    with running(ModelServer(Table(), stub)) as url:
        to = f'[upstream]\nurl = "{url}"\nprotocol = "{upstream_protocol}"\ninputs = "{side}"\nlabel = "label"\n'
        listen = f'[listen]\nport = 0\nprotocols = ["{protocol}"]\n'
        policy = policy_of(Table(), url, tmp_path, WATCHED, MODEL.replace(', datatype = "INT64"', "") + to + listen)
        with gate(policy) as server:
            online = HttpOracle(
                server.url, interface=INTERFACE, budget=400, model="m", protocol=protocol,
                served={"parts": parts, "several": True}, headers={"x-api-key": KEYS["thief"]}, rows_per_request=30,
            )  # fmt: skip
            stolen = TreePaths()(online, Knowledge(), rng=np.random.default_rng(1))
            online.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    offline = LocalOracle(Table(), INTERFACE, budget=400, guard=Guard(*policy.stages, key=SECRET))
    again = TreePaths()(offline, Knowledge(), rng=np.random.default_rng(1))
    assert stolen.queries == again.queries > 20
    np.testing.assert_array_equal(stolen.x, again.x)
    np.testing.assert_array_equal(stolen.answer.scores, again.answer.scores)
    assert alarms == [(a.stage, a.row, a.suspicion) for a in offline.alarms]


def test_a_gate_refuses_what_its_oracle_cannot_write_in_words(tmp_path: Path) -> None:
    with running(ModelServer(Table(), replace(SERVED, max_rows=1024))) as url:
        policy = policy_of(Table(), url, tmp_path, "", MODEL)
        with gate(policy) as server:
            online = HttpOracle(server.url, interface=INTERFACE, budget=9, model="m",
                                served={"parts": PARTS}, headers={"x-api-key": KEYS["alice"]})  # fmt: skip
            with pytest.raises(Unreachable, match="answered 400: The model takes the inputs"):
                online.query(X)
            online.close()


PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "in-front-of" / "columns.md"


def test_every_block_of_the_page_is_a_policy(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.S)
    model = "[model]" + blocks[0].partition("[model]")[2]
    assert len(blocks) == 5
    protocols = []
    for block in blocks:
        policy = policy_of(Table(), "", tmp_path, more=block if "[model]" in block else block + model)
        ask = PROTOCOLS.load(policy.upstream.protocol)().ask(policy.asked, policy.asked.plain_row)  # type: ignore[union-attr]
        assert policy.asked.several
        protocols.append((policy.upstream.protocol, LENGTH in ask.headers))  # type: ignore[union-attr]
    assert protocols == [("v2", False), ("v2", False), ("v2", True), ("v1", False), ("invocations", False)]
