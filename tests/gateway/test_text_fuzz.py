"""Fuzzing of texts: bodies after accidents are read or refused, and what is read is what a model server is asked."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.gateway.test_fuzz import N, mutated, understood
from tests.gateway.test_openapi import fits, made
from tests.gateway.test_text_protocols import ABLE, ONE, SPELLINGS, raw
from tests.gateway.texts import INPUTS, TEXTS, served

from portcullis_ml.core.types import Answer
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.texts import TextInput
from portcullis_ml.gateway.protocols.v2_question import LENGTH
from portcullis_ml.gateway.protocols.wire import Carried, ModelSpec

SERVED = {
    **{kind: served(text) for kind, text in INPUTS.items()},
    "composed": served(TextInput(normalise="nfc", longest=30, column="text")),
    "one": served(TextInput(), max_rows=1, options=ONE),
    "whole": served(TextInput(), options={"rows": "$"}),
}


def valid(spec: ModelSpec) -> list[tuple[str, dict[str, str], bytes]]:
    """(protocol, headers, body) of honest questions, in every spelling."""
    texts = tuple(text[:25] for text in TEXTS)[: spec.max_rows]
    found = [(name, {}, json.dumps(body).encode()) for name, body in SPELLINGS.values()]
    for name in ABLE:
        for binary in (False, True):
            ask = CATALOG.load(name)().ask(
                dataclasses.replace(spec, binary=binary), np.zeros((len(texts), 3)), Carried(texts=texts)
            )
            found.append((name, dict(ask.headers), ask.body))
    return found


VALID = {kind: valid(spec) for kind, spec in SERVED.items()}


@pytest.mark.parametrize("kind", SERVED)
def test_honest_bodies_are_understood(kind: str) -> None:
    read = [understood(name, SERVED[kind], headers, body) is not None for name, headers, body in VALID[kind]]
    assert sum(read) >= 8


@settings(max_examples=N, deadline=2_000)
@given(data=st.data(), kind=st.sampled_from(sorted(SERVED)))
def test_a_body_after_an_accident_is_read_or_refused_and_what_is_read_is_what_is_asked(data: Any, kind: str) -> None:
    spec = SERVED[kind]
    name, headers, body = data.draw(st.sampled_from(VALID[kind]))
    if LENGTH in headers and data.draw(st.booleans()):
        headers = {**headers, LENGTH: data.draw(st.sampled_from(["0", "1", "99", "", " 10", str(len(body))]))}
    body = data.draw(mutated(body))
    inquiry = understood(data.draw(st.sampled_from([name, name, *ABLE])), spec, headers, body)
    if inquiry is None:
        return
    texts = inquiry.carried.texts
    assert texts is not None
    np.testing.assert_array_equal(inquiry.x, spec.text.rows(texts))
    for far in ABLE:
        ask = CATALOG.load(far)().ask(spec, inquiry.x, inquiry.carried)
        again = understood(far, spec, dict(ask.headers), ask.body)
        assert again is not None
        assert again.carried.texts == texts
        np.testing.assert_array_equal(again.x, inquiry.x)
    n = len(texts)
    assert CATALOG.load(name)().write(spec, inquiry, Answer(np.zeros(n, int), np.full((n, 3), 0.5))).status == 200


@settings(max_examples=N, deadline=2_000)
@given(data=st.binary(max_size=60), rows=st.integers(1, 4), size=st.sampled_from([None, 0, 2**40, "8", True]))
def test_raw_tensors_of_any_bytes_are_read_or_refused(data: bytes, rows: int, size: Any) -> None:
    headers, head = raw([], [rows], len(data) if size is None else size)
    inquiry = understood("v2", SERVED["hash"], headers, head + data)
    if inquiry is not None:
        texts = inquiry.carried.texts or ()
        assert len(texts) == rows
        assert sum(4 + len(text.encode()) for text in texts) == len(data)


@pytest.mark.parametrize("kind", ["hash", "composed", "one"])
@pytest.mark.parametrize("name", [name for name in ABLE if name != "grpc"])  # which OpenAPI does not describe
def test_bodies_made_from_the_description_are_read_or_refused_and_what_is_read_fits(name: str, kind: str) -> None:
    wire, spec = CATALOG.load(name)(), SERVED[kind]
    schema = next(route.body for route in wire.routes(spec) if route.method == "post")
    taken = []

    @settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data(), bad=st.sampled_from([False, False, True]))
    def tried(data: Any, bad: bool) -> None:
        value = data.draw(made(schema, st.integers(0, 30).map(lambda n: n == 0) if bad else st.just(False)))
        if understood(name, spec, {}, orjson.dumps(value)) is not None:
            taken.append(value)
            assert fits(value, schema)

    tried()
    assert taken
