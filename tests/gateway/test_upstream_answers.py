"""The forms in which model servers answer: what is read, and what is not believed."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests.gateway.asgi import Here, question
from tests.gateway.harness import NUMERIC, Softmax, policy_of
from tests.gateway.test_openapi import fits

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Interface
from portcullis_ml.gateway.admin.openapi import described
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.v2_question import LENGTH
from portcullis_ml.gateway.protocols.wire import Inquiry, ModelSpec
from portcullis_ml.gateway.upstream import checked

JSON = [name for name in NUMERIC if name != "grpc"]
THREE = ModelSpec(name="m", interface=Interface(input_shape=(4,), n_classes=3), label=None)
TWO = replace(THREE, interface=Interface(input_shape=(4,), n_classes=2))
VALUE = replace(THREE, interface=Interface(input_shape=(4,), n_classes=0, task="regression"))
X = np.zeros((2, 4))
P = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])


def understood(protocol: str, asked: ModelSpec, n: int, tree: Any, raw: bytes = b"") -> Answer:
    body = orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {LENGTH: str(len(body))} if raw else {}
    return checked(CATALOG.load(protocol)().understand(asked, n, headers, body + raw), n, asked)


def tensor(name: str, data: Any, shape: list[int] | None = None, datatype: str = "FP64", **more: Any) -> dict[str, Any]:
    shape = list(np.shape(data)) if shape is None else shape
    flat = np.ravel(np.asarray(data, object)).tolist()
    return {"name": name, "shape": shape, "datatype": datatype, "data": flat, **more}


def raw_tensor(name: str, shape: list[int], datatype: str, raw: bytes) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}


def words(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)


# Outputs that were not asked for.

SCORES = tensor("probabilities", P)
OTHERS = {
    "words before": [tensor("predict", ["cat", "dog"], datatype="BYTES"), SCORES],
    "words behind": [SCORES, tensor("probabilities_labels", ["cat", "dog"], datatype="BYTES")],
    "words in lists": [tensor("predict", [["cat"], ["dog"]], datatype="BYTES"), SCORES],
    "of no size": [{"name": "boxes", "shape": [0, 4], "datatype": "FP32", "data": []}, SCORES],
    "of a strange type": [{"name": "hidden", "shape": [1], "datatype": "BF16", "data": [1.5]}, SCORES],
    "without data": [{"name": "state", "shape": [2], "datatype": "INT32"}, SCORES],
    "of another number of rows": [tensor("log", [0.0] * 7), SCORES],
    "with null": [tensor("note", [None, None], datatype="FP32"), SCORES],
    "named as the class that nobody asked for": [tensor("label", ["cat", "dog"], datatype="BYTES"), SCORES],
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_tensor_that_was_not_asked_for_is_read_past(case: str) -> None:
    answer = understood("v2", THREE, 2, {"outputs": OTHERS[case]})
    np.testing.assert_array_equal(answer.scores, P)
    np.testing.assert_array_equal(answer.labels, [2, 0])


@pytest.mark.parametrize("at", [0, 1])
def test_its_raw_bytes_are_read_past_too(at: int) -> None:
    parts = [(raw_tensor("probabilities", [2, 3], "FP64", P.tobytes()), P.tobytes())]
    other = words("cat", "Wörter")
    parts.insert(at, (raw_tensor("predict", [2], "BYTES", other), other))
    answer = understood("v2", THREE, 2, {"outputs": [t for t, _ in parts]}, b"".join(raw for _, raw in parts))
    np.testing.assert_array_equal(answer.scores, P)


@pytest.mark.parametrize("protocol", ["v1", "invocations"])
def test_outputs_by_name_are_found_among_others(protocol: str) -> None:
    rows = [{"class": "cat", "probabilities": p} for p in P.tolist()]
    np.testing.assert_array_equal(understood(protocol, THREE, 2, {"predictions": rows}).scores, P)
    if protocol == "v1":
        columns = {"classes": ["cat", "dog"], "probabilities": P}
        np.testing.assert_array_equal(understood("v1", THREE, 2, {"outputs": columns}).scores, P)
    with pytest.raises(Unreachable, match=r"an output named 'probabilities'; it sent \['class'\]"):
        understood(protocol, THREE, 2, {"predictions": [{"class": "cat"}] * 2})


def test_a_mapping_reads_past_words_for_classes_that_the_policy_does_not_speak_of() -> None:
    for labels in (["cat", "dog"], [["cat"], ["dog"]], "cat", {"top": 1}):
        answer = understood("mapping", THREE, 2, {"scores": P, "labels": labels, "took": "1 ms"})
        np.testing.assert_array_equal(answer.labels, [2, 0])


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ([SCORES, SCORES], "two tensors named 'probabilities'"),
        ([tensor("scores", P)], r"must answer a tensor named 'probabilities'; it sent \['scores'\]"),
        ([tensor("probabilities", ["a", "b"], datatype="BYTES")], "must hold numbers; it holds words"),
        ([tensor("probabilities", P, datatype="BF16")], "is BF16; the gate reads"),
        ([raw_tensor("probabilities", [2, 3], "FP64", b"")], "as many values as its shape says"),
        ([{**SCORES, "parameters": {"binary_data_size": 99}}], "must have 99 bytes"),
        ([{**SCORES, "parameters": {"binary_data_size": -8}}], "must have -8 bytes"),
        (["text"], "must hold tensors"),
        ("text", "must hold tensors"),
    ],
)
def test_what_was_asked_for_must_be_there_once_and_hold_numbers(outputs: Any, sentence: str) -> None:
    with pytest.raises(Unreachable, match=sentence):
        understood("v2", THREE, 2, {"outputs": outputs})


# Shapes.


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("shape", [["n", 3], [-1, 3], ["n", 1, 3], ["n", 3, 1]])
def test_the_shape_of_as_many_rows_is_believed(shape: list[Any], n: int) -> None:
    declared = [n if s == "n" else s for s in shape]
    answer = understood("v2", THREE, n, {"outputs": [tensor("probabilities", P[:n], declared)]})
    np.testing.assert_array_equal(answer.scores, P[:n])


def test_a_single_row_may_come_without_the_axis_of_rows() -> None:
    np.testing.assert_array_equal(
        understood("v2", THREE, 1, {"outputs": [tensor("probabilities", P[0])]}).scores, P[:1]
    )


@pytest.mark.parametrize(
    ("n", "shape"),
    [(2, [3, 2]), (2, [6]), (2, [1, 2, 3]), (2, [2, 2]), (2, [2, 4]), (2, [-1, 2]), (2, [-1, -1]), (2, [-2, -3]), 
     (2, []), (2, ["2", 3]), (2, [1, 6]), (2, [3, 2, 1]), (1, [3, 1]), (1, [0, 3]), (2, None), (2, "2x3"),
     (2, {}), (2, [2, 3, 0])],
)  # fmt: skip
def test_another_shape_is_not_believed(n: int, shape: Any) -> None:
    with pytest.raises(Unreachable, match=r"shape|must hold tensors"):
        understood("v2", THREE, n, {"outputs": [{**tensor("probabilities", P[:n]), "shape": shape}]})


def test_a_tensor_without_a_shape_is_none() -> None:
    with pytest.raises(Unreachable, match="must hold tensors"):
        understood("v2", THREE, 2, {"outputs": [{"name": "probabilities", "datatype": "FP64", "data": P}]})


@pytest.mark.parametrize(
    ("data", "good"),
    [(P, True), (P.ravel(), True), (P.T.tolist(), False), (P.reshape(1, 6), True), (P.reshape(3, 2), False)],
)
def test_nested_data_must_be_nested_as_the_shape_says(data: Any, good: bool) -> None:
    tree = {"outputs": [{"name": "probabilities", "shape": [2, 3], "datatype": "FP64", "data": data}]}
    if good:
        np.testing.assert_array_equal(understood("v2", THREE, 2, tree).scores, P)
    else:
        with pytest.raises(Unreachable, match="as many values as its shape says"):
            understood("v2", THREE, 2, tree)


def test_raw_tensors_are_held_against_their_shape_as_others_are() -> None:
    for shape in ([3, 2], [6], [2, 4]):
        with pytest.raises(Unreachable, match="shape"):
            understood(
                "v2", THREE, 2, {"outputs": [raw_tensor("probabilities", shape, "FP64", P.tobytes())]}, P.tobytes()
            )


@pytest.mark.parametrize("protocol", ["v1", "invocations", "mapping"])
def test_scores_by_classes_instead_of_rows_are_not_believed(protocol: str) -> None:
    key = "scores" if protocol == "mapping" else "predictions"
    with pytest.raises(Unreachable, match="it sent 3"):
        understood(protocol, THREE, 2, {key: P.T.tolist()})


# One column for two classes.

ONE = np.array([0.25, 0.75])
COLUMN = {"flat": ONE, "a column": ONE[:, None], "nested": ONE[:, None, None]}


@pytest.mark.parametrize("form", COLUMN)
@pytest.mark.parametrize("protocol", JSON)
def test_one_column_for_two_classes_is_the_probability_of_the_second(protocol: str, form: str) -> None:
    for n in (1, 2):
        values = COLUMN[form][:n]
        trees = {"v2": {"outputs": [tensor("probabilities", values)]}, "mapping": {"scores": values}}
        answer = understood(protocol, TWO, n, trees.get(protocol, {"predictions": values}))
        np.testing.assert_array_equal(answer.scores, [[0.75, 0.25], [0.25, 0.75]][:n])
        np.testing.assert_array_equal(answer.labels, [0, 1][:n])


@pytest.mark.parametrize("protocol", JSON)
def test_a_column_that_holds_no_probabilities_is_not_believed(protocol: str) -> None:
    values = np.array([[-2.5], [0.5]])
    trees = {"v2": {"outputs": [tensor("probabilities", values)]}, "mapping": {"scores": values}}
    with pytest.raises(Unreachable, match=r"from 0 to 1; the model server sent -2\.5"):
        understood(protocol, TWO, 2, trees.get(protocol, {"predictions": values}))


def test_a_probability_may_exceed_one_by_a_rounding() -> None:
    answer = understood("v1", TWO, 2, {"predictions": [[1.0000001], [-1e-9]]})
    np.testing.assert_array_equal(answer.scores, [[0, 1], [1, 0]])


def test_two_columns_and_whole_numbers_mean_what_they_meant() -> None:
    np.testing.assert_array_equal(understood("v1", TWO, 2, {"predictions": [[0.4, 0.6], [1, 0]]}).labels, [1, 0])
    for classes in ([1, 0], [True, False]):
        answer = understood("v1", TWO, 2, {"predictions": classes})
        assert answer.scores is None
        np.testing.assert_array_equal(answer.labels, [1, 0])
    with pytest.raises(Unreachable, match=r"2 x 2; it sent 1 x 2"):
        understood("v2", TWO, 2, {"outputs": [tensor("probabilities", [[0.4, 0.6]])]})
    np.testing.assert_array_equal(understood("v1", VALUE, 2, {"predictions": [1.5, -2.5]}).scores, [[1.5], [-2.5]])


# Classes with names.

WORDS = ("cat", "dog", "Ünd")
LABELS = replace(THREE, scores=None, label="predict")


@pytest.mark.parametrize("names", [WORDS, (1, 2, 7), (-1, 0, 1), ("1", "2", "7")], ids=str)
@pytest.mark.parametrize("protocol", JSON)
def test_classes_are_known_by_what_the_policy_calls_them(protocol: str, names: tuple[Any, ...]) -> None:
    asked = replace(LABELS, class_names=names, options={"labels": "$.predict"})
    for sent in ([names[2], names[0]], [[names[2]], [names[0]]]):
        kind = "BYTES" if isinstance(names[0], str) else "INT32"
        trees = {"v2": {"outputs": [tensor("predict", sent, datatype=kind)]}, "mapping": {"predict": sent}}
        answer = understood(protocol, asked, 2, trees.get(protocol, {"predictions": sent}))
        np.testing.assert_array_equal(answer.labels, [2, 0])
        assert answer.scores is None


def test_words_are_read_from_raw_bytes_and_flags_from_booleans() -> None:
    raw = words("Ünd", "cat")
    asked = replace(LABELS, class_names=WORDS)
    tree = {"outputs": [raw_tensor("predict", [2], "BYTES", raw)]}
    np.testing.assert_array_equal(understood("v2", asked, 2, tree, raw).labels, [2, 0])
    for broken in (raw[:-1], raw[:3], struct.pack("<I", 2**31) + b"x"):
        with pytest.raises(Unreachable, match="must hold tensors"):
            understood("v2", asked, 2, {"outputs": [raw_tensor("predict", [2], "BYTES", broken)]}, broken)
    for names in ((), (False, True), ("no", "yes")):
        asked = replace(LABELS, interface=TWO.interface, class_names=names)
        tree = {"outputs": [tensor("predict", [True, False], datatype="BOOL")]}
        np.testing.assert_array_equal(understood("v2", asked, 2, tree).labels, [1, 0])


@pytest.mark.parametrize("protocol", JSON)
@pytest.mark.parametrize(
    ("sent", "names", "sentence"),
    [
        (["cat", "dog"], (), r"as words \('cat', 'dog'\); name all of them in the order"),
        (["cat", "cow"], WORDS, "answered the class 'cow'; .* does not name it"),
        ([7, 3], (1, 2, 7), "answered the class 3"),
        ([1, 3], (), "must be 0 to 2"),
        ([0.5, 1], (), "whole numbers or words; it sent fractions"),
        ([{"a": 1}, {}], (), "whole numbers or words|an output named"),
        ([["cat", "dog"], ["cat", "dog"]], WORDS, "classes of shape 2; it sent 2 x 2|must hold as many"),
        (["cat"], WORDS, "classes of shape 2; it sent 1|list of 2 rows"),
    ],
)
def test_classes_that_nobody_knows_are_told_to_the_operator(
    protocol: str, sent: Any, names: tuple[Any, ...], sentence: str
) -> None:
    asked = replace(LABELS, class_names=names, options={"labels": "$.predict"})
    kind = "BYTES" if isinstance(np.ravel(np.asarray(sent, object))[0], str) else "FP64"
    trees = {"v2": {"outputs": [tensor("predict", sent, datatype=kind)]}, "mapping": {"predict": sent}}
    with pytest.raises(Unreachable, match=f"{sentence}|must hold tensors" if protocol == "v2" else sentence):
        understood(protocol, asked, 2, trees.get(protocol, {"predictions": sent}))


@pytest.mark.parametrize("names", [WORDS, (1, 2, 7)], ids=str)
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("protocol", NUMERIC)
def test_clients_are_told_classes_by_their_names(protocol: str, binary: bool, names: tuple[Any, ...]) -> None:
    served = replace(THREE, label="label", class_names=names)
    wire, inquiry = CATALOG.load(protocol)(), Inquiry(X, binary=("label",) if binary else ())
    for labels in (np.array([2, 0]), np.array([1, -1])):
        reply = wire.write(served, inquiry, Answer(labels))
        back = wire.understand(replace(served, scores=None), 2, dict(reply.headers), reply.body)
        np.testing.assert_array_equal(back.labels, labels)
        if not binary and protocol != "grpc":
            told = [names[k] if k >= 0 else None for k in labels]
            assert orjson.dumps(told) in reply.body
    if protocol == "v2":
        about = orjson.loads(wire.tell(served, "model").body)["outputs"][0]
        assert about["datatype"] == ("BYTES" if names is WORDS else "INT64")


def test_a_policy_names_the_classes(tmp_path: Path) -> None:
    about = '[model]\nname = "m"\ninput_shape = [4]\nclasses = {}\nbounds = [-3.0, 3.0]\n'
    policy = policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, "", about.format('["cat", "dog", "cow"]'))
    assert (policy.asked.interface.n_classes, policy.asked.class_names) == (3, ("cat", "dog", "cow"))
    assert "knows 3 classes (cat, dog, cow)" in " ".join(explained(policy))
    for wrong in ('["cat"]', '["cat", "cat"]', '["cat", 1]', "[1.5, 2.5]", '["cat", ""]', "[]", "true", '"3"', "3.0"):
        with pytest.raises(PolicyError, match=r"line \d+: classes must be"):
            policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, "", about.format(wrong))


async def test_the_description_says_by_what_names_clients_are_told_classes(tmp_path: Path) -> None:
    about = '[model]\nname = "m"\ninput_shape = [4]\nclasses = ["cat", "dog", "cow"]\nbounds = [-3.0, 3.0]\n'
    shown = '[answers]\nreveals = "labels"\n[listen]\nport = 0\nprotocols = ["v2", "v1", "invocations"]\n'
    here = Here(tmp_path, "", about + shown)
    paths = described(here.policy)["paths"]
    bodies = {
        "/v2/models/m/infer": None,
        "/v1/models/m:predict": {"instances": [[0] * 4]},
        "/invocations": {"inputs": [[0] * 4]},
    }
    for path, tree in bodies.items():
        status, _, answer = await here.send("POST", path, question(X) if tree is None else orjson.dumps(tree))
        schema = paths[path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert status == 200
        assert fits(answer, schema), answer
        if tree:
            assert not fits({"predictions": ["horse"]}, schema)
