"""Pools that are read when their rows are taken: the same pictures as whole ones, and never more than was asked."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.picture_rows import layout_hint
from portcullis_ml.bench.rows import LabelledRows, at_most, read_rows
from portcullis_ml.bench.sources import Sources, rows_of
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface
from portcullis_ml.data import pools
from portcullis_ml.data.pictures import as_pictures, read_pictures
from portcullis_ml.data.pools import StreamedPool, open_pool
from portcullis_ml.data.takes import NOTHING_KNOWN
from portcullis_ml.extraction.active_thief import ActiveThief
from portcullis_ml.extraction.copycat import Copycat
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.extraction.swift_thief import SwiftThief
from portcullis_ml.models.sklearn import SklearnLearner

SHAPE = (4, 6, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five readable pictures, the fourth in the order of names broken."""
    for i in range(6):
        place = tmp_path / "files" / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (40 * i, 0, 255)).save(place / f"{i}.png")
    (tmp_path / "files" / "1" / "1.png").write_bytes(b"\x89PNG cut short")
    return tmp_path / "files"


def test_a_folder_gives_the_pictures_that_reading_it_whole_gives(folder: Path) -> None:
    pool, whole = open_pool(folder, SHAPE), read_pictures(folder, SHAPE)
    assert (len(pool), pool.shape) == (6, (6, *SHAPE))
    assert pool.groups.tolist() == ["0", "0", "0", "1", "1", "1"]
    kept = sorted(x[0, 0, 0] for x in whole.x)
    np.testing.assert_allclose(sorted(pool[[0, 1, 2, 4, 5]][:, 0, 0, 0]), kept)
    np.testing.assert_array_equal(pool[3], pool[4])  # the broken file gave its place to the next
    assert list(pool.skipped) == ["1/1.png"]
    assert "1 could not be: 1/1.png (" in pool.sentence()
    with pytest.raises(InputError, match=r"1/1\.png in files cannot be read: .* Take it out\."):
        open_pool(folder, SHAPE, skip=False)[[0, 3]]


def test_a_folder_without_one_readable_picture_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"holds no picture that can be read; a\.png: "):
        open_pool(tmp_path, SHAPE)[0]
    with pytest.raises(InputError, match="holds none"):
        open_pool(_made(tmp_path / "empty"), SHAPE)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_only_what_is_taken_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder.parent / "pool.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    opened: list[int] = []
    plain = pools.decoded
    monkeypatch.setattr(pools, "decoded", lambda *a: opened.append(1) or plain(*a))
    pool = open_pool(path, SHAPE)
    assert opened == []
    np.testing.assert_array_equal(pool[1:3], open_pool(folder, SHAPE)[[1, 2]])
    assert len(opened) == 4
    assert pool[np.arange(6) < 2].shape == (2, *SHAPE)
    assert pool[np.empty(0, np.int64)].shape == (0, *SHAPE)
    assert pool[-1].shape == SHAPE


def test_an_array_on_disk_is_read_by_rows_and_scaled(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(256, size=(20, *SHAPE), dtype=np.uint8)
    np.save(tmp_path / "pool.npy", x)
    pool = open_pool(tmp_path / "pool.npy", SHAPE)
    assert isinstance(pool, StreamedPool)
    np.testing.assert_allclose(pool[[3, 19]], x[[3, 19]] / 255)
    np.testing.assert_allclose(np.asarray(pool), x / 255)
    np.save(tmp_path / "sixteen.npy", (x * 257.0).astype(np.uint16))
    np.testing.assert_allclose(open_pool(tmp_path / "sixteen.npy", SHAPE)[5], x[5] / 255)
    np.savez(tmp_path / "pool.npz", x=np.moveaxis(x, 3, 1))
    np.testing.assert_allclose(open_pool(tmp_path / "pool.npz", SHAPE), x / 255)


def test_a_pool_too_large_for_one_array_is_not_made_one() -> None:
    pool = StreamedPool(10**6, (32, 32, 3), lambda rows: np.zeros((len(rows), 32, 32, 3)))
    with pytest.raises(InputError, match=r"pool of 1,000,000 rows is too large to be one array \(23 GiB\)"):
        np.asarray(pool)


@pytest.mark.parametrize("shape", [(4, 6, 3), (3, 4, 6), (4, 6, 1), (1, 4, 6), (4, 6)])
@pytest.mark.parametrize("own", [(4, 6, 3), (3, 4, 6), (4, 6, 1), (1, 4, 6), (4, 6)])
def test_channels_are_moved_and_gray_is_made_of_colours(own: tuple[int, ...], shape: tuple[int, ...]) -> None:
    gray = np.random.default_rng(0).random((2, 4, 6))
    axis = {3: None, 4: 1 if own[0] != 4 else 3}[1 + len(own)]
    x = gray if axis is None else np.repeat(np.expand_dims(gray, axis), max(own[0] if axis == 1 else own[2], 1), axis)
    found = as_pictures(x, shape)
    assert found.shape == (2, *shape)
    channels = np.moveaxis(found, 1, 3) if shape[0] in (1, 3) else found.reshape(2, 4, 6, -1)
    np.testing.assert_allclose(channels, np.repeat(gray[..., None], channels.shape[3], 3), atol=1e-12)


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"got \(5, 6, 3\) and \(4, 6, 3\)\. Pictures of another size"):
        as_pictures(np.zeros((2, 5, 6, 3)), SHAPE)
    with pytest.raises(InputError, match=r"got \(7,\) and \(4, 6, 3\)"):
        as_pictures(np.zeros((2, 7)), SHAPE)


class Split:
    """As a split of `datasets` behaves: rows by number, a column by name."""

    column_names = ("img", "label")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int | str) -> object:
        if index == "label":
            return [0, 1, 1, 0]
        return {"img": Image.new("L" if index == 3 else "RGBA", (9, 9), 60 * int(index)), "label": 0}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(np.full((3, 5, 5), i / 4), i) for i in range(4)]  # as torchvision gives them through ToTensor
    things = {"split": Split(), "factory": Split, "pairs": pairs, "stream": iter([]), "splits": {"train": Split()}}
    things["rows"] = type("Rows", (Split,), {"column_names": ("text",)})()
    monkeypatch.setitem(sys.modules, "own_data", SimpleNamespace(**things))


def test_a_data_set_is_read_by_rows(named: None) -> None:
    pool = open_pool("own_data:split", SHAPE)
    assert pool.shape == (4, *SHAPE)
    assert pool.groups.tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(pool[3], 180 / 255, atol=0.01)
    assert len(open_pool("own_data:factory", SHAPE)) == 4
    np.testing.assert_allclose(open_pool("own_data:pairs", SHAPE)[2], 0.5, atol=0.01)
    with pytest.raises(InputError, match="A pool needs a length and rows by index; a list_iterator"):
        open_pool("own_data:stream", SHAPE)
    with pytest.raises(InputError, match="a dict has not both"):
        open_pool("own_data:splits", SHAPE)
    with pytest.raises(InputError, match="expected to have a column image or img; it has text"):
        open_pool("own_data:rows", SHAPE)
    with pytest.raises(InputError, match=r"expected as a folder, \.zip, \.npy or \.npz"):
        open_pool("pool.tar", SHAPE)


def test_of_a_large_pool_on_disk_an_audit_draws_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: None
) -> None:
    monkeypatch.setattr("portcullis_ml.bench.rows.MOST", 5)
    np.save(tmp_path / "pool.npy", np.arange(20 * 72, dtype=np.float32).reshape(20, *SHAPE) / 2000)
    rows = read_rows("pool", tmp_path / "pool.npy", part="train", shape=SHAPE)
    assert (len(rows), rows.said) == (5, "pool.npy: 5 of 20 pictures were drawn. More: --pool-rows.")
    assert len(read_rows("pool", tmp_path / "pool.npy", part="train", shape=SHAPE, most=7)) == 7
    all_of_them = read_rows("pool", tmp_path / "pool.npy", part="train", shape=SHAPE, most=20)
    assert (len(all_of_them), all_of_them.said) == (20, "")
    assert len(read_rows("pool", Path("own_data:split"), part="train", shape=SHAPE)) == 4


def test_a_folder_says_how_many_of_its_pictures_were_read(folder: Path) -> None:
    rows = read_rows("pool", folder, part="train", shape=SHAPE, most=2)
    assert rows.said.endswith(f"2 of {files_of(folder)} pictures were read. More: --pool-rows.")
    assert "More" not in read_rows("pool", folder, part="train", shape=SHAPE).said


def files_of(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def test_of_an_array_some_rows_are_drawn_with_their_labels_and_it_is_said() -> None:
    x = np.arange(50.0)[:, None]
    drawn = at_most("The pool", LabelledRows(x=x, y=np.arange(50), groups=np.arange(50) // 10), 20)
    assert drawn.said == "The pool: 20 of 50 rows were drawn at random. More: --pool-rows."
    np.testing.assert_array_equal(drawn.x[:, 0], drawn.y)
    np.testing.assert_array_equal(drawn.groups, drawn.y // 10)
    assert len(set(drawn.groups)) == 5  # the first 20 alone would be two groups
    assert at_most("The pool", drawn, None) is at_most("The pool", drawn, 20) is drawn


class Bright:
    """Says how bright a picture is."""

    input_shape, n_classes = SHAPE, 2

    def scores(self, x: np.ndarray) -> np.ndarray:
        p = np.clip(x.reshape(len(x), -1).mean(axis=1), 0, 1)
        return np.column_stack([1 - p, p])


@pytest.mark.parametrize(
    "attack",
    [
        Knockoff(batch=8),
        Knockoff(selection="adaptive", batch=8, clusters=3),
        Knockoff(selection="adaptive", batch=8, clusters=5, levels=2),
        Copycat(batch=8),
        ActiveThief(rounds=2),
        ActiveThief(strategy="dfal_k_centre", rounds=2),
        SwiftThief(rounds=2, contrast=1, unasked=10),
    ],
)
@pytest.mark.parametrize("groups", [None, "single"])
def test_attacks_ask_a_streamed_pool_as_they_ask_a_whole_one(attack: object, groups: str | None) -> None:
    """With groups of one row each, and with a budget beyond the pool, too."""
    held = np.random.default_rng(0).random((30, *SHAPE)) ** 2
    taken: list[int] = []

    def take(rows: np.ndarray) -> np.ndarray:
        taken.append(len(rows))
        return held[rows]

    asked = []
    for pool in (held, StreamedPool(30, SHAPE, take)):
        interface = Interface(input_shape=SHAPE, n_classes=2)
        oracle = LocalOracle(Bright(), interface, budget=40 if groups is None else 20)
        names = None if groups is None else np.arange(30)
        knowledge = Knowledge(pool=pool, pool_groups=names, learner=SklearnLearner())
        asked.append(attack(oracle, knowledge, rng=np.random.default_rng(1)).x)
    np.testing.assert_array_equal(*asked)
    assert sum(taken) > 0


def test_clusters_of_a_large_pool_come_from_some_rows_and_hold_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from portcullis_ml.extraction import knockoff

    monkeypatch.setattr(knockoff, "SEEN", 40)
    monkeypatch.setattr(knockoff, "PART", 7)
    held = np.repeat([0.1, 0.9], 50)[:, None] + np.random.default_rng(0).normal(0, 0.01, (100, 5))
    taken: list[int] = []

    def take(rows: np.ndarray) -> np.ndarray:
        taken.append(len(rows))
        return held[rows]

    found = knockoff._clusters(StreamedPool(100, (5,), take), 2, np.random.default_rng(0))
    assert max(taken) == 40
    assert len(set(found[:50])) == len(set(found[50:])) == 1
    assert found[0] != found[-1]


@pytest.mark.parametrize(("own", "said"), [((3, 4, 6), True), ((4, 6), True), ((4, 6, 3), False)])
def test_a_pool_in_another_layout_is_laid_out_as_the_victim_takes_it(
    own: tuple[int, ...], said: bool, tmp_path: Path
) -> None:
    np.savez(tmp_path / "test.npz", x=np.random.default_rng(0).random((8, *SHAPE)), y=np.arange(8) % 2)
    np.savez(tmp_path / "pool.npz", x=np.random.default_rng(1).random((9, *own)))
    sources = Sources(victim="unused", test=str(tmp_path / "test.npz"), pool=str(tmp_path / "pool.npz"))
    _, pool, *_ = rows_of(sources, NOTHING_KNOWN)
    assert pool is not None
    assert pool.x.shape == (9, *SHAPE)
    assert ("were laid out as (4, 6, 3)" in pool.said) == said


def test_a_pool_of_another_size_is_refused_with_what_to_do(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=np.zeros((8, *SHAPE)), y=np.arange(8) % 2)
    np.savez(tmp_path / "pool.npz", x=np.zeros((9, 5, 5, 3)))
    with pytest.raises(InputError, match="Pictures of another size may be given as a folder"):
        rows_of(
            Sources(victim="unused", test=str(tmp_path / "test.npz"), pool=str(tmp_path / "pool.npz")), NOTHING_KNOWN
        )


@pytest.mark.parametrize(("low", "high", "top"), [(0, 1, 1), (0, 255, 255), (-2, 2, None)])
def test_pictures_from_files_have_the_range_of_the_test_rows(
    low: float, high: float, top: float | None, folder: Path, tmp_path: Path
) -> None:
    x = np.linspace(low, high, 8 * 72).reshape(8, *SHAPE)
    np.savez(tmp_path / "test.npz", x=x, y=np.arange(8) % 2)
    sources = Sources(victim="unused", test=str(tmp_path / "test.npz"), pool=str(folder))
    if top is None:
        with pytest.raises(InputError, match=r"the test rows go from -2 to 2, so somebody normalised them\. Give test"):
            rows_of(sources, NOTHING_KNOWN)
        return
    _, pool, *_ = rows_of(sources, NOTHING_KNOWN)
    assert pool is not None
    assert pool.x.max() == top


def test_a_pool_smaller_than_the_seeds_gives_what_it_has() -> None:
    experiment = ExperimentSpec(rows=7).load()
    for labels in (experiment.pool_labels, None):
        drawn = replace(experiment, pool_labels=labels).draw_seeds(100, np.random.default_rng(0))
        assert drawn is not None
        assert len(drawn) == 7


@pytest.mark.parametrize(
    ("test", "pool", "factor", "said"),
    [
        ((0, 1), np.uint8, 1 / 255, ""),
        ((0, 1), np.uint16, 1 / 65535, "pixels of 16 bits, were brought to 0 to 1"),
        ((0, 1), np.float64, 1 / 255, "pixels of 8 bits, were brought to 0 to 1"),
        ((0, 255), np.uint8, 1, "go from 0 to 255, as the test rows do"),
        ((0, 255), np.float64, 1, ""),
        ((-2, 2), np.uint8, 1 / 255, "if those were normalised, normalise the pool likewise"),
    ],
)
def test_arrays_of_pictures_are_brought_to_the_scale_of_the_test_rows(
    test: tuple[float, float], pool: type, factor: float, said: str, tmp_path: Path
) -> None:
    rng, top = np.random.default_rng(0), 65535 if pool is np.uint16 else 255
    given = rng.integers(top + 1, size=(9, *SHAPE))
    given.flat[0] = top
    np.savez(tmp_path / "pool.npz", x=given.astype(pool))
    np.savez(tmp_path / "test.npz", x=np.linspace(*test, 8 * 72).reshape(8, *SHAPE), y=np.arange(8) % 2)
    found = read_both(tmp_path)
    np.testing.assert_allclose(found.x, given * factor)
    assert said in found.said
    assert bool(said) == bool(found.said)


def read_both(folder: Path) -> LabelledRows:
    sources = Sources(victim="unused", test=str(folder / "test.npz"), pool=str(folder / "pool.npz"))
    pool = rows_of(sources, NOTHING_KNOWN)[1]
    assert pool is not None
    return pool


def test_a_pool_that_somebody_normalised_beside_pixels_is_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((9, *SHAPE))
    np.savez(tmp_path / "test.npz", x=x, y=np.arange(9) % 2)
    np.savez(tmp_path / "pool.npz", x=(x - 0.5) / 0.25)
    with pytest.raises(InputError, match=r"go from -2 to 2, the test rows from 0 to 1.* normalise neither"):
        read_both(tmp_path)


@pytest.mark.parametrize(
    ("have", "want", "said"),
    [
        ((3, 4, 6), (4, 6, 3), "x.transpose(0, 2, 3, 1)"),
        ((4, 6, 3), (3, 4, 6), "x.transpose(0, 3, 1, 2)"),
        ((4, 6), (4, 6, 3), "numpy.expand_dims(x, 3), 3, axis=3"),
        ((4, 6), (3, 4, 6), "numpy.expand_dims(x, 1), 3, axis=1"),
        ((24,), (4, 6), "Reshape them"),
    ],
)
def test_what_to_do_with_rows_in_another_layout_than_the_victims(
    have: tuple[int, ...], want: tuple[int, ...], said: str
) -> None:
    assert said in layout_hint(have, want)
