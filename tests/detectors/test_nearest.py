"""The nearest neighbour is that of a plain loop, to the last bit, in the fewest bytes that hold the rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.state import pack, unpack
from portcullis_ml.core.types import Array
from portcullis_ml.detectors import _compiled, _sketches
from portcullis_ml.detectors._nearest import Nearest

from .toys import attack, natural

U8 = np.arange(256)


def eight_bit(n: int, d: int, rng: np.random.Generator) -> Array:
    return rng.integers(0, 256, (n, d)) / 255.0


def low_rank(n: int, d: int, rng: np.random.Generator) -> Array:
    return rng.normal(size=(n, 3)) @ rng.normal(size=(3, d))


KINDS = {
    "digits": lambda rng: natural(300, 1),
    "attack": lambda rng: attack(300, 1),
    "eight bits": lambda rng: eight_bit(300, 100, rng),
    "uniform": lambda rng: rng.random((300, 100)),
    "few inputs": lambda rng: rng.random((300, 3)),
    "one input": lambda rng: rng.random((300, 1)),
    "a subspace": lambda rng: low_rank(300, 100, rng),
    "near duplicates": lambda rng: np.repeat(rng.random((30, 80)), 10, axis=0) + 1e-7 * rng.random((300, 80)),
    "exact duplicates": lambda rng: np.repeat(rng.random((100, 80)), 3, axis=0),
    "all the same": lambda rng: np.full((300, 80), 0.3),
    "far from the origin": lambda rng: 1e6 + rng.random((300, 80)),
    "closer than float32 tells": lambda rng: 1e3 * rng.random(80) + 1e-6 * rng.normal(size=(300, 80)),
    "huge": lambda rng: 1e30 * rng.random((300, 80)),
    "beyond float32": lambda rng: 1e100 * rng.random((300, 80)),
    "now and then beyond float32": lambda rng: rng.random((300, 80)) * np.where(rng.random((300, 1)) < 0.1, 1e100, 1),
    "tiny": lambda rng: 1e-30 * rng.random((300, 80)),
    "8 bits, then not": lambda rng: np.concatenate([eight_bit(150, 80, rng), rng.random((150, 80))]),
    "fading squares": lambda rng: 1e-22 * rng.random((300, 80)),
    "mixed scales": lambda rng: rng.random((300, 80)) * 10.0 ** rng.integers(-6, 6, 80),
}


def plain(members: list[Array], x: Array) -> float:
    """The twin: look at every one."""
    return min(math.sqrt(((z - x) ** 2).sum()) for z in members)


@pytest.fixture(params=["numpy", "compiled"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test here runs by both ways to a distance."""
    monkeypatch.setattr(_compiled, "kernels", None)
    if request.param == "compiled":
        pytest.importorskip("numba")
        assert _compiled.warm()
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_the_distance_is_that_of_a_plain_loop(kind: str) -> None:
    rows = KINDS[kind](np.random.default_rng(0))
    near, members = Nearest(cap=1000), []
    for x in rows:
        if members:
            assert near.distance(0, x) == plain(members, x)
        near.add(0, x)
        members.append(x)
    np.testing.assert_array_equal(near.classes[0].exact(), rows)


@pytest.mark.parametrize("kind", [*KINDS, "uniform, many inputs"])
def test_products_with_whole_rows_rule_out_none_that_is_nearest(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy's search takes them for what has no structure; here it takes them for all."""
    monkeypatch.setattr(_compiled, "kernels", None)
    monkeypatch.setattr(_sketches, "MANY", 0)
    rng = np.random.default_rng(2)
    rows = rng.random((300, 3_000)) if kind.endswith("inputs") and kind != "few inputs" else KINDS[kind](rng)
    near = Nearest(cap=1000)
    for i, x in enumerate(rows):
        if i:
            assert near.distance(0, x) == plain(list(rows[:i]), x)
        near.add(0, x)


def test_few_rows_without_structure_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).random((1_520, 784))
    near = Nearest(cap=2000)
    for x in rows[:1_500]:
        near.add(0, x)
    monkeypatch.setattr(_compiled, "kernels", None)
    compared, squares = [], _sketches.squares
    monkeypatch.setattr(_sketches, "squares", lambda z, x: compared.append(len(z)) or squares(z, x))
    for x in rows[1_500:]:
        near.distance(0, x)
    assert sum(compared) / 20 < 0.01 * 1_500


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 4), stored=st.integers(1, 200))
def test_classes_are_apart_and_the_cache_changes_nothing(seed: int, classes: int, stored: int) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = natural(260, seed), rng.integers(0, classes, 260)
    near, members = Nearest(cap=1000), {c: [] for c in range(classes)}
    for i, (x, c) in enumerate(zip(rows, labels.tolist(), strict=True)):
        if i == stored:
            near = unpack(Nearest, pack(near))
        expected = plain(members[c], x) if members[c] else None
        assert near.distance(c, x) == expected
        near.add(c, x)
        members[c].append(x)


def test_beyond_the_cap_the_oldest_make_way() -> None:
    rows, cap = natural(400, 3), 90
    near = Nearest(cap)
    for i, x in enumerate(rows):
        if i:
            assert near.distance(7, x) == plain(list(rows[max(0, i - cap) : i]), x)
        near.add(7, x)
    assert len(near) == cap
    assert near.nbytes < 90 * (64 + 4 * 57) + 56 * 64 * 4 + 1000


@pytest.mark.parametrize(
    ("form", "rows"),
    [
        ("unit", U8 / 255.0),
        ("unit32", (U8 / 255.0).astype(np.float32).astype(np.float64)),
        ("bytes", U8 * 1.0),
        ("float32", np.linspace(-3, 3, 256).astype(np.float32).astype(np.float64)),
        ("float64", np.linspace(-3, 3, 256)),
    ],
)
def test_rows_are_kept_in_the_narrowest_form(form: str, rows: Array) -> None:
    near = Nearest(cap=10)
    near.add(0, rows)
    near.add(0, rows[::-1])
    held = near.classes[0]
    assert held.form == form
    assert held.values.itemsize == {"float32": 4, "float64": 8}.get(form, 1)
    np.testing.assert_array_equal(held.exact(), [rows, rows[::-1]])


def test_a_wider_row_moves_its_own_class_only() -> None:
    near, half = Nearest(cap=10), np.full(4, 0.5)
    for label in (0, 1):
        near.add(label, np.zeros(4))
        near.add(label, np.array([0, 1, 2, 255]) / 255.0)
    near.add(1, half)
    assert [near.classes[c].form for c in (0, 1)] == ["unit", "float64"]
    np.testing.assert_array_equal(near.classes[1].exact()[1], np.array([0, 1, 2, 255]) / 255.0)
    near.add(0, np.array([0.0, 0.0, 0.0, 200.0]))
    assert near.classes[0].form == "float64", "whole numbers cannot hold k / 255"


def test_few_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it fast, without a clock: on real digits the bound rules out most stored rows."""
    rows = natural(1500, 0)
    near = Nearest(cap=2000)
    for x in rows[:1400]:
        near.add(0, x)
    monkeypatch.setattr(_compiled, "kernels", None)
    compared, squares = [], _sketches.squares
    monkeypatch.setattr(_sketches, "squares", lambda z, x: compared.append(len(z)) or squares(z, x))
    for x in rows[1400:]:
        near.distance(0, x)
    assert sum(compared) / 100 < 0.05 * 1400


def test_stored_bytes_hold_rows_and_nothing_derived() -> None:
    near = Nearest(cap=2000)
    for x in natural(500, 0):
        near.distance(0, x)
        near.add(0, x)
    assert len(pack(near)) < 500 * 64 + 300
