"""The short ways of reading agree with the plain ones: on every number, and on every sentence of refusal."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.gateway.harness import NUMERIC
from tests.gateway.test_fuzz import SERVED, TOKENS, VALID, N, mutated

from portcullis_ml.core.errors import Unreachable
from portcullis_ml.core.types import Answer, Interface
from portcullis_ml.gateway.protocols import CATALOG, number_lists
from portcullis_ml.gateway.protocols.strict import BadRequest, finite, floats, moderate, single
from portcullis_ml.gateway.protocols.tensors import one_row, several_rows
from portcullis_ml.gateway.protocols.v2 import OpenInference
from portcullis_ml.gateway.protocols.v2_question import FORMS, LENGTH
from portcullis_ml.gateway.protocols.wire import DTYPE, ModelSpec
from portcullis_ml.gateway.upstream import FEW, checked

needs_simdjson = pytest.mark.skipif(number_lists.PARSER is None, reason="without simdjson there is one way only")
LONG = ModelSpec(name="m", interface=Interface(input_shape=(3,), n_classes=3), max_rows=1000)


@contextmanager
def reading(parser: Any) -> Iterator[None]:
    """With this parser, however short a list is."""
    held = number_lists.PARSER, number_lists.LEAST, number_lists.SHARE
    number_lists.PARSER, number_lists.LEAST, number_lists.SHARE = parser, 0, 0.0
    try:
        yield
    finally:
        number_lists.PARSER, number_lists.LEAST, number_lists.SHARE = held


def outcome(name: str, served: ModelSpec, headers: dict[str, str], body: bytes) -> Any:
    try:
        found = CATALOG.load(name)().read(served, headers, body)
    except BadRequest as refusal:
        return refusal.status, refusal.sentence
    return found.x.shape, found.x.tobytes(), *found[1:]


def both(name: str, served: ModelSpec, headers: dict[str, str], body: bytes) -> tuple[Any, Any]:
    """What becomes of a body by the short way and by the plain one."""
    with reading(number_lists.PARSER):
        quick = outcome(name, served, headers, body)
    with reading(None):
        return quick, outcome(name, served, headers, body)


NUMBER = (
    st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda v: str(np.float32(v)))
    | st.integers(-(2**66), 2**66).map(str)
    | st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
    | st.sampled_from(["-0", "-0.0", "1e999", "1.7976931348623158e308", "5e-324", "2e-324", "01", "1.", "true", "null"])
)
BODIES = {
    "v2": '{"inputs":[{"name":"input","shape":[%d,3],"datatype":"%s","data":%s}]}',
    "v1": '{"instances":%s}',
    "invocations": '{"inputs":%s}',
    "mapping": '{"inputs":%s}',
}


@needs_simdjson
@settings(max_examples=2 * N, deadline=2_000)
@given(
    rows=st.lists(st.lists(NUMBER, min_size=3, max_size=3), min_size=1, max_size=3),
    kind=st.sampled_from(["FP64", "FP32", "FP16", "INT8", "UINT64", "BOOL"]),
    gap=st.sampled_from(["", " ", "\n\t", "\x0c"]),
    flat=st.booleans(),
)
def test_every_number_is_read_to_the_bit_as_it_is_read_one_by_one(
    rows: list[list[str]], kind: str, gap: str, flat: bool
) -> None:
    lists = ["[" + f",{gap}".join(row) + "]" for row in rows]
    nested = f"[{gap}" + ",".join(lists) + "]"
    joined = "[" + f",{gap}".join(v for row in rows for v in row) + "]"
    for name, form in BODIES.items():
        text = form % (len(rows), kind, joined if flat else nested) if name == "v2" else form % nested
        quick, plain = both(name, LONG, {}, text.encode())
        assert quick == plain


@needs_simdjson
@settings(max_examples=2 * N, deadline=2_000)
@given(data=st.data(), kind=st.sampled_from(sorted(SERVED)))
def test_after_an_accident_it_is_read_or_refused_in_the_same_words(data: Any, kind: str) -> None:
    name, headers, body = data.draw(st.sampled_from(VALID[kind]))
    quick, plain = both(name, SERVED[kind], headers, data.draw(mutated(body)))
    assert quick == plain


@needs_simdjson
@settings(max_examples=N, deadline=2_000)
@given(data=st.data(), token=st.sampled_from([*TOKENS, b'"data":[1,2,3]', b'"data"', b"[[", b"]]", b'"}', b'\\"data']))
def test_whatever_stands_anywhere_in_a_long_question_is_met_alike(data: Any, token: bytes) -> None:
    for name, form in BODIES.items():
        body = (form % (1, "FP64", "[0.5,1.25,-3e2]") if name == "v2" else form % "[[0.5,1.25,-3e2]]").encode()
        at = data.draw(st.integers(0, len(body)))
        quick, plain = both(name, LONG, {}, body[:at] + token + body[at + data.draw(st.integers(0, 3)) :])
        assert quick == plain


@contextmanager
def in_pieces() -> Iterator[None]:
    """Every body is large, and a piece is a handful of bytes."""
    held = number_lists.PARSER, number_lists.LARGE, number_lists.PIECE, number_lists.REST
    number_lists.PARSER, number_lists.LARGE, number_lists.PIECE, number_lists.REST = None, 0, 5, 1 << 20
    try:
        yield
    finally:
        number_lists.PARSER, number_lists.LARGE, number_lists.PIECE, number_lists.REST = held


def by_pieces(name: str, served: ModelSpec, headers: dict[str, str], body: bytes) -> tuple[Any, Any]:
    """What becomes of a body by pieces and as a whole; of refusals their status, as their words differ."""
    with in_pieces():
        pieces = outcome(name, served, headers, body)
    with reading(None):
        whole = outcome(name, served, headers, body)
    return tuple(o[0] if isinstance(o[0], int) else o for o in (pieces, whole))  # type: ignore[return-value]


@settings(max_examples=2 * N, deadline=2_000)
@given(
    rows=st.lists(st.lists(NUMBER, min_size=3, max_size=3), min_size=1, max_size=5),
    kind=st.sampled_from(["FP64", "FP32", "FP16", "INT8", "UINT64", "BOOL"]),
    gap=st.sampled_from(["", " ", "\n\t", "\x0c"]),
    flat=st.booleans(),
)
def test_every_number_is_read_by_pieces_as_it_is_in_one(rows: list[list[str]], kind: str, gap: str, flat: bool) -> None:
    nested = f"[{gap}" + f"{gap},{gap}".join("[" + f",{gap}".join(row) + f"{gap}]" for row in rows) + f"{gap}]"
    joined = "[" + f",{gap}".join(v for row in rows for v in row) + "]"
    for name, form in BODIES.items():
        text = form % (len(rows), kind, joined if flat else nested) if name == "v2" else form % nested
        pieces, whole = by_pieces(name, LONG, {}, text.encode())
        assert pieces == whole


@settings(max_examples=4 * N, deadline=2_000)
@given(data=st.data(), kind=st.sampled_from(sorted(SERVED)))
def test_after_an_accident_pieces_are_understood_or_refused_as_the_whole_is(data: Any, kind: str) -> None:
    name, headers, body = data.draw(st.sampled_from(VALID[kind]))
    pieces, whole = by_pieces(name, SERVED[kind], headers, data.draw(mutated(body)))
    assert pieces == whole


@pytest.mark.parametrize("shape", [(40, 3), (40, 2, 3), (2, 3, 4, 5)])
def test_a_list_is_cut_between_the_values_of_the_outermost_one(shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape), dtype=float).reshape(shape)
    for indent in (None, 2):
        text = json.dumps(x.tolist(), indent=indent).encode()
        with in_pieces():
            cuts = number_lists._cuts(text)
            assert len(cuts) == len(x)
            _, found = number_lists.without_numbers(b'{"data":' + text + b"}", b'"data"') or (b"", None)
        np.testing.assert_array_equal(found, x)


ODD = [
    b'{"data":[1,2,3]}',
    b'{"inputs":[{"data":[1,2,3]},{"data":[1,2,3]}]}',
    b'{"inputs":[{"name":"data","data":[1,2,3]}]}',
    b'{"inputs":[{"parameters":{"data":[1,2,3]}}]}',
    b'{"inputs":[{"shape":{"data":[1,2,3]}}]}',
    b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","d\\u0061ta":[4,4,4],"data":[1,2,3]}]}',
    b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":[1,2,3],"data":[1,2,3]}]}',
    b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":[1,2,3]}],"id":"\\"data\\":["}',
    b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":[]}]}',
    b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":[[[1,2,3]]]}]}',
    b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":' + b"[" * 33 + b"1,2,3" + b"]" * 33 + b"}]}",
    b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":' + b"[" * 31 + b"1,2,3" + b"]" * 31 + b"}]}",
    b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","data":[[1,2,3],[4]]}]}',
    b'{"instances":[[1,2,3],4]}',
    b'{"instances":[[1,2,3],[]]}',
    b'{"instances":[{"input":[1,2,3]}]}',
    b'{"instances":[[1,2,3]],"inputs":[[1,2,3]]}',
    b'{"inputs":{"input":[[1,2,3]]}}',
    b'{"dataframe_records":[{"inputs":[1,2,3]}]}',
    b'{"dataframe_split":{"columns":["inputs"],"data":[[1,2,3]]}}',
    b'{"inputs":[[1,2,3]]}\xff',
    b'{"inputs":[[1,2,3]]} {}',
    b'{"inputs":[[1,2,3]',
    b'{"inputs":[[1,2,3\x00]]}',
]


@needs_simdjson
@pytest.mark.parametrize("body", ODD)
def test_lists_in_odd_places_are_met_alike(body: bytes) -> None:
    for name in NUMERIC:
        quick, plain = both(name, LONG, {}, body)
        assert quick == plain


@needs_simdjson
def test_a_plain_question_takes_the_short_way_and_its_numbers_may_be_written_to() -> None:
    row = "[" + ",".join(["0.5"] * 300) + "]"
    tree, found = number_lists.loads_with_numbers((BODIES["v2"] % (100, "FP64", row)).encode(), "inputs", 0, "data")
    assert found is not None
    assert tree["inputs"][0]["data"] == []
    found += 1.0
    assert found.tolist() == [1.5] * 300


@needs_simdjson
def test_a_parser_that_is_busy_or_too_small_is_done_without() -> None:
    body = (BODIES["v2"] % (1, "FP64", "[1,2,3]")).encode()
    with reading(number_lists.PARSER):
        held = number_lists.PARSER.parse(b"[1]")  # type: ignore[union-attr]
        assert number_lists.loads_with_numbers(body, "inputs", 0, "data")[1] is None
        del held
        assert number_lists.loads_with_numbers(body, "inputs", 0, "data")[1] is not None
        long = (BODIES["v2"] % (1, "FP64", "[" + "1," * (1 << 19) + "1]")).encode()
        assert number_lists._one_row(long, b'"data"') is None


def forms(served: ModelSpec) -> dict[tuple[bytes, bool], Any]:
    return served.made.get("v2 forms", {})  # type: ignore[no-any-return]


@needs_simdjson
def test_a_form_that_is_known_is_answered_as_a_new_one() -> None:
    known, name = replace(LONG), "v2"
    bodies = [
        BODIES[name] % (rows, kind, data)
        for data in (
            "[0.5,1.25,-3e2]",
            "[1,2,3]",
            "[[0.5,1.25,-3e2]]",
            "[1,2]",
            "[1,2,3,4]",
            "[1,2,3,4,5,6]",
            "[true,1,2]",
        )
        for kind in ("FP64", "FP32", "INT8", "BOOL", "BYTES")
        for rows in (1, 2, 0)
    ]
    with reading(number_lists.PARSER):
        for body in [*bodies, *reversed(bodies)]:
            assert outcome(name, known, {}, body.encode()) == outcome(name, replace(LONG), {}, body.encode())
    assert 2 <= len(forms(known)) < len(bodies)


@needs_simdjson
def test_a_raw_question_and_one_in_json_are_not_taken_for_one_another() -> None:
    hint = '{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP64","parameters":{"content_type":{"data":%s}%s}%s}]}'
    raw = np.arange(3.0).tobytes()
    odd = (hint % ("[]", ',"binary_data_size":24', "")).encode()
    plain = (hint % ("[1,2,3]", "", "")).encode()
    for first, second in (((odd, raw), (plain, b"")), ((plain, b""), (odd, raw))):
        served = replace(LONG)
        with reading(number_lists.PARSER):
            for header, tail in (first, second, first):
                headers = {LENGTH: str(len(header))} if tail else {}
                expected = outcome("v2", replace(LONG), headers, header + tail)
                assert outcome("v2", served, headers, header + tail) == expected


@needs_simdjson
def test_only_so_many_forms_are_remembered_and_no_long_one() -> None:
    served, row = replace(LONG), "[0.5,1.25,-3e2]"
    with reading(number_lists.PARSER):
        for i in range(3 * FORMS):
            marked = BODIES["v2"].replace("{", f'{{"id":"{i}",', 1) % (1, "FP64", row)
            assert OpenInference().read(served, {}, marked.encode()).id == str(i)
            assert len(forms(served)) <= FORMS
        wordy = BODIES["v2"].replace('"name"', " " * 2_000 + '"name"') % (1, "FP64", row)
        served.made.clear()
        assert OpenInference().read(served, {}, wordy.encode()).x.tolist() == [[0.5, 1.25, -300.0]]
        assert not forms(served)


@settings(max_examples=N)
@given(values=st.lists(st.floats(allow_nan=True) | st.integers(-(2**64), 2**64) | st.booleans(), min_size=1))
def test_floats_are_numpys(values: list[Any]) -> None:
    plain = np.array(values, np.float64)
    np.testing.assert_array_equal(floats(values), plain)


@pytest.mark.parametrize("bad", ["1", None, [1.0], {}, b"1"])
def test_what_is_no_number_is_no_float(bad: Any) -> None:
    with pytest.raises(struct.error):
        floats([1.0, bad])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
@pytest.mark.parametrize("size", [1, 784, 20_000])
def test_one_sum_shows_that_all_are_finite_in_32_bits(bad: float, size: int) -> None:
    x = np.full((size, 1), 1e30)
    assert moderate(x) == (size < 20_000)
    x[size // 2] = bad
    assert not moderate(x)
    if not math.isfinite(bad):
        with pytest.raises(BadRequest, match="finite"):
            finite(x, "x")
    if math.isnan(bad):
        assert finite(x, "x", missing=True) is x
    largest = np.full((size, 1), np.finfo(np.float32).max, np.float32)  # its square is infinite
    assert not moderate(largest)
    assert finite(largest, "x") is largest


@pytest.mark.parametrize("value", [0.1, 1e38, 1e39, 1e300, math.nan, math.inf])
@pytest.mark.parametrize("model", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("sent", ["FP16", "FP32", "FP64", ""])
def test_numbers_are_cast_as_sent_and_as_read_or_refused(value: float, model: str, sent: str) -> None:
    served = replace(ASKED, datatype=model)
    x = np.array([[0.5, value, 2.0]])
    with np.errstate(over="ignore"):
        cast = x.astype(DTYPE["FP32"] if sent == "FP32" else float)
        cast = cast if model == sent == "FP16" else cast.astype(DTYPE[model])  # it was brought to that when it was read
    if np.isfinite(cast).all():
        found = served.inspected(x, sent)
        np.testing.assert_array_equal(found, cast)
        assert found.dtype == (np.float32 if model == "FP32" else np.float64)
    else:
        with pytest.raises(BadRequest, match="finite"):
            served.inspected(x, sent)


def test_32_bits_overflow_without_a_word() -> None:
    for x in (np.array([1e38, -3e38, 1e39, -1e300, np.inf]), np.full(20_000, 1e39), np.array([0.1])):
        with np.errstate(over="ignore"):
            expected = x.astype(np.float32)
        found = single(x)
        np.testing.assert_array_equal(found, expected)
        assert single(found) is found


ASKED = ModelSpec(name="m", interface=Interface(input_shape=(3,), n_classes=3))
UNLABELED = replace(ASKED, label=None)
VALUE = (
    st.floats(-1e6, 1e6)
    | st.integers(-2, 4)
    | st.sampled_from([0, 1, 2, 0.25, True, None, "1", "x", [], [1], {}, 2**63 - 1])
)
OUTPUT = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["label", "probabilities", "probabilities", "other"]),
        "datatype": st.sampled_from(["INT64", "FP64", "FP32", "FP16", "BYTES", None, []]),
        "data": st.lists(VALUE, max_size=4) | st.lists(st.floats(0, 1), min_size=3, max_size=3) | VALUE,
    },
    optional={
        "shape": st.sampled_from([[1], [1, 1], [3], [1, 3], [1, 3], [3, 1], [-1, 3], [-1], [0], None, 3]),
        "parameters": st.sampled_from([None, {}, {"binary_data_size": 8}, {"content_type": "np"}, []]),
    },
)


@settings(max_examples=4 * N, deadline=2_000)
@given(tree=st.fixed_dictionaries({"outputs": st.lists(OUTPUT, max_size=3) | VALUE}))
@example(tree={"outputs": [{"name": "probabilities", "shape": [1, 3], "datatype": "FP64", "data": [0.3, 0.4, 0.4]}]})
@example(
    tree={
        "outputs": [
            {"name": "label", "shape": [1], "datatype": "INT64", "data": [1]},
            {"name": "probabilities", "shape": [1, 3], "datatype": "FP32", "data": [0.1, 0.2, 0.7]},
        ]
    }
)
def test_an_answer_for_one_row_is_the_one_that_the_long_way_finds(tree: Any) -> None:
    for asked in (ASKED, UNLABELED):
        quick = one_row(asked, json.loads(json.dumps(tree)))
        if quick is None:
            continue
        slow = several_rows(asked, 1, tree, memoryview(b""))
        for a, b in ((quick.labels, slow.labels), (quick.scores, slow.scores)):
            assert a is not None
            assert b is not None
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_the_usual_answer_takes_the_short_way() -> None:
    for kind in ("FP64", "FP32"):
        outputs = [{"name": "label", "shape": [1], "datatype": "INT64", "data": [1]},
                   {"name": "probabilities", "shape": [1, 3], "datatype": kind, "data": [0.1, 0.2, 0.7]}]  # fmt: skip
        assert one_row(ASKED, {"outputs": outputs}) is not None
        assert one_row(UNLABELED, {"outputs": outputs[1:]}) is not None
        for output in outputs:
            output["parameters"] = {"content_type": "np"}  # as MLServer answers
        assert one_row(ASKED, {"outputs": outputs}) is not None


@pytest.mark.parametrize("n", [1, FEW + 1])
def test_an_answer_is_checked_alike_whether_it_is_short_or_long(n: int) -> None:
    labels, scores = np.arange(n) % 3, np.full((n, 3), 0.25)
    assert len(checked(Answer(labels, scores), n, ASKED)) == n
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = scores.copy()
        spoilt[-1, 1] = bad
        with pytest.raises(Unreachable, match="not finite"):
            checked(Answer(labels, spoilt), n, ASKED)
    for wrong in (-1, 3):
        spoilt_labels = labels.copy()
        spoilt_labels[-1] = wrong
        with pytest.raises(Unreachable, match=re.escape("must be 0 to 2")):
            checked(Answer(spoilt_labels, scores), n, ASKED)


@settings(max_examples=60, deadline=None)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3), some=st.integers(1, 40), kind=st.sampled_from("fd"))
def test_numbers_written_by_pieces_are_those_written_at_once(shape: list[int], some: int, kind: str) -> None:
    a = np.random.default_rng(some).normal(size=shape).astype(kind)
    a.reshape(-1)[0] = np.nan
    whole = orjson.dumps(a, option=orjson.OPT_SERIALIZE_NUMPY)
    held = number_lists.MANY, number_lists.SOME
    number_lists.MANY, number_lists.SOME = 0, some
    try:
        assert orjson.dumps({"x": number_lists.numbers_out(a)}) == b'{"x":%b}' % whole
    finally:
        number_lists.MANY, number_lists.SOME = held


@pytest.mark.parametrize("stray", [b"null", b"1", b" true", b"]", b"[]"])
def test_what_stands_behind_the_list_is_not_swallowed(stray: bytes) -> None:
    body = b'{"inputs":[[0.0,1.0,1.0,0.0],[1.0,1.0,0.0,0.0]]%b}' % stray
    assert by_pieces("invocations", SERVED["bits"], {"content-type": "application/json"}, body) == (400, 400)
