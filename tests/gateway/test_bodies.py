"""Bodies: put together, decoded, and within limits; bytes against bytes."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import Any

import pytest

from portcullis_ml.gateway.http.bodies import Bodies, Body, decoded, encoded
from portcullis_ml.gateway.http.messages import Rejected
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.strict import BadRequest

LIMITS = Limits(body_bytes=4_000, buffer_bytes=6_000)
TEXT = b"0.25, " * 500
GOOD = gzip.compress(TEXT, mtime=0)  # the same bytes in every process that collects tests


def body_of(*parts: bytes, bodies: Bodies | None = None) -> Body:
    body = Body(bodies or Bodies(), LIMITS)
    for part in parts:
        body.add(part)
    return body


def test_a_body_is_its_parts_and_is_counted_until_it_is_taken() -> None:
    bodies = Bodies()
    body = body_of(b"one", b"two", bodies=bodies)
    assert bodies.buffered == 6
    assert body.take() == b"onetwo"
    assert bodies.buffered == 0


def test_a_body_may_be_as_long_as_the_limit_and_not_longer() -> None:
    assert len(body_of(b"1" * 3_000, b"1" * 1_000).take()) == 4_000
    with pytest.raises(BadRequest) as found:
        body_of(b"1" * 4_000, b"1")
    assert found.value.status == 413


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_an_encoded_body_is_decoded_to_as_much_as_may_be(pack: Any) -> None:
    assert decoded(pack(TEXT), len(TEXT)) == TEXT
    with pytest.raises(BadRequest) as found:
        decoded(pack(TEXT), len(TEXT) - 1)
    assert found.value.status == 413


@pytest.mark.parametrize(
    ("word", "is_encoded"), [("gzip", True), (" X-Gzip", True), ("deflate", True), ("identity", False), (None, False)]
)
def test_the_head_says_whether_a_body_is_encoded(word: str | None, is_encoded: bool) -> None:
    assert encoded({} if word is None else {"content-encoding": word}) is is_encoded


def test_a_gzip_bomb_is_refused_before_it_is_in_memory() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            decoded(bomb, 4_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [b"{}", GOOD[:-9], GOOD + b"more", GOOD[:20] + b"x" * 99, b""])
def test_a_body_that_is_not_what_its_encoding_says_is_refused(packed: bytes) -> None:
    with pytest.raises(BadRequest, match="Content-Encoding") as found:
        decoded(packed, 4_000)
    assert found.value.status == 400


def test_bodies_are_refused_where_all_together_have_become_too_many() -> None:
    bodies = Bodies()
    held = [body_of(b"1" * 3_000, bodies=bodies), body_of(b"1" * 3_000, bodies=bodies)]
    late = body_of(bodies=bodies)
    with pytest.raises(Rejected):
        late.add(b"1")
    for body in (*held, late):
        body.drop()
    assert body_of(b"1", bodies=bodies).take() == b"1"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": "4001"}, 413),
        ({"content-length": "9" * 400}, 413),
        ({"content-length": "ten"}, 400),
        ({"content-length": "-1"}, 400),
        ({"content-encoding": "br"}, 415),
        ({"content-encoding": "gzip, gzip"}, 415),
    ],
)
def test_a_body_that_would_not_be_taken_is_refused_by_its_head(headers: dict[str, str], status: int) -> None:
    with pytest.raises(BadRequest) as found:
        Bodies().expect(LIMITS, headers, set())
    assert found.value.status == status
    Bodies().expect(LIMITS, {"content-length": "4000", "content-encoding": "GZIP"}, set())
