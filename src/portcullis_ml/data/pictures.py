"""Pictures as people keep them: a folder or a .zip of image files, read as arrays of one shape.

Every format that Pillow knows; 16 bits are brought down to 8, palettes and four-colour files become RGB, what is
transparent lies on white, and a camera's rotation is undone. A picture is shrunk or enlarged to the shape as a whole.
The folder in which a file lies is its group. A file with more pixels than `PIXELS` is not decoded. Of a large
collection `most` files are drawn at random, and no other is opened.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array

__all__ = [
    "Pictures",
    "as_pictures",
    "decoded",
    "files_in",
    "holds_pictures",
    "layout_of",
    "read_pictures",
    "shrunk",
    "unread",
]

PIXELS = 50_000_000  # of a file, at most: a small file can unpack to a huge picture
BYTES = 100 * 2**20  # of a file
SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .jp2 .pgm .png .ppm .tif .tiff .webp".split())
NAMED = 3  # unreadable files that a sentence names


@dataclass(frozen=True)
class Pictures:
    """x (n, *shape) in [0, 1]; `groups` (n,) the folder of each; `found` files in all, `skipped` {file: why not}."""

    x: Array
    groups: np.ndarray
    found: int
    skipped: dict[str, str]

    def sentence(self) -> str:
        """How many files were read, and which were not."""
        text = f"{len(self.x):,} of {self.found:,} pictures were read."
        if self.skipped:
            first = ", ".join(f"{name} ({why})" for name, why in list(self.skipped.items())[:NAMED])
            text += f" {len(self.skipped):,} could not be: {first}{' ...' if len(self.skipped) > NAMED else ''}."
        return text


def holds_pictures(path: Path) -> bool:
    """Whether this is a folder, or a .zip: what `read_pictures` takes."""
    return path.is_dir() or path.suffix == ".zip"


def read_pictures(path: Path, shape: tuple[int, ...], *, most: int = 20_000, skip: bool = True) -> Pictures:
    """Up to `most` pictures in the shape (H, W), (H, W, C) or (C, H, W), where C is 1 or 3. A file that cannot be read
    is skipped, or refused where `skip` is False."""
    height, width, channels, first = layout_of(shape)
    names, opened = files_in(path)
    if not names:
        known = " ".join(sorted(SUFFIXES))
        raise InputError(f"{path.name} was expected to hold image files ({known}); it holds none. Check the path.")
    drawn = derive(0, "pictures").permutation(len(names))[:most]
    chosen = [names[i] for i in drawn]  # in random order: a cap on the rows is no cap on the folders
    pictures = np.empty((len(chosen), height, width, channels), np.uint8)
    skipped: dict[str, str] = {}
    kept: list[str] = []
    for name in chosen:
        try:
            pictures[len(kept)] = decoded(opened(name), height, width, channels)
        except Exception as error:  # decoders of broken files raise anything
            if isinstance(error, MissingExtra):
                raise
            skipped[name] = unread(error)
            if not skip:
                raise InputError(f"{name} in {path.name} cannot be read: {skipped[name]}. Take it out.") from error
        else:
            kept.append(name)
    if not kept:
        name, why = next(iter(skipped.items()))
        raise InputError(f"{path.name} holds no picture that can be read; {name}: {why}.")
    x = pictures[: len(kept)] / 255.0
    x = np.moveaxis(x, 3, 1) if first else x
    groups = np.array([str(PurePosixPath(name).parent) for name in kept])
    return Pictures(x.reshape(len(x), *shape), groups, len(names), skipped)


def unread(error: Exception) -> str:
    """Why a file could not be read, without the decoder's own names for it."""
    told = str(error)
    return "no image, or cut short" if "cannot identify image" in told else told or type(error).__name__


def layout_of(shape: tuple[int, ...]) -> tuple[int, int, int, bool]:
    """(height, width, channels, whether channels come first)."""
    if len(shape) == 2:
        return shape[0], shape[1], 1, False
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[0], shape[1], shape[2], False
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[1], shape[2], shape[0], True
    raise InputError(
        f"A folder of pictures goes with inputs of (H, W), (H, W, C) or (C, H, W), C being 1 or 3; got {shape}. "
        "Give the pool as .npz in the victim's own shape."
    )


def files_in(path: Path) -> tuple[Sequence[str], Callable[[str], bytes]]:
    """The names of all image files in sorted order, and what reads one."""
    if path.is_dir():
        inside = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        names = sorted(p.relative_to(path).as_posix() for p in inside)
        return names, lambda name: _bounded(path / name)
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path.name} was expected to be a .zip of image files; it cannot be read ({error})."
        ) from error
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}

    def read(name: str) -> bytes:
        _check_size(sizes[name])
        return archive.read(name)

    return sorted(name for name in sizes if PurePosixPath(name).suffix.lower() in SUFFIXES), read


def _bounded(path: Path) -> bytes:
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _check_size(size: int) -> None:
    if size > BYTES:
        raise ValueError(f"{size:,} bytes, where {BYTES:,} are read at most")


def decoded(content: bytes, height: int, width: int, channels: int) -> Any:
    """(height, width, channels) 8-bit, of the bytes of a file."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtra("A folder of pictures", "pillow") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that are odd and can be read all the same
        image: Any = Image.open(io.BytesIO(content))
        if image.width * image.height > PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, where {PIXELS:,} are decoded at most")
        return shrunk(image, height, width, channels)


def shrunk(image: Any, height: int, width: int, channels: int) -> Any:
    """(height, width, channels) 8-bit, of a picture of Pillow's in any mode."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image, Image)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels)


def as_pictures(x: Array, shape: tuple[int, ...]) -> Array:
    """Pictures x (n, ...) of the same height and width in another layout: channels moved, gray made of colours or
    colours of gray. InputError where they are no such pictures."""
    try:
        height, width, channels, first = layout_of(shape)
        own_height, own_width, own, own_first = layout_of(tuple(x.shape[1:]))
    except InputError:
        own_height = height = width = own_width = -1
    if (height, width) != (own_height, own_width) or height < 0:
        raise InputError(
            f"The pool must have the inputs of the test set; got {tuple(x.shape[1:])} and {tuple(shape)}. Pictures of "
            "another size may be given as a folder or a .zip of image files, which is brought to this one."
        )
    x = x.reshape(len(x), *([own] if own_first else []), height, width, *([] if own_first else [own]))
    x = np.moveaxis(x, 1, 3) if own_first else x
    if own != channels:
        x = x @ np.array([[0.299], [0.587], [0.114]]) if channels == 1 else np.repeat(x, 3, axis=3)
    return (np.moveaxis(x, 3, 1) if first else x).reshape(len(x), *shape)


def _eight_bits(image: Any, pil: Any) -> Any:
    """Pictures of 16 bits, and of 32 with values of 16, brought down to 8; floats in [0, 1] brought up."""
    values = np.asarray(image, np.float64)
    scale = 255.0 if image.mode == "F" and values.max() <= 1 else 255 / 65535
    return pil.fromarray(np.clip(np.round(values * scale), 0, 255).astype(np.uint8))
