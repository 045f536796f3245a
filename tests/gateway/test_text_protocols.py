"""Texts in each protocol: read in every spelling, sent on as they were inspected, refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32
from tests.gateway.texts import INPUTS, TEXTS, served

from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.texts import Hashing, TextInput
from portcullis_ml.gateway.protocols.v2_question import LENGTH
from portcullis_ml.gateway.protocols.wire import Carried, ModelSpec
from portcullis_ml.models.texts import rows_of_texts

ABLE = [name for name in CATALOG if "texts" in CATALOG.load(name).carries]
SOME = ("b", "a, b")


def read(name: str, body: Any, spec: ModelSpec | None = None, headers: dict[str, str] | None = None) -> Any:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CATALOG.load(name)().read(spec or served(INPUTS["hash"]), headers or {}, body)


def tensor(data: Any, shape: list[int], **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "shape": shape, "datatype": "BYTES", "data": data, **changes}]}


def raw(texts: list[bytes], shape: list[int] | None = None, size: Any = None) -> tuple[dict[str, str], bytes]:
    """Headers and body of a raw tensor."""
    data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    flags = {"binary_data_size": len(data) if size is None else size}
    tree = {"name": "input", "shape": shape or [len(texts), 1], "datatype": "BYTES", "parameters": flags}
    head = json.dumps({"inputs": [tree]}).encode()
    return {LENGTH: str(len(head))}, head + data


def test_every_protocol_but_that_of_pictures_carries_texts() -> None:
    assert ABLE == ["grpc", "invocations", "mapping", "v1", "v2"]


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("column", [None, "text"])
def test_texts_cross_the_wire_unchanged(name: str, binary: bool, kind: str, column: str | None) -> None:
    spec = served(dataclasses.replace(INPUTS[kind], column=column), binary=binary)
    wire = CATALOG.load(name)()
    texts = tuple(TEXTS)
    ask = wire.ask(spec, spec.text.rows(texts), Carried(texts=texts))
    assert wire.route("CALL" if name == "grpc" else "POST", ask.path, spec) == "infer"
    found = wire.read(spec, ask.headers, ask.body)
    assert found.carried == Carried(texts=texts)
    np.testing.assert_array_equal(found.x, spec.text.rows(texts))
    n = len(texts)
    answer = Answer(np.zeros(n, int), np.full((n, 3), 0.25))
    reply = wire.write(spec, found, answer)
    np.testing.assert_array_equal(wire.understand(spec, n, dict(reply.headers), reply.body).scores, answer.scores)


SPELLINGS: dict[str, tuple[str, Any]] = {
    "v2 flat": ("v2", tensor(list(SOME), [2])),
    "v2 nested": ("v2", tensor([[text] for text in SOME], [2, 1])),
    "v2 flat of two axes": ("v2", tensor(list(SOME), [2, 1])),
    "v1 bare": ("v1", {"instances": list(SOME)}),
    "v1 in lists": ("v1", {"instances": [[text] for text in SOME], "signature_name": "serving_default"}),
    "v1 objects": ("v1", {"instances": [{"input": text} for text in SOME]}),
    "v1 columns": ("v1", {"inputs": {"input": list(SOME)}}),
    "v1 inputs": ("v1", {"inputs": list(SOME)}),
    "invocations inputs": ("invocations", {"inputs": list(SOME)}),
    "invocations instances": ("invocations", {"instances": list(SOME), "inputs": None}),
    "invocations split": ("invocations", {"dataframe_split": {"columns": ["any"], "data": [[text] for text in SOME]}}),
    "invocations no names": ("invocations", {"dataframe_split": {"data": [[text] for text in SOME]}}),
    "invocations records": ("invocations", {"dataframe_records": [{"input": text} for text in SOME]}),
    "mapping": ("mapping", {"inputs": list(SOME)}),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_the_same_question(spelling: str) -> None:
    name, body = SPELLINGS[spelling]
    found = read(name, body)
    assert found.carried.texts == SOME
    np.testing.assert_array_equal(found.x, rows_of_texts(SOME))


def test_a_column_that_the_policy_names_is_the_only_one() -> None:
    spec = served(TextInput(column="review"))
    assert read("v1", {"instances": [{"review": "a"}]}, spec).carried.texts == ("a",)
    assert read("v1", {"instances": ["a"]}, spec).carried.texts == ("a",)
    with pytest.raises(BadRequest, match="A row has 'text', which is not allowed here"):
        read("v1", {"instances": [{"text": "a"}]}, spec)
    with pytest.raises(BadRequest, match="\"columns\" must be a list of one name, 'review'"):
        read("invocations", {"dataframe_split": {"columns": ["text"], "data": [["a"]]}}, spec)
    ask = CATALOG.load("invocations")().ask(spec, np.zeros((1, 3)), Carried(texts=("a",)))
    assert json.loads(ask.body) == {"dataframe_split": {"columns": ["review"], "data": [["a"]]}}
    ask = CATALOG.load("mapping")().ask(spec, np.zeros((1, 3)), Carried(texts=("a",)))
    assert json.loads(ask.body) == {"inputs": [{"review": "a"}]}


REFUSED: dict[str, tuple[str, Any, str]] = {
    "numbers": ("v1", {"instances": [1.0, 2.0]}, "must hold texts only"),
    "mixed": ("v1", {"instances": ["a", 1]}, "must hold texts only"),
    "null": ("v1", {"instances": ["a", None]}, "must hold texts only"),
    "objects among texts": ("v1", {"instances": ["a", {"input": "b"}]}, "must hold texts only"),
    "texts among objects": ("v1", {"instances": [{"input": "b"}, "a"]}, "must be an object"),
    "two in a row": ("v1", {"instances": [["a", "b"]]}, "must hold texts only"),
    "base64": ("v1", {"instances": [{"b64": "YQ=="}]}, "'b64', which is not allowed"),
    "one text": ("v1", {"instances": "a"}, "must be a list of texts"),
    "none": ("v1", {"instances": []}, "must be a list of texts"),
    "too many": ("v1", {"instances": ["a"] * 9}, "1 to 8 rows; got 9"),
    "too long": ("v1", {"instances": ["a" * 10_001]}, "at most 10000 characters; got 10001"),
    "nul": ("v1", {"instances": ["a\0b"]}, "without the character NUL"),
    "lone surrogate": ("v1", b'{"instances": ["\\ud800"]}', "valid JSON"),
    "no UTF-8": ("v1", b'{"instances": ["\xff"]}', "valid JSON"),
    "UTF-16's halves as UTF-8": ("v1", b'{"instances": ["\xed\xa0\x80"]}', "valid JSON"),
    "another key": ("v1", {"instances": ["a"], "lang": "en"}, "'lang', which is not allowed here"),
    "both": ("v1", {"instances": ["a"], "inputs": ["b"]}, "one of"),
    "a table": ("invocations", {"dataframe_split": {"columns": ["a", "b"], "data": [["x", "y"]]}}, "list of one name"),
    "of two spellings": ("invocations", {"inputs": ["a"], "instances": ["b"]}, "exactly one of"),
    "no tensor": ("v2", {"inputs": []}, "list of 1 to 1 objects"),
    "two tensors": ("v2", {"inputs": [tensor(["a"], [1])["inputs"][0]] * 2}, "list of 1 to 1 objects"),
    "another name": ("v2", tensor(["a"], [1], name="x"), "one input named 'input'"),
    "another type": ("v2", tensor([1.0], [1], datatype="FP32"), '"datatype" must be "BYTES"'),
    "no data": ("v2", tensor(None, [1]), 'must have "data"'),
    "three axes": ("v2", tensor([["a"]], [1, 1, 1]), "one text a row"),
    "two columns": ("v2", tensor(["a", "b"], [1, 2]), "one text a row"),
    "another shape": ("v2", tensor(["a", "b"], [3]), "as many texts as its shape says; got 2"),
    "shared memory": ("v2", tensor(["a"], [1], parameters={"shared_memory_region": "r"}), "not allowed here"),
    "data and raw": ("v2", tensor(["a"], [1], parameters={"binary_data_size": 0}), "binary_data_size"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_text_is_refused_in_one_sentence(what: str) -> None:
    name, body, sentence = REFUSED[what]
    with pytest.raises(BadRequest, match=sentence) as refused:
        read(name, body)
    assert refused.value.sentence.endswith(".")
    assert refused.value.status in (400, 413)


ONE = {"path": "/predict", "rows": "$.text", "batch": False, "extras": ["$.lang"]}


def test_one_text_a_request_goes_with_its_extras() -> None:
    spec = served(INPUTS["hash"], options=ONE)
    found = read("mapping", {"text": "a, b", "lang": "en"}, spec)
    assert found.carried == Carried(texts=("a, b",), extras={"$.lang": "en"})
    np.testing.assert_array_equal(found.x, rows_of_texts(["a, b"]))
    ask = CATALOG.load("mapping")().ask(spec, found.x, found.carried)
    assert json.loads(ask.body) == {"text": "a, b", "lang": "en"}
    for body in (
        {"text": ["a"] * 2},
        {"text": 1},
        {"text": {"text": "a"}},
        {"texts": "a"},
        {"text": "a", "more": 1},
        "a",
    ):
        with pytest.raises(BadRequest):
            read("mapping", body, spec)
    with pytest.raises(BadRequest, match="takes one row a request; got 2"):
        CATALOG.load("mapping")().ask(spec, np.zeros((2, 3)), Carried(texts=("a", "b")))


def test_a_body_may_be_a_list_of_texts() -> None:
    spec = served(INPUTS["hash"], options={"rows": "$"})
    assert read("mapping", list(SOME), spec).carried.texts == SOME
    assert json.loads(CATALOG.load("mapping")().ask(spec, np.zeros((2, 3)), Carried(texts=SOME)).body) == list(SOME)
    for body in (b'["a"], "rows": ["b"]', b'"a"', b'{"rows": ["a"]}', b'["a"]}, {'):
        with pytest.raises(BadRequest):
            read("mapping", body, spec)


def test_a_csv_table_of_texts_is_refused() -> None:
    with pytest.raises(BadRequest, match="a CSV table of them is not read here") as refused:
        read("invocations", b"text\na\n", headers={"content-type": "text/csv"})
    assert refused.value.status == 415


RAW: dict[str, tuple[bytes, Any, str]] = {
    "a length beyond the end": (b"\x05\x00\x00\x00abc", None, "its length in four bytes, and that many bytes"),
    "a length of 4 GiB": (b"\xff\xff\xff\xffabc", None, "its length in four bytes"),
    "half a length": (b"\x01\x00\x00\x00a\x01\x00", None, "its length in four bytes"),
    "no UTF-8": (b"\x01\x00\x00\x00\xff", None, "must be UTF-8"),
    "a surrogate": (b"\x03\x00\x00\x00\xed\xa0\x80", None, "must be UTF-8"),
    "another size": (b"\x01\x00\x00\x00a", 4, "binary_data_size"),
    "nothing": (b"", None, "must be a list of texts"),
    "many": (b"\x00\x00\x00\x00" * 9, None, "1 to 8 rows"),
    "NUL": (b"\x01\x00\x00\x00\x00", None, "without the character NUL"),
}


@pytest.mark.parametrize("what", RAW)
def test_a_raw_tensor_that_lies_is_refused(what: str) -> None:
    data, size, sentence = RAW[what]
    headers, body = raw([], [1, 1], len(data) if size is None else size)
    with pytest.raises(BadRequest, match=sentence):
        read("v2", body + data, headers=headers)


def test_raw_texts_are_read() -> None:
    headers, body = raw([text.encode() for text in TEXTS])
    assert read("v2", body, headers=headers).carried.texts == tuple(TEXTS)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_a_million_short_texts_are_refused_before_they_are_parsed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portcullis_ml.gateway.protocols.text_questions.loads", lambda body: pytest.fail("parsed"))
    many = [b'"a"', b'"\\\\"', b'"\\""', b"0", b"[]", b'{"a":0}', b"[[]]"]
    for one in many:
        body = b"[" + b",".join([one] * 1_000_000) + b"]"
        whole = {"v1": b'{"instances":%b}', "v2": b'{"inputs":[{"name":"input","data":%b}]}'}[name] % body
        with pytest.raises(BadRequest, match="at most 8 texts; it holds more") as refused:
            read(name, whole)
        assert refused.value.status == 413


def test_texts_full_of_marks_are_no_more_than_they_are() -> None:
    texts = tuple('[{"a": "\\",",:' * 700 + "x" * i for i in range(8))
    assert read("v1", {"instances": list(texts)}).carried.texts == texts


def test_of_equal_keys_the_last_one_is_inspected_and_sent() -> None:
    found = read("v1", b'{"instances": ["benign"], "instances": ["probe"]}')
    assert found.carried.texts == ("probe",)
    np.testing.assert_array_equal(found.x, rows_of_texts(["probe"]))


def test_composed_texts_are_inspected_and_sent_composed() -> None:
    spec = served(TextInput(normalise="nfc"))
    found = read("v1", {"instances": ["e\u0301", "\u00e9"]}, spec)
    assert found.carried.texts == ("\u00e9", "\u00e9")
    np.testing.assert_array_equal(found.x[0], found.x[1])
    assert read("v1", {"instances": ["e\u0301"]}).carried.texts == ("e\u0301",)


def test_marks_that_take_long_to_sort_are_refused() -> None:
    spec = served(TextInput(normalise="nfc"))
    assert read("v1", {"instances": ["a" + "\u0301\u0323" * 15]}, spec).x.shape == (1, 3)
    with pytest.raises(BadRequest, match="at most 30 combining marks in a row"):
        read("v1", {"instances": ["a" + "\u0301\u0323" * 16]}, spec)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@settings(max_examples=150, deadline=None)
@example(["é", "e\u0301"], "v2", True, "hash")
@given(st.lists(TEXT, min_size=1, max_size=8), st.sampled_from(ABLE), st.booleans(), st.sampled_from(sorted(INPUTS)))
def test_what_is_inspected_is_what_every_upstream_is_asked(
    texts: list[str], name: str, binary: bool, kind: str
) -> None:
    spec = served(INPUTS[kind], binary=binary)
    wire = CATALOG.load(name)()
    ask = wire.ask(spec, spec.text.rows(texts), Carried(texts=tuple(texts)))
    found = wire.read(spec, ask.headers, ask.body)
    assert found.carried.texts == tuple(texts)
    for far in ABLE:
        ask = CATALOG.load(far)().ask(spec, found.x, found.carried)
        again = CATALOG.load(far)().read(spec, ask.headers, ask.body)
        assert again.carried == found.carried
        np.testing.assert_array_equal(again.x, found.x)


def plainly(text: str, dimensions: int) -> list[float]:
    """A text's vector, worked out word by word."""
    found, word = [0] * dimensions, ""
    for letter in text.lower() + " ":
        if letter.isalnum() or letter == "_":
            word += letter
        elif word:
            code = murmurhash3_32(word, 0)
            found[abs(code) % dimensions] += 1 if code >= 0 else -1
            word = ""
    length = sum(n * n for n in found) ** 0.5
    return [float(np.float32(n / length)) if length else 0.0 for n in found]


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("abcXYZéß019_ .,!世\n"), max_size=60))
def test_hashed_words_are_those_of_a_plain_count(text: str) -> None:
    found = Hashing(dimensions=16).rows([text])[0]
    np.testing.assert_allclose(found, plainly(text, 16), rtol=1e-7)
    np.testing.assert_array_equal(found, found.astype(np.float32))


def test_a_batch_of_hashed_texts_is_its_pieces() -> None:
    for ngrams in ("word", "char"):
        hashing = Hashing(dimensions=64, ngrams=ngrams)
        whole = hashing.rows(TEXTS)
        np.testing.assert_array_equal(whole, np.concatenate([hashing.rows([text]) for text in TEXTS]))
        assert ((whole**2).sum(axis=1).round(5) == [1, 0, 1, 1, 1]).all()


def test_texts_of_the_same_words_are_one_vector_and_two_hashes() -> None:
    words, texts = Hashing(), ["win a prize now", "prize a win now"]
    assert len(np.unique(words.rows(texts), axis=0)) == 1
    assert len(np.unique(TextInput().rows(texts), axis=0)) == 2
    assert (Hashing(ngrams="char").rows(["prizes"]) != Hashing(ngrams="char").rows(["prized"])).any()


def test_metadata_says_what_the_model_takes() -> None:
    spec = served(INPUTS["hash"])
    told = json.loads(CATALOG.load("v2")().tell(spec, "model").body)
    assert told["inputs"] == [{"name": "input", "datatype": "BYTES", "shape": [-1, 1]}]
    assert CATALOG.load("v2")().differences(spec, told) == []
    for shape in ([-1], [-1, 1], [1]):
        assert CATALOG.load("v2")().differences(spec, {"inputs": [{"name": "input", "shape": shape}]}) == []
    wrong = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]}
    assert len(CATALOG.load("v2")().differences(spec, wrong)) == 2
