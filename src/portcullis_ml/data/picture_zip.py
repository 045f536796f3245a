"""Pictures in a zip archive, one folder a class: "00/image_0001.jpg"."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.types import Array, Labels

__all__ = ["pictures_in"]

LIMIT = 2**30  # bytes, unpacked


def pictures_in(path: Path, shrink: int = 1) -> tuple[Array, Labels]:
    """x (n, h, w, 3) in [0, 1] and classes (n,), in the order of the files' names; `shrink` averages blocks of pixels.

    InputError for an archive that cannot be read, is too large or holds pictures of several sizes.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtra("Pictures in a zip archive", "pillow") from error
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LIMIT:
                raise InputError(f"{path} unpacks to more than {LIMIT:,} bytes. Take a part of it.")
            names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png")))
            read = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB").reduce(shrink)) for n in names]
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise InputError(
            f"{path} was expected to be a zip archive of pictures; it cannot be read ({error})."
        ) from error
    folders = sorted({name.rpartition("/")[0] for name in names})
    if not read or len({picture.shape for picture in read}) > 1:
        raise InputError(f"{path} was expected to hold pictures of one size, in a folder for each class; it does not.")
    y = np.array([folders.index(name.rpartition("/")[0]) for name in names], np.int64)
    return np.stack(read) / 255.0, y
