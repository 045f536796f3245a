"""The compiled search: the same bits as numpy's and as a plain loop, and what happens where there is none."""

from __future__ import annotations

import builtins
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portcullis_ml.core.randomness import canonical
from portcullis_ml.core.state import pack, unpack
from portcullis_ml.core.types import Answer, Array, Request
from portcullis_ml.detectors import CATALOG, _compiled, _rounding, _sketches
from portcullis_ml.detectors._growing_sets import rows_by_class
from portcullis_ml.detectors._nearest import Nearest
from portcullis_ml.detectors._sketches import Compiled, Plain

from .test_nearest import KINDS, plain
from .toys import answer_to, attack

pytest.importorskip("numba")


def by_both(monkeypatch: pytest.MonkeyPatch, cap: int) -> tuple[Nearest, Nearest]:
    """Two empty memories: the first searches by numpy, the second by the kernels, from their first row on."""
    slow, fast = Nearest(cap), Nearest(cap)
    for near, kind in ((slow, Plain), (fast, Compiled)):
        current = near._current

        def bound(wanted: int, current=current, kind=kind):
            basis = current(wanted)
            if basis is not None:
                basis.sketches = lambda rows: kind(basis, rows)
            return basis

        near._current = bound  # type: ignore[method-assign]
    return slow, fast


@pytest.fixture(autouse=True)
def warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "kernels", None)
    assert _compiled.warm()


def squeezed(rows: Array, form: str) -> Array:
    """The rows as this form would hold them."""
    unit = (rows - rows.min()) / max(np.ptp(rows), 1e-300)
    return {
        "unit": np.rint(unit * 255) / 255.0,
        "unit32": (np.rint(unit * 255) / 255.0).astype(np.float32).astype(float),
        "bytes": np.rint(unit * 255),
        "float32": rows.astype(np.float32).astype(float),
        "float64": rows,
    }[form]


@pytest.mark.parametrize("form", ["unit", "unit32", "bytes", "float32", "float64"])
@pytest.mark.parametrize("d", [1, 2, 7, 8, 15, 16, 17, 46, 47, 48, 63, 100, 129, 784, 1000, 2000])
def test_the_bits_of_numpy_and_of_a_loop(form: str, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows around few centres, some of them twice; the queries are such rows, and others that no form holds."""
    rng = np.random.default_rng([d, len(form)])
    rows = rng.random((9, d))[rng.integers(0, 9, 160)] + 0.05 * rng.normal(size=(160, d))
    rows[100:120] = rows[:20]
    rows = squeezed(rows, form)
    slow, fast = by_both(monkeypatch, 120)
    kept: list[Array] = []
    for i, x in enumerate(rows):
        if i:
            for asked in (x, x + 1e-9 * rng.normal(size=d)):
                expected = plain(kept[-120:], asked)
                assert (slow.distance(0, asked), fast.distance(0, asked)) == (expected, expected)
        slow.add(0, x)
        fast.add(0, x)
        kept.append(x)
    assert isinstance(fast._sketches[0], Compiled)
    assert isinstance(slow._sketches[0], Plain)
    assert pack(fast) == pack(slow)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 300), scale=st.sampled_from([1e-40, 1e-22, 1e-19, 1.0, 1e18, 1e60]),
       spread=st.sampled_from([0.0, 1e-9, 1e-7, 1e-3, 1.0]))  # fmt: skip
def test_any_scale_and_spread(seed: int, d: int, scale: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    rows = scale * (rng.random(d) + spread * rng.normal(size=(80, d)))
    near = Nearest(100)
    for x in rows[:70]:
        near.add(3, x)
    for x in rows[60:]:
        assert near.distance(3, x) == plain(list(rows[:70]), x)


@pytest.mark.parametrize("n", [*range(1, 300), 511, 512, 513, 784, 1025, 3072, 8191, 8193, 20_000])
def test_one_sum_is_that_of_many_rows(n: int) -> None:
    """The compiled search leaves the terms to be summed by numpy alone, the other sums along the axis of a table."""
    terms = np.random.default_rng(n).random((3, n)) ** 2
    assert [np.add.reduce(row.copy()) for row in terms] == terms.sum(axis=1).tolist() == [
        row[None].sum(axis=1)[0] for row in terms
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["prada", "prada_normality"])
@pytest.mark.parametrize("stored", [40, 170])
def test_verdicts_and_packed_states_are_the_same(name: str, stored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([attack(260, 0), np.rint(attack(100, 1) * 255) / 255.0])
    results = []
    for kernels in (_compiled.kernels, None):
        monkeypatch.setattr(_compiled, "kernels", kernels)
        detector = CATALOG.load(name)(cap=60)
        state = detector.start()
        first = detector.update(state, Request("a", x[:stored]), answer_to(x[:stored]))
        state = unpack(type(state), pack(state))
        rest = detector.update(state, Request("a", x[stored:]), answer_to(x[stored:]))
        results.append((np.concatenate([first, rest]).tobytes(), pack(state)))
    assert results[0] == results[1]


def test_a_way_may_change_while_a_client_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, near = KINDS["digits"](np.random.default_rng(0)), Nearest(1000)
    kernels = _compiled.kernels
    for i, x in enumerate(rows):
        monkeypatch.setattr(_compiled, "kernels", kernels if i > 150 else None)
        if i:
            assert near.distance(0, x) == plain(list(rows[:i]), x)
        near.add(0, x)


@pytest.mark.parametrize("left", [0.0, 1e-3, 0.2, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("d", [40, 64, 256, 300, 5_000])
def test_a_sketch_is_as_exact_as_the_bound_assumes(d: int, left: float) -> None:
    """Whether or not a row is nearly in the basis: the length of what is left is then found in another way."""
    rng = np.random.default_rng([d, int(1e3 * left)])
    flat = rng.normal(size=(12, d))
    basis = _sketches.Basis.fit(rng.normal(size=(60, 12)) @ flat, 60)
    near = Nearest(80)
    rows = basis.centre + rng.normal(size=(80, 12)) @ flat + left * rng.normal(size=(80, d))
    for x in rows:
        near.add(0, x)
    sketches = basis.sketches(near.classes[0])
    assert isinstance(sketches, Compiled)
    directions = basis.directions.astype(float)
    for i, x in enumerate(rows):
        centred = x - basis.centre
        along = directions @ centred
        exact = np.append(along, np.linalg.norm(centred - along @ directions))
        block, lane = divmod(i, sketches._coarse.shape[2])
        found = np.append(sketches._coarse[block, :-1, lane], sketches._fine[i])
        assert np.linalg.norm(found - exact) <= _rounding.LOOSE * np.linalg.norm(centred)


def test_rows_of_any_length_are_searched_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = by_both(monkeypatch, 60)
    for x in np.tile(attack(60, 0), 1_000):
        assert slow.distance(0, x) == fast.distance(0, x)
        slow.add(0, x)
        fast.add(0, x)


def test_without_numba_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "kernels", None)
    monkeypatch.delitem(sys.modules, "portcullis_ml.detectors._kernels")
    real = builtins.__import__

    def refusing(name: str, *rest: object, **more: object) -> object:
        if name.partition(".")[0] == "numba":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refusing)
    import portcullis_ml.detectors

    monkeypatch.delattr(portcullis_ml.detectors, "_kernels")
    assert _compiled.warm() is False
    near = Nearest(100)
    for x in attack(60, 0):
        near.add(0, x)
    assert math.isfinite(near.distance(0, np.zeros(64)) or math.nan)
    assert isinstance(near._sketches[0], Plain)


def test_an_audit_never_imports_numba() -> None:
    code = (
        "import sys, numpy as np; from portcullis_ml.detectors.prada import Prada;"
        "from portcullis_ml.core.types import *;"
        "x = np.random.default_rng(0).random((100, 5)); p = Prada();"
        "p.update(p.start(), Request('a', x), Answer(np.zeros(100, int))); print('numba' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.mark.slow
def test_where_no_cache_can_be_written_it_is_compiled_all_the_same(tmp_path: Path) -> None:
    """A file in the place of the cache's folder stops root too."""
    (tmp_path / "file").touch()
    code = "from portcullis_ml.detectors._compiled import warm; print(warm())"
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert out.stdout.strip() == "True", out.stderr


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {}, "~/.cache"),
        ("linux", {"XDG_CACHE_HOME": "/var/cache/me"}, "/var/cache/me"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "~/.cache"),
        ("darwin", {"XDG_CACHE_HOME": "/var/cache/me"}, "~/Library/Caches"),
        ("win32", {}, "~/AppData/Local"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
    ],
)
def test_what_is_compiled_is_cached_where_the_system_keeps_a_users_caches(
    platform: str, environment: dict[str, str], folder: str
) -> None:
    found = _compiled.cache_folder(environment, platform)
    assert found == Path(folder).expanduser() / "portcullis" / "numba"


@pytest.mark.parametrize("named", [True, False])
def test_the_cache_lies_there_and_not_beside_the_source(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "named") if named else "")
    with _compiled._cached_in(tmp_path / "own"):
        steps = numba.njit(cache=True)(_compiled.questions)  # nothing is compiled until it is called
    assert Path(steps.stats.cache_path).parent == tmp_path / ("named" if named else "own")
    assert numba.config.CACHE_DIR == (str(tmp_path / "named") if named else "")


def asked(rows: Array) -> list[bytes]:
    """The questions that a detector with kernels reads."""
    read = rows_by_class(Request("a", rows), Answer(np.zeros(len(rows), int)))
    return [bytes(question) for _, _, question in read]


def test_ordinary_rows_are_read_by_the_kernels() -> None:
    assert _compiled.questions(np.random.default_rng(0).normal(size=(3, 784))) is not None


@given(st.lists(st.floats(-1e12, 1e12) | st.floats() | st.floats(width=32), min_size=1, max_size=40), st.integers(0, 3))
def test_a_question_is_the_same_with_and_without(values: list[float], more: int) -> None:
    row = np.array(values)
    rows = np.stack([row * 10.0**-k for k in range(more + 1)]) if more else row[None]
    rows = np.where(np.isnan(rows), 0.0, np.clip(rows, -1e100, 1e100))  # as they come
    assert asked(rows) == canonical(rows)


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 5e-7, 1.5e-6, 2.5e-6, -2.5e-6, 0.1, 1.0 / 3, 2147.483647, 2147.4836475, 3e3]
)
@pytest.mark.parametrize("d", [1, 2, 3, 784])
def test_a_question_at_the_edge_of_what_fits(value: float, d: int) -> None:
    for rows in (np.full((2, d), value), np.full((1, d), np.nextafter(value, np.inf)), -np.full((1, d), value)):
        assert asked(rows) == canonical(rows)


@pytest.mark.parametrize("name", ["prada", "prada_normality"])
def test_rows_that_cannot_be_written_to_are_measured_alike(name: str) -> None:
    plain, fixed = CATALOG.load(name)(), CATALOG.load(name)()
    x = attack(200, 3)
    held = np.frombuffer(x.tobytes()).reshape(x.shape)  # as the gate has rows that came in 64 bits
    assert not held.flags.writeable
    first, second = plain.start(), fixed.start()
    expected = plain.update(first, Request("a", x), answer_to(x))
    np.testing.assert_array_equal(fixed.update(second, Request("a", held), answer_to(x)), expected)
    assert first.sets.size == second.sets.size > 40
