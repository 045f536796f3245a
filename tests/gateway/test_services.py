"""Home-made JSON services: every shape of their questions and answers, and what is wrong in each."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import ParameterError, Unreachable
from portcullis_ml.core.types import Answer, Feature, Interface
from portcullis_ml.gateway.admin.openapi import described
from portcullis_ml.gateway.protocols.mapping import JsonPath
from portcullis_ml.gateway.protocols.mapping_table import mapping_table, suits
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import Carried, Inquiry, ModelSpec

WIRE = JsonPath()
WORDS = ("cat", "dog", "wolf")
COLUMNS = (
    Feature("age", 0, 99),
    Feature("city", values=("Bern", "Basel", "a, b")),
    Feature("member", values=("false", "true")),
)
X, Y = [[1.0, 2.0, 0.5, -3.0], [4.0, 0.0, 0.0, 1.0]], np.array([1, 0])
PERSON = [37.0, 2.0, 1.0]
ANNA = {"age": 37.0, "city": "a, b", "member": True}
BERT = {"age": 20.0, "city": "Bern", "member": False}
P = np.array([[0.25, 0.5, 0.25], [0.75, 0.25, 0.0]])
NAN = float("nan")
SCALED = np.array([[10.5], [-2.0]])


def spec(classes: int = 3, names: tuple[str, ...] = (), named: bool = False, **options: Any) -> ModelSpec:
    """A model of four numbers, or of three named columns."""
    interface = Interface(
        input_shape=(3,) if named else (4,),
        n_classes=classes,
        task="classification" if classes else "regression",
        features=COLUMNS if named else None,
    )
    return ModelSpec(name="m", interface=interface, class_names=names, max_rows=8, options=options)


# name -> (the model, its rows, what is posted, its answer, what is answered)
SHAPES: dict[str, tuple[ModelSpec, Any, Any, Answer, Any]] = {
    "a flat row, a flat answer": (
        spec(rows="$.features", batch=False, names=WORDS, scores="$.probabilities", labels="$.label"),
        X[:1], {"features": X[0]},
        Answer(Y[:1], P[:1]), {"probabilities": [0.25, 0.5, 0.25], "label": "dog"},
    ),
    "a flat row, lists of one": (
        spec(rows="$.features", batch=False, scores="$.p[*]", labels="$.y[*]"),
        X[:1], {"features": X[0]}, Answer(Y[:1], P[:1]), {"p": [[0.25, 0.5, 0.25]], "y": [1]},
    ),
    "an object by name": (
        spec(named=True, names=WORDS, rows="$", rows_as="object", batch=False, scores="$.p", scores_as="object"),
        [PERSON], ANNA,
        Answer(Y[:1], P[:1]), {"p": {"cat": 0.25, "dog": 0.5, "wolf": 0.25}, "labels": "dog"},
    ),
    "objects by name": (
        spec(named=True, rows="$.people", rows_as="object"),
        [PERSON, [20.0, 0.0, 0.0]], {"people": [ANNA, BERT]}, Answer(Y, P), {"scores": P.tolist(), "labels": [1, 0]},
    ),
    "a list of objects by name": (
        spec(named=True, rows="$", rows_as="object", scores="$[*].p", labels="$[*].y"),
        [PERSON, [20.0, 0.0, 0.0]], [ANNA, BERT],
        Answer(Y, P), [{"p": [0.25, 0.5, 0.25], "y": 1}, {"p": [0.75, 0.25, 0.0], "y": 0}],
    ),
    "nothing but rows": (
        spec(rows="$", scores="$", labels=""), X, X, Answer(Y, P), P.tolist(),
    ),
    "nothing but a row": (
        spec(rows="$", batch=False, scores="", labels="$"), X[:1], X[0], Answer(Y[:1]), 1,
    ),
    "results as objects": (
        spec(names=WORDS, scores="$.out.all[*].p", scores_as="object", labels="$.out.all[*].is.label"),
        X, {"inputs": X}, Answer(Y, P), {"out": {"all": [
            {"p": {"cat": 0.25, "dog": 0.5, "wolf": 0.25}, "is": {"label": "dog"}},
            {"p": {"cat": 0.75, "dog": 0.25, "wolf": 0.0}, "is": {"label": "cat"}}]}},
    ),
    "the named class's score": (
        spec(names=WORDS, scores="$.predictions[*].score", scores_as="top", labels="$.predictions[*].label"),
        X, {"inputs": X}, Answer(Y, np.array([[NAN, 0.5, NAN], [0.75, NAN, NAN]])),
        {"predictions": [{"score": 0.5, "label": "dog"}, {"score": 0.75, "label": "cat"}]},
    ),
    "of two classes the named one's score": (
        spec(2, ("no", "yes"), rows="$.row", batch=False, scores="$.score", scores_as="top", labels="$.label"),
        X[:1], {"row": X[0]}, Answer(np.array([0]), np.array([[0.75, 0.25]])), {"score": 0.75, "label": "no"},
    ),
    "one sigmoid column": (
        spec(2, ("no", "yes"), scores="$.p", scores_as="number", labels=""),
        X, {"inputs": X}, Answer(np.array([1, 0]), np.array([[0.25, 0.75], [1.0, 0.0]])), {"p": [0.75, 0.0]},
    ),
    "a bare sigmoid": (
        spec(2, rows="$.features", batch=False, scores="$.score", scores_as="number", labels=""),
        X[:1], {"features": X[0]}, Answer(np.array([1]), np.array([[0.25, 0.75]])), {"score": 0.75},
    ),
    "a price": (
        spec(0, rows="$.features", batch=False, scores="$.price", scores_as="number"),
        X[:1], {"features": X[0]}, Answer(None, SCALED[:1]), {"price": 10.5},
    ),
    "prices": (
        spec(0, scores="$.prices[*].chf", scores_as="number"),
        X, {"inputs": X}, Answer(None, SCALED), {"prices": [{"chf": 10.5}, {"chf": -2.0}]},
    ),
}  # fmt: skip


def same(a: Answer, b: Answer) -> None:
    for left, right in ((a.labels, b.labels), (a.scores, b.scores)):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_asked_and_answered_as_written(shape: str) -> None:
    served, x, posted, answer, said = SHAPES[shape]
    ask = WIRE.ask(served, np.array(x))
    assert orjson.loads(ask.body) == posted
    inquiry = WIRE.read(served, {"content-type": "application/json"}, orjson.dumps(posted))
    np.testing.assert_array_equal(inquiry.x, x)
    assert orjson.loads(WIRE.write(served, inquiry, answer).body) == said
    same(WIRE.understand(served, len(x), {}, orjson.dumps(said)), answer)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_suits_its_model_and_is_described(shape: str) -> None:
    served, _, posted, _, said = SHAPES[shape]
    suits(mapping_table(served.options), served.interface)
    (route,) = WIRE.routes(served)
    assert fits(posted, route.body)
    assert fits(said, route.answer)
    assert not fits({"other": 1}, route.body)
    assert not fits({"other": 1}, route.answer)


def fits(value: Any, schema: Any) -> bool:
    from tests.gateway.test_openapi import fits as as_described

    return as_described(value, schema)


@pytest.mark.parametrize("shape", [name for name, held in SHAPES.items() if held[3].labels is not None])
def test_what_a_guard_withholds_is_null_and_the_class_stays(shape: str) -> None:
    """A service that names no class shows it in its scores, one-hot; every other one keeps its null."""
    served, x, _, answer, _ = SHAPES[shape]
    bare = Answer(answer.labels, None if answer.scores is None else np.full_like(answer.scores, NAN))
    found = WIRE.understand(served, len(x), {}, WIRE.write(served, Inquiry(np.array(x)), bare).body)
    np.testing.assert_array_equal(found.labels, answer.labels)
    if found.scores is not None and served.options.get("labels") != "":
        assert np.isnan(found.scores).all()
    nothing = Answer(np.full(len(x), -1), bare.scores)
    found = WIRE.understand(served, len(x), {}, WIRE.write(served, Inquiry(np.array(x)), nothing).body)
    assert not found.answered.any()


FLAT, RECORD, RECORDS, ROWS = (
    SHAPES[name][0]
    for name in ("a flat row, a flat answer", "an object by name", "objects by name", "nothing but rows")
)
WITH_EXTRAS = spec(rows="$.data.rows", extras=["$.lang", "$.data.top", "$.options.deep.seed"])
BESIDE = spec(named=True, rows="$", rows_as="object", batch=False, extras=["$.lang", "$.about.id"])
GOOD = '"city":"Bern","member":false'
HOSTILE: dict[str, list[tuple[ModelSpec, str, str]]] = {
    "flat": [
        (FLAT, '{"features":[[1,2,3,4]]}', "must hold one row by itself; got a list of 1 rows"),
        (FLAT, '{"features":[[1,2,3,4],[1,2,3,4]]}', "one row by itself; got a list of 2 rows"),
        (FLAT, '{"features":[1,2,3]}', "shape (n, 4)"),
        (FLAT, '{"features":[[[1,2,3,4]]]}', "shape (n, 4)"),
        (FLAT, '{"features":[]}', "at least one number"),
        (FLAT, '{"features":5}', "numbers only"),
        (FLAT, '{"features":[1,2,3,"4"]}', "numbers only"),
        (FLAT, '{"features":[1,2,3,true]}', "numbers only"),
        (FLAT, '{"features":[1,2,3,null]}', "numbers only"),
        (FLAT, '{"features":[1,2,3,NaN]}', "valid JSON"),
        (FLAT, '{"features":[1,2,3,1e999]}', ""),
        (FLAT, '{"features":[1,2,[3],4]}', ""),
        (FLAT, '{"features":{"a":1}}', "numbers only"),
        (FLAT, '{"feature":[1,2,3,4]}', "'feature', which is not allowed"),
        (FLAT, '{"features":[1,2,3,4],"x":1}', "'x', which is not allowed"),
        (FLAT, "{}", 'must hold rows at "$.features"'),
        (FLAT, '{"features":null}', 'must hold rows at "$.features"'),
        (FLAT, "[1,2,3,4]", "must be a JSON object"),
        (FLAT, "", "valid JSON"),
    ],
    "by name": [
        (RECORD, f'{{"age":"37",{GOOD}}}', "'age' must be a number"),
        (RECORD, f'{{"age":true,{GOOD}}}', "'age' must be a number"),
        (RECORD, f'{{"age":[37],{GOOD}}}', "'age' must be a number"),
        (RECORD, f'{{"age":null,{GOOD}}}', "must hold 'age', which may not be null"),
        (RECORD, f"{{{GOOD}}}", "must hold 'age'"),
        (RECORD, f'{{"age":NaN,{GOOD}}}', "valid JSON"),
        (RECORD, f'{{"age":1,"extra":2,{GOOD}}}', "'extra', which is not allowed"),
        (RECORD, '{"age":1,"city":"Paris","member":false}', "'city' must be one of 'Bern', 'Basel', 'a, b'"),
        (RECORD, '{"age":1,"city":0,"member":false}', "'city' must be one of"),
        (RECORD, '{"age":1,"city":["Bern"],"member":false}', "'city' must be one of"),
        (RECORD, '{"age":1,"city":"Bern","member":0}', "'member' must be one of false, true"),
        (RECORD, '{"age":1,"city":"Bern","member":"false"}', "'member' must be one of false, true"),
        (RECORD, f'[{{"age":1,{GOOD}}}]', "must be a JSON object"),
        (RECORDS, f'{{"people":{{"age":1,{GOOD}}}}}', "a list of 1 to 8 objects"),
        (RECORDS, '{"people":[]}', "a list of 1 to 8 objects"),
        (RECORDS, '{"people":[1]}', "must be an object"),
        (RECORDS, f'{{"people":[[{{"age":1,{GOOD}}}]]}}', "must be an object"),
        (RECORDS, f'{{"people":[{{"age":1,{GOOD}}},{{"age":1}}]}}', "must hold 'city'"),
        (RECORDS, '{"people":[' + ",".join([f'{{"age":1,{GOOD}}}'] * 9) + "]}", "1 to 8 rows; got 9"),
    ],
    "the whole body": [
        (ROWS, "[1,2,3,4]", "shape (n, 4)"),
        (ROWS, '{"inputs":[[1,2,3,4]]}', "must be a JSON list"),
        (ROWS, '[[1,2,3,"4"]]', "numbers only"),
        (ROWS, '[[1,2,3,4]],"rows":[[1,2,3,4]]', "must be a JSON list"),
        (ROWS, '[[1,2,3,4]],"a":1', "must be a JSON list"),
        (ROWS, "[[1,2,3,4]],[[1,2,3,4]]", "valid JSON"),
        (ROWS, "[[1,2,3,4]]}", "valid JSON"),
        (ROWS, "[[1,2,3,4]", "valid JSON"),
        (ROWS, "", "valid JSON"),
        (ROWS, "null", "must hold rows"),
        (ROWS, "[[1,2,3,true]]", "numbers only"),
        (ROWS, "[[1,2,3,1e999]]", ""),
        (ROWS, "[" * 5000 + "]" * 5000, ""),
    ],
    "extras": [
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]],"lang":"en"}}', "'lang', which is not allowed"),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]]},"top":1}', "'top', which is not allowed"),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]]},"lang":["en"]}', '"$.lang" must be a number'),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]]},"lang":{"a":1}}', '"$.lang" must be a number'),
        (WITH_EXTRAS, f'{{"data":{{"rows":[[1,2,3,4]]}},"lang":"{"x" * 257}"}}', "text of at most 256"),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]]},"lang":"a\\u0000"}', "text of at most 256"),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]],"top":1e300}}', "at most 2^53"),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]],"top":18446744073709551615}}', "at most 2^53"),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]]},"options":1}', "must be an object"),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]]},"options":{"deep":1}}', "must be an object"),
        (WITH_EXTRAS, '{"data":{"rows":[[1,2,3,4]]},"options":{"deep":{"x":1}}}', "'x', which is not allowed"),
        (WITH_EXTRAS, '{"data":{"top":1}}', "must hold rows"),
        (WITH_EXTRAS, '{"data":{"rows":{"top":1}}}', "numbers only"),
        (BESIDE, f'{{"age":1,{GOOD},"lang":[1]}}', '"$.lang" must be a number'),
        (BESIDE, f'{{"age":1,{GOOD},"other":1}}', "'other', which is not allowed"),
        (BESIDE, f'{{"age":1,{GOOD},"about":{{"name":1}}}}', "'name', which is not allowed"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("served", "body", "said"), [row for rows in HOSTILE.values() for row in rows], ids=lambda v: str(v)[:40]
)
def test_what_is_no_question_is_refused_in_one_sentence(served: ModelSpec, body: str, said: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        WIRE.read(served, {}, body.encode())
    assert said in refusal.value.sentence
    assert 400 <= refusal.value.status < 500
    assert refusal.value.sentence.endswith(".")
    assert len(refusal.value.sentence) < 250


@pytest.mark.parametrize("served", [FLAT, RECORD, RECORDS, ROWS, WITH_EXTRAS, BESIDE])
def test_a_hundred_thousand_keys_or_lists_are_refused_before_they_are_parsed(
    served: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ",".join(f'"k{i}":1' for i in range(100_000))
    bodies = [f"{{{keys}}}", f"[{{{keys}}}]", "[" + "[]," * 100_000 + "[]]", "[" + "1," * 400_000 + "1]"]
    for where in ("features", "people", "data"):
        bodies += [f'{{"{where}":{body}}}' for body in bodies[:4]]
    monkeypatch.setattr("portcullis_ml.gateway.protocols.strict.orjson.loads", None)
    for body in bodies:
        with pytest.raises(BadRequest, match="must hold at most"):
            WIRE.read(served, {}, body.encode())


def test_of_equal_keys_the_last_one_holds_and_is_what_is_asked() -> None:
    """Whatever a parser behind the gate would have taken, it gets one key."""
    asked = WIRE.read(FLAT, {}, b'{"features":[1,1,1,1],"features":[1,2,3,4]}')
    np.testing.assert_array_equal(asked.x, [[1, 2, 3, 4]])
    assert orjson.loads(WIRE.ask(FLAT, asked.x).body) == {"features": [1, 2, 3, 4]}
    twice = WIRE.read(RECORD, {}, f'{{"age":1,"age":2,{GOOD}}}'.encode())
    assert twice.x[0, 0] == 2


def test_extras_go_on_under_their_own_paths() -> None:
    body = {"data": {"rows": X, "top": 3}, "lang": "en", "options": {"deep": {"seed": False}}}
    inquiry = WIRE.read(WITH_EXTRAS, {}, orjson.dumps(body))
    assert inquiry.carried == Carried(extras={"$.data.top": 3, "$.lang": "en", "$.options.deep.seed": False})
    assert orjson.loads(WIRE.ask(WITH_EXTRAS, inquiry.x, inquiry.carried).body) == body
    there = spec(rows="$.x", extras=WITH_EXTRAS.options["extras"])  # another mapping towards the upstream
    assert orjson.loads(WIRE.ask(there, inquiry.x, inquiry.carried).body) == {
        "x": X, "data": {"top": 3}, "lang": "en", "options": {"deep": {"seed": False}}
    }  # fmt: skip
    plain = WIRE.read(WITH_EXTRAS, {}, orjson.dumps({"data": {"rows": X}, "lang": None}))
    assert orjson.loads(WIRE.ask(WITH_EXTRAS, plain.x, plain.carried).body) == {"data": {"rows": X}}


def test_extras_may_stand_among_a_rows_columns() -> None:
    body = {**ANNA, "lang": "de", "about": {"id": 7}}
    inquiry = WIRE.read(BESIDE, {}, orjson.dumps(body))
    np.testing.assert_array_equal(inquiry.x, [PERSON])
    assert orjson.loads(WIRE.ask(BESIDE, inquiry.x, inquiry.carried).body) == body
    with pytest.raises(ParameterError, match="paths of other keys than the model's columns"):
        suits(mapping_table({**BESIDE.options, "extras": ["$.age"]}), BESIDE.interface)


def test_an_omitted_input_is_null_or_left_out() -> None:
    served = spec(named=True, rows="$", rows_as="object", batch=False)
    interface = Interface(input_shape=(3,), n_classes=3, features=COLUMNS, missing=True)
    served = ModelSpec(name="m", interface=interface, options=served.options)
    for body in ('{"age":null,"city":"Basel","member":true}', '{"city":"Basel","member":true}'):
        np.testing.assert_array_equal(WIRE.read(served, {}, body.encode()).x, [[NAN, 1, 1]])
    asked = orjson.loads(WIRE.ask(served, np.array([[1.0, NAN, NAN]])).body)
    assert asked == {"age": 1.0, "city": None, "member": None}


@pytest.mark.parametrize(("value", "column"), [(1.5, 1), (3.0, 1), (-1.0, 1), (2.0, 2), (NAN, 1)])
def test_a_code_that_is_no_category_is_refused(value: float, column: int) -> None:
    row = np.array([PERSON])
    row[0, column] = value
    if np.isnan(value):  # refused where it is read
        assert orjson.loads(WIRE.ask(RECORD, row).body)["city"] is None
        return
    with pytest.raises(BadRequest, match="must be a category's code, a whole number from 0 to"):
        WIRE.ask(RECORD, row)


def test_one_row_is_the_most_that_a_flat_question_holds() -> None:
    assert WIRE.most_rows(FLAT) == 1
    assert WIRE.most_rows(RECORDS) == 8
    with pytest.raises(BadRequest, match="takes one row a request; got 2"):
        WIRE.ask(FLAT, np.array(X))


ANSWERS: list[tuple[str, Any, str]] = [
    ("results as objects", {"out": {"all": [{"p": {"cat": 1}}, {"p": {"cat": 1}}]}}, "a score for each class"),
    ("results as objects", {"out": {"all": [{"p": {"cat": 0, "dog": 1, "cow": 0}}] * 2}}, "a score for each class"),
    ("results as objects", {"out": {"all": [{"p": [0.1, 0.2, 0.7]}] * 2}}, "by its name; it sent list"),
    ("results as objects", {"out": {"all": [{"is": {"label": "dog"}}]}}, "of shape 2; it sent 1"),
    ("results as objects", {"out": {"all": {"p": {"cat": 1}}}}, "must answer $.out.all[*].p"),
    ("results as objects", {"out": []}, "must answer $.out.all[*].p"),
    ("results as objects", {"out": {"all": [{"is": {"label": "cow"}}] * 2}}, "does not name it"),
    ("the named class's score", {"predictions": [{"score": 0.5}] * 2}, "the class of each score"),
    ("the named class's score", {"predictions": [{"score": 0.5, "label": "dog"}]}, "of shape 2"),
    ("the named class's score", {"predictions": [{"score": "x", "label": "dog"}] * 2}, "lists of numbers"),
    ("the named class's score", {"predictions": [{"score": [0.5, 0.5], "label": "dog"}] * 2}, "scores of shape 2"),
    ("of two classes the named one's score", {"score": 1.5, "label": "no"}, "from 0 to 1"),
    ("one sigmoid column", {"p": [0.5]}, "scores of shape 2 x 2; it sent 1"),
    ("one sigmoid column", {"p": [0.5, 7]}, "from 0 to 1"),
    ("a bare sigmoid", {"score": {"a": 1}}, "lists of numbers"),
    ("a price", {"price": [1, 2]}, "scores of shape 1 x 1; it sent 2"),
    ("a price", {"prices": 1}, "must answer $.price"),
    ("nothing but a row", [1, 2], "classes of shape 1; it sent 2"),
    ("nothing but rows", {"a": 1}, "lists of numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "said", "why"), ANSWERS)
def test_what_is_no_answer_is_unreachable_in_one_sentence(shape: str, said: Any, why: str) -> None:
    served, x, *_ = SHAPES[shape]
    with pytest.raises(Unreachable) as error:
        WIRE.understand(served, len(x), {}, orjson.dumps(said))
    assert why in str(error.value)


def test_an_embedding_is_a_list_for_each_row() -> None:
    interface = Interface(input_shape=(4,), n_classes=0, task="regression", outputs=2)
    options = {"rows": "$.features", "batch": False, "scores": "$.embedding", "labels": ""}
    served = ModelSpec(name="m", interface=interface, options=options)
    said = WIRE.write(served, Inquiry(np.array(X[:1])), Answer(None, np.array([[0.5, -2.0]]))).body
    assert orjson.loads(said) == {"embedding": [0.5, -2.0]}
    same(WIRE.understand(served, 1, {}, said), Answer(None, np.array([[0.5, -2.0]])))
    with pytest.raises(ParameterError, match="list for a regression of 2 outputs"):
        suits(mapping_table({**options, "scores_as": "number"}), interface)


# What one side writes the other reads, whatever the mapping.

KEY = st.text(alphabet="abAB _-é/", min_size=1, max_size=4)
CELL = st.floats(allow_nan=False, allow_infinity=False) | st.just(-0.0)


@st.composite
def mappings(draw: Any) -> ModelSpec:
    named, classes = draw(st.booleans()), draw(st.sampled_from([0, 2, 3]))
    words = draw(st.sampled_from([(), WORDS[:classes]])) if classes else ()
    kinds = {0: ("list", "number"), 2: ("list", "object", "number", "top"), 3: ("list", "object", "top")}
    parts = [draw(st.lists(KEY, max_size=2)) for _ in range(3)]
    star = draw(st.sampled_from(["", "[*]"]))
    root = "$" + "".join(f".{key}" for key in parts[1]) + star
    options = {
        "rows": "$" + "".join(f".{key}" for key in parts[0]),
        "batch": draw(st.booleans()),
        "rows_as": draw(st.sampled_from(["list", "object"])) if named else "list",
        "scores": root + ".s",
        "scores_as": draw(st.sampled_from(kinds[classes])),
        "labels": root + ".l",
        "extras": draw(st.lists(KEY.map(lambda key: f"$.{key}"), max_size=2)),
    }
    served = spec(classes, words, named=named, **options)
    try:
        suits(mapping_table(options), served.interface)
    except ParameterError:
        return spec(classes, words, named=named, **{**options, "extras": []})
    return served


@settings(max_examples=300, deadline=None)
@given(data=st.data(), served=mappings())
def test_what_one_side_writes_the_other_reads(data: Any, served: ModelSpec) -> None:
    n, classes = data.draw(st.integers(1, 3 if WIRE.most_rows(served) > 1 else 1)), served.interface.n_classes
    if served.interface.features:
        codes = [data.draw(st.tuples(CELL, st.integers(0, 2), st.integers(0, 1))) for _ in range(n)]
        x = np.array(codes, np.float64)
    else:
        x = np.array([data.draw(st.tuples(*[CELL] * 4)) for _ in range(n)])
    scalar = st.booleans() | st.integers(-9, 9) | st.text(alphabet="abc é", max_size=5)
    extras = {path: data.draw(scalar) for path in served.options["extras"]}
    ask = WIRE.ask(served, x, Carried(extras=extras))
    inquiry = WIRE.read(served, dict(ask.headers), ask.body)
    np.testing.assert_array_equal(inquiry.x, x)
    assert inquiry.carried.extras == extras
    assert fits(json.loads(ask.body), WIRE.routes(served)[0].body)
    scores = np.array([data.draw(st.sampled_from([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]])) for _ in range(n)])
    scores = scores if classes == 3 else np.stack([1 - scores[:, 0], scores[:, 0]], 1) if classes else scores[:, :1]
    labels = np.array([data.draw(st.integers(0, classes - 1)) for _ in range(n)]) if classes else None
    reply = WIRE.write(served, inquiry, Answer(labels, scores))
    assert fits(json.loads(reply.body), WIRE.routes(served)[0].answer)
    found = WIRE.understand(served, n, {}, reply.body)
    if served.options["scores_as"] == "top" and classes == 3 and labels is not None:
        scores = np.where(np.arange(3) == labels[:, None], scores, NAN)
    same(found, Answer(labels, scores))


def test_the_gates_description_holds_a_service(tmp_path: Any) -> None:
    from tests.gateway.harness import Softmax, policy_of

    more = (
        '[upstream]\nurl = "http://127.0.0.1:9"\nprotocol = "mapping"\n[listen]\nprotocols = ["mapping"]\n'
        '[model.mapping]\nrows = "$.features"\nbatch = false\n'
        'scores = "$.p"\nextras = ["$.lang"]\n'
    )
    tree = described(policy_of(Softmax(), "http://127.0.0.1:9", tmp_path, more=more))
    body = tree["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert fits({"features": [1.0, 2.0, 3.0, 4.0], "lang": "en"}, body)
    assert not fits({"features": [[1.0, 2.0, 3.0, 4.0]]}, body)


async def test_a_column_between_whole_numbers_is_tried_with_one() -> None:
    """Where the service takes an int, half of one would be refused whatever the policy says."""
    from portcullis_ml.gateway.upstream import HttpUpstream

    upstream, sent = HttpUpstream("http://127.0.0.1:9", WIRE, RECORD), list[Any]()

    async def posted(method: str, path: str, headers: Any, body: bytes, **limits: Any) -> tuple[int, Any, bytes]:
        sent.append(json.loads(body))
        return 200, {}, b'{"p":{"cat":0.25,"dog":0.5,"wolf":0.25},"labels":"dog"}'

    upstream._client.ask = posted  # type: ignore[method-assign, assignment]
    await upstream.try_out()
    assert sent == [{"age": 49.0, "city": "Bern", "member": False}]
    await upstream.close()


@pytest.mark.parametrize("indent", [None, 1])
def test_as_many_objects_as_may_be_asked_fit(indent: int | None) -> None:
    columns = (Feature("income, monthly: {EUR}", 0, 9), Feature("city", values=("a,:[{", 'said "so"', "plain")))
    interface = Interface(input_shape=(2,), n_classes=3, features=columns)
    options = {"rows": "$", "rows_as": "object"}
    served = ModelSpec(name="m", interface=interface, max_rows=3_000, options=options)
    x = np.stack([np.arange(3_000.0), np.arange(3_000.0) % 3], axis=1)
    body = json.dumps(json.loads(WIRE.ask(served, x).body), indent=indent).encode()
    np.testing.assert_array_equal(WIRE.read(served, {}, body).x, x)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("rows", ["$", "$.picture.pixels"])
def test_a_large_body_is_read_as_a_small_one(batch: bool, rows: str) -> None:
    """Its numbers are read by pieces."""
    options = {"rows": rows, "batch": batch}
    interface = Interface(input_shape=(3, 64, 64), n_classes=3)
    served = ModelSpec(name="m", interface=interface, max_rows=4, options=options)
    x = np.random.default_rng(0).random((3 if batch else 1, 3, 64, 64))
    body = WIRE.ask(served, x).body
    assert len(body) > 200_000
    np.testing.assert_array_equal(WIRE.read(served, {}, body).x, x)
    for wrong in (body.replace(b"]]", b"]],true]", 1), body[:-2] + b",1" + body[-2:], body.replace(b"[", b"[[", 1)):
        with pytest.raises(BadRequest):
            WIRE.read(served, {}, wrong)
