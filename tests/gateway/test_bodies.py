"""Bodies: put together, decoded, and within limits; bytes against bytes."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import Any

import pytest

from portcullis_ml.gateway.http.bodies import Bodies, Body
from portcullis_ml.gateway.http.messages import Rejected
from portcullis_ml.gateway.policy.settings import Limits
from portcullis_ml.gateway.protocols.strict import BadRequest

LIMITS = Limits(body_bytes=4_000, buffer_bytes=6_000)
TEXT = b"0.25, " * 500
GOOD = gzip.compress(TEXT, mtime=0)  # the same bytes in every process that collects tests


def body_of(*parts: bytes, encoding: str | None = None, bodies: Bodies | None = None) -> Body:
    body = Body(bodies or Bodies(), LIMITS, {"content-encoding": encoding} if encoding else {})
    for part in parts:
        body.add(part)
    return body


def read(bodies: Bodies, packed: bytes) -> bytes:
    """What is read of a body in gzip that comes in one piece."""
    body = body_of(encoding="gzip", bodies=bodies)
    try:
        body.add(packed)
        return body.take()
    finally:
        body.drop()


def test_a_body_is_its_parts_and_is_counted_until_it_is_taken() -> None:
    bodies = Bodies()
    body = body_of(b"one", b"two", bodies=bodies)
    assert bodies.buffered == 6
    assert body.take() == b"onetwo"
    assert bodies.buffered == 0


@pytest.mark.parametrize("size", [1, 10, 10_000])
@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("X-Gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_an_encoded_body_is_read_in_pieces_of_any_size(encoding: str, pack: Any, size: int) -> None:
    bodies, packed = Bodies(), pack(TEXT)
    body = body_of(*(packed[i : i + size] for i in range(0, len(packed), size)), encoding=encoding, bodies=bodies)
    assert bodies.buffered == len(TEXT)
    assert body.take() == TEXT
    assert bodies.buffered == 0


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_body_may_be_as_long_as_the_limit_and_not_longer(encoding: str | None) -> None:
    pack = gzip.compress if encoding else bytes
    assert len(body_of(pack(b"1" * 4_000), encoding=encoding).take()) == 4_000
    with pytest.raises(BadRequest) as found:
        body_of(pack(b"1" * 4_001), encoding=encoding)
    assert found.value.status == 413


def test_a_gzip_bomb_is_refused_before_it_is_in_memory() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            body_of(bomb, encoding="gzip")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_encoded_body_that_comes_to_nothing_is_no_longer_than_others_may_be() -> None:
    empty = gzip.compress(b"")
    with pytest.raises(BadRequest):
        body_of(empty[:10] + b"\x00\x00\x00\xff\xff" * 1_000, encoding="gzip")


@pytest.mark.parametrize("packed", [b"{}", GOOD[:-9], GOOD + b"more", GOOD[:20] + b"x" * 99, b""])
def test_a_body_that_is_not_what_its_encoding_says_is_refused_and_no_longer_counted(packed: bytes) -> None:
    bodies = Bodies()
    with pytest.raises(BadRequest, match="Content-Encoding"):
        read(bodies, packed)
    assert bodies.buffered == 0


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
