"""Folders and archives of pictures, in every shape that a victim takes, and files that are not what they seem."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from portcullis_ml.core.errors import InputError
from portcullis_ml.data import pictures
from portcullis_ml.data.pictures import read_pictures


def red(size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, (255, 0, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    red().save(tmp_path / "cats" / "a.png")
    red().save(tmp_path / "cats" / "b.JPEG", "jpeg", quality=100)
    Image.new("L", (20, 20), 128).save(tmp_path / "dogs" / "c.bmp")
    (tmp_path / "dogs" / "notes.txt").write_text("not a picture")
    return tmp_path


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (1, 6, 8), (6, 8, 3), (3, 6, 8)])
def test_pictures_have_the_shape_asked_for(folder: Path, shape: tuple[int, ...]) -> None:
    found = read_pictures(folder, shape)
    assert found.x.shape == (3, *shape)
    assert found.found == 3
    assert sorted(found.groups.tolist()) == ["cats", "cats", "dogs"]
    if 3 in shape:
        cat = found.x[found.groups == "cats"][0]
        colours = np.moveaxis(cat, 0, -1) if shape[0] == 3 else cat
        np.testing.assert_allclose(colours[3, 4], [1, 0, 0], atol=0.01)
    np.testing.assert_allclose(found.x[found.groups == "dogs"], 128 / 255, atol=0.01)


def test_an_archive_is_read_as_the_folder_is(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "pool.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            if file.suffix != ".zip":
                archive.write(file, file.relative_to(folder))
    archived, plain = read_pictures(path, (6, 8, 3)), read_pictures(folder, (6, 8, 3))
    np.testing.assert_array_equal(archived.x, plain.x)
    np.testing.assert_array_equal(archived.groups, plain.groups)


def test_of_many_some_are_drawn_and_only_those_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(50):
        (tmp_path / str(i % 5)).mkdir(exist_ok=True)
        red((4, 4)).save(tmp_path / str(i % 5) / f"{i:02}.png")
    opened: list[int] = []
    plain = pictures.decoded
    monkeypatch.setattr(pictures, "decoded", lambda *a: opened.append(1) or plain(*a))  # type: ignore[func-returns-value]
    found = read_pictures(tmp_path, (4, 4), most=20)
    assert (len(found.x), found.found, len(opened)) == (20, 50, 20)
    assert len(set(found.groups[:10])) > 2  # the first rows are of several folders


def put(path: Path, image: Image.Image, **how: object) -> Path:
    image.save(path, **how)  # type: ignore[arg-type]
    return path.parent


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), [1, 1, 1]),  # 16 bits
        (Image.fromarray(np.full((4, 4), 32768, np.uint16)), [0.5, 0.5, 0.5]),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), [1, 1, 1]),  # wholly transparent: white
        (Image.new("LA", (4, 4), (0, 255)), [0, 0, 0]),
        (Image.new("RGB", (4, 4), (0, 0, 255)).convert("P"), [0, 0, 1]),
        (Image.new("1", (4, 4), 1), [1, 1, 1]),
    ],
)
def test_every_kind_of_pixel_becomes_the_same_colours(
    image: Image.Image, expected: list[float], tmp_path: Path
) -> None:
    found = read_pictures(put(tmp_path / "one.png", image), (4, 4, 3))
    np.testing.assert_allclose(found.x[0, 2, 2], expected, atol=0.02)


def test_cmyk_and_a_rotated_photograph(tmp_path: Path) -> None:
    put(tmp_path / "cmyk.jpg", Image.new("CMYK", (4, 4), (0, 255, 255, 0)))
    assert read_pictures(tmp_path, (4, 4, 3)).x[0, 1, 1, 0] > 0.9
    (tmp_path / "cmyk.jpg").unlink()
    half = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 8, axis=0).repeat(4, axis=1))  # dark above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    put(tmp_path / "turned.jpg", half.resize((8, 8)), exif=exif, quality=100)
    found = read_pictures(tmp_path, (8, 8)).x[0]
    assert found[0].mean() > 0.9 > 0.1 > found[-1].mean()


def test_files_that_cannot_be_read_are_named_and_skipped_or_refused(folder: Path) -> None:
    (folder / "cats" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with (folder / "dogs" / "short.jpg").open("wb") as file:
        content = io.BytesIO()
        Image.effect_noise((64, 64), 50).save(content, "jpeg")
        file.write(content.getvalue()[:400])
    found = read_pictures(folder, (6, 8))
    assert len(found.x) == 3
    assert set(found.skipped) == {"cats/broken.png", "dogs/short.jpg"}
    assert found.skipped["cats/broken.png"] == "no image, or cut short"
    assert "3 of 5 pictures were read. 2 could not be: " in found.sentence()
    with pytest.raises(InputError, match=r"(broken\.png|short\.jpg) in .* cannot be read: .* Take it out"):
        read_pictures(folder, (6, 8), skip=False)


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.png", red((4, 4)))
    put(tmp_path / "huge.png", Image.new("1", (300, 300)))
    monkeypatch.setattr(pictures, "PIXELS", 10_000)
    found = read_pictures(tmp_path, (4, 4))
    assert found.skipped == {"huge.png": "300 x 300 pixels, where 10,000 are decoded at most"}


def test_a_file_of_too_many_bytes_is_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "BYTES", 1000)
    assert list(read_pictures(folder, (6, 8)).skipped) == ["dogs/c.bmp"]


def test_folders_that_hold_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"was expected to hold image files .*; it holds none"):
        read_pictures(tmp_path, (4, 4))
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"holds no picture that can be read; broken\.png: "):
        read_pictures(tmp_path, (4, 4))
    (tmp_path / "pool.zip").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"pool\.zip was expected to be a \.zip of image files"):
        read_pictures(tmp_path / "pool.zip", (4, 4))


def test_a_victim_that_takes_no_pictures(folder: Path) -> None:
    with pytest.raises(InputError, match=r"A folder of pictures goes with inputs of \(H, W\).*; got \(20,\)"):
        read_pictures(folder, (20,))
