"""Pictures in a zip archive."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from portcullis_ml.core.errors import InputError
from portcullis_ml.data.picture_zip import pictures_in


def archive(path: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for number, (name, size) in enumerate(sizes.items()):
            data = io.BytesIO()
            Image.new("RGB", size, (51 * number, 0, 255)).save(data, "PNG")
            out.writestr(name, data.getvalue())
        out.writestr("README.txt", "not a picture")
    return path


def test_folders_are_classes_and_blocks_of_pixels_are_averaged(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.zip", {"b/1.png": (4, 6), "a/2.png": (4, 6), "a/1.png": (4, 6)})
    x, y = pictures_in(made, shrink=2)
    assert (x.shape, y.tolist()) == ((3, 3, 2, 3), [0, 0, 1])
    np.testing.assert_allclose(x[:, 0, 0], [[0.4, 0, 1], [0.2, 0, 1], [0, 0, 1]])


def test_what_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pictures of one size, in a folder for each class; it does not"):
        pictures_in(archive(tmp_path / "b.zip", {"a/1.png": (4, 6), "a/2.png": (6, 4)}))
    (tmp_path / "c.zip").write_bytes(archive(tmp_path / "d.zip", {"a/1.png": (4, 6)}).read_bytes()[:90])
    for name in ("c.zip", "none.zip"):
        with pytest.raises(InputError, match=r"expected to be a zip archive of pictures; it cannot be read"):
            pictures_in(tmp_path / name)
