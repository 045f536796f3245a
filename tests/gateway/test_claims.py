"""A body that cannot be what it claims is refused by its bytes, before anything is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests.gateway.asgi import Here, question
from tests.gateway.harness import NUMERIC
from tests.gateway.test_fuzz import SERVED, VALID

from portcullis_ml.core.types import Feature, Interface
from portcullis_ml.gateway.protocols import CATALOG, number_lists, strict
from portcullis_ml.gateway.protocols.claims import SMALL, claimed_room, fits, room
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.protocols.wire import ModelSpec

WIDE = ModelSpec(name="m", interface=Interface(input_shape=(64,), n_classes=10))
V2 = b'{"inputs":[{"name":"input","shape":[%d,64],"datatype":"FP64","data":%b}]}'
MANY = 100_000
TOKENS = {"lists": b"[1]", "numbers": b"1", "words": b"true", "texts": b'"1"', "objects": b"{}", "deep": b"[[[1]]]"}


def overfull(name: str, token: bytes) -> bytes:
    data = b"[" + b",".join([token] * MANY) + b"]"
    if name == "v2":
        return V2 % (1, data)
    return b'{"%b":%b}' % (b"instances" if name == "v1" else b"inputs", data)


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever parses fails."""

    class Orjson:
        JSONDecodeError = orjson.JSONDecodeError

        def loads(self, body: bytes) -> Any:
            raise AssertionError(f"{len(body)} bytes were parsed")

    monkeypatch.setattr(strict, "orjson", Orjson())
    monkeypatch.setattr(number_lists, "orjson", Orjson())


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("name", [name for name in NUMERIC if name != "grpc"])
@pytest.mark.usefixtures("no_parser")
def test_a_body_that_holds_more_than_can_be_asked_is_refused_unparsed(name: str, kind: str) -> None:
    served = ModelSpec(name="m", interface=WIDE.interface, max_rows=8)
    with pytest.raises(BadRequest, match=r"(must hold|at most) .* x 64 numbers"):
        CATALOG.load(name)().read(served, {}, overfull(name, TOKENS[kind]))


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.usefixtures("no_parser")
def test_a_body_that_holds_more_than_its_shape_says_is_refused_unparsed(kind: str) -> None:
    with pytest.raises(BadRequest, match='what "shape" says, 1 x 64 numbers') as refusal:
        CATALOG.load("v2")().read(WIDE, {}, overfull("v2", TOKENS[kind]))
    assert refusal.value.status == 400


async def test_the_issues_body_gets_400_and_is_charged_no_rows(tmp_path: Path) -> None:
    here = Here(tmp_path, '[[guard]]\nunit = "quota"\nrows = 1\n')
    body = question([[1.0, 2.0, 3.0, 4.0]]).replace(b"[1.0,2.0,3.0,4.0]", b"[" + b",".join([b"[1]"] * 900_000) + b"]")
    status, _, tree = await here.send(body=body)
    assert (status, "it holds more" in tree["error"]) == (400, True)
    assert (here.model.asked, dict(here.streams.open)) == (0, {})
    assert (await here.infer([[0.0, 0.0, 0.0, 0.0]]))[0] == 200  # the one row of the quota is still there


def test_as_many_rows_as_may_be_asked_fit_in_every_spelling() -> None:
    names = tuple(Feature(f"income, monthly [{i}]: {{EUR}}", 0, 9) for i in range(5))
    interface = Interface(input_shape=(5,), n_classes=3, features=names)
    served, x = ModelSpec(name="m", interface=interface, max_rows=3_000), np.zeros((3_000, 5)).tolist()
    columns = [f.name for f in names]
    spelled: list[tuple[str, Any]] = [
        ("v1", {"instances": x}),
        ("v1", {"instances": [{"input": row} for row in x]}),
        ("v1", {"inputs": {"input": x}}),
        ("invocations", {"dataframe_split": {"columns": columns, "index": list(range(3_000)), "data": x}}),
        ("invocations", {"dataframe_records": [dict(zip(columns, row, strict=True)) for row in x]}),
        ("mapping", {"inputs": x}),
        ("v2", {"inputs": [{"name": "input", "shape": [3000, 5], "datatype": "FP64", "data": x}]}),
    ]
    for name, tree in spelled:
        for indent in (None, 1):
            body = json.dumps(tree, indent=indent).encode()
            assert len(CATALOG.load(name)().read(served, {}, body).x) == 3_000


@pytest.mark.parametrize("kind", SERVED)
def test_honest_bodies_fit_what_they_claim(kind: str) -> None:
    served = SERVED[kind]
    for _, _, body in VALID[kind]:
        padded = body + b" " * SMALL  # a short body is not looked at
        fits(padded, claimed_room(served.interface, served.most, padded))


def test_images_may_be_nested_to_the_last_channel() -> None:
    interface = Interface(input_shape=(28, 28, 1), n_classes=10)
    body = orjson.dumps({"instances": np.zeros((64, 28, 28, 1)).tolist()})
    fits(body, room(interface, 64))
    with pytest.raises(BadRequest, match=r"at most 32 x 28 x 28 x 1 numbers"):
        fits(body, room(interface, 32))


@pytest.mark.parametrize("shape", [b"[4]", b"[2,64]", b"[64,1]"])
def test_what_is_claimed_is_counted_in_rows_of_the_model(shape: bytes) -> None:
    body = b'{"id": "shape", "inputs": [{"shape" : %b}]}' % shape + b" " * SMALL
    found = claimed_room(WIDE.interface, WIDE.most, body)
    assert (found.claimed, found.rows) == (True, 2 if shape == b"[2,64]" else 1)


NOT_CLAIMS = [b'[1,64],"shape":[9,64]', b"[2048,64]", b"[]", b"[1,,2]", b"[0,64]", b'"1"', b""]


@pytest.mark.parametrize("text", NOT_CLAIMS)
def test_a_claim_that_is_none_leaves_the_policys_limit(text: bytes) -> None:
    assert claimed_room(WIDE.interface, WIDE.most, b'"shape":' + text + b" " * SMALL) is WIDE.most


def test_what_a_small_body_claims_is_not_looked_for() -> None:
    assert claimed_room(WIDE.interface, WIDE.most, b'"shape":[4]') is WIDE.most
