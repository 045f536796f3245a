"""Pools that are not loaded whole: rows are read, decoded and scaled when they are taken.

    FOLDER, FILE.zip    image files of any kind (`pictures.py`), a file decoded when its row is taken
    FILE.npy            an array on disk, of which only the rows taken are read; 8-bit pictures are scaled to [0, 1]
    FILE.npz            an array; it is compressed, so it is loaded whole
    module:object       a data set of Hugging Face's `datasets`, or whatever has a length and gives pictures by index

`pool[rows]` is an array like that of any other pool, so attacks hold no more than what they ask about. A file that
cannot be read gives its place to the next one that can, and is counted; with `skip=False` it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.catalog import resolve
from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.types import Array
from portcullis_ml.data.pictures import as_pictures, decoded, files_in, holds_pictures, layout_of, shrunk, unread

__all__ = ["StreamedPool", "open_pool"]

WHOLE = 2**31  # bytes: a pool of more is not made one array
COLUMNS = ("image", "img", "picture")  # of a data set that hold pictures, the likeliest first
GROUPS = ("label", "labels", "fine_label", "class")  # and what its own source sorts them by

Rows = NDArray[np.int64]


class StreamedPool:
    """`n` pictures (n, *input_shape) in [0, 1], of which `take` gives those of given indices as they are wanted.

    groups   (n,) what the source sorts them by, or None: `Knowledge.pool_groups`
    skipped  {file: why it could not be read}, of those that were tried so far
    """

    dtype = np.dtype(np.float64)

    def __init__(
        self,
        n: int,
        input_shape: tuple[int, ...],
        take: Callable[[Rows], Array],
        *,
        groups: np.ndarray | None = None,
        skipped: dict[str, str] | None = None,
    ) -> None:
        self.shape = (n, *input_shape)
        self.ndim = len(self.shape)
        self.groups = groups
        self.skipped: dict[str, str] = {} if skipped is None else skipped
        self._take = take

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Array:
        """The row of that number, or (k, *input_shape) rows: of a slice, of indices, or where a mask is true."""
        rows = np.arange(len(self))[index]
        taken = np.asarray(self._take(np.atleast_1d(rows)), np.float64).reshape(-1, *self.shape[1:])
        return taken[0] if np.ndim(rows) == 0 else taken

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        size = 8 * int(np.prod(self.shape))
        if size > WHOLE:
            raise InputError(
                f"This pool of {len(self):,} rows is too large to be one array ({size / 2**30:,.0f} GiB). Take rows of "
                "it by their indices, or choose an attack that does: knockoff, active_thief, swift_thief, copycat."
            )
        return self[:].astype(dtype or self.dtype)

    def sentence(self) -> str:
        """How many rows there are, and which files could not be read so far."""
        text = f"{len(self):,} pictures, each read when it is asked about."
        if self.skipped:
            first = ", ".join(f"{name} ({why})" for name, why in list(self.skipped.items())[:3])
            text += f" {len(self.skipped):,} could not be: {first}{' ...' if len(self.skipped) > 3 else ''}."
        return text


def open_pool(source: str | Path, input_shape: tuple[int, ...], *, skip: bool = True) -> StreamedPool | Array:
    """The pool at that path, or the data set "module:object", as pictures of this shape. See the head of this file."""
    path = Path(source)
    if path.exists() and holds_pictures(path):
        return _of_files(path, input_shape, skip)
    if path.suffix == ".npy" and path.is_file():
        return _of_array(path, input_shape)
    if path.suffix == ".npz" and path.is_file():
        with np.load(path, allow_pickle=False) as file:
            name = next((name for name in ("x", "x_train") if name in file.files), file.files[0])
            return _scaled(path.name, file[name], input_shape)
    if ":" in str(source):
        return of_dataset(resolve(str(source)), input_shape)
    raise InputError(
        f"The pool was expected as a folder, .zip, .npy or .npz, or as module:object of a data set; got {source}."
    )


def _of_files(path: Path, shape: tuple[int, ...], skip: bool) -> StreamedPool:
    height, width, channels, first = layout_of(shape)
    names, opened = files_in(path)
    if not names:
        raise InputError(f"{path.name} was expected to hold image files; it holds none. Check the path.")
    skipped: dict[str, str] = {}

    def one(start: int) -> Any:
        for step in range(len(names)):
            name = names[(start + step) % len(names)]
            try:
                return decoded(opened(name), height, width, channels)
            except Exception as error:  # decoders of broken files raise anything
                if isinstance(error, MissingExtra):
                    raise
                skipped[name] = unread(error)
                if not skip:
                    raise InputError(f"{name} in {path.name} cannot be read: {skipped[name]}. Take it out.") from error
        raise InputError(f"{path.name} holds no picture that can be read; {names[0]}: {skipped[names[0]]}.")

    def take(rows: Rows) -> Array:
        return _laid_out(np.stack([one(int(row)) for row in rows]) if len(rows) else None, shape, first)

    groups = np.array([str(PurePosixPath(name).parent) for name in names])
    return StreamedPool(len(names), shape, take, groups=groups, skipped=skipped)


def _laid_out(pictures: Any, shape: tuple[int, ...], first: bool) -> Array:
    """8-bit pictures (n, H, W, C) in the shape asked for, in [0, 1]."""
    if pictures is None:
        return np.empty((0, *shape))
    x = pictures / 255.0
    return np.asarray(np.moveaxis(x, 3, 1) if first else x).reshape(len(x), *shape)


def _of_array(path: Path, shape: tuple[int, ...]) -> StreamedPool:
    """Rows are read one by one: a mapped file would be mapped in blocks of up to 2 MiB around every row."""
    held: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    _scaled(path.name, held[:1], shape)  # says now what is wrong
    n, dtype, row_shape, offset = len(held), held.dtype, held.shape[1:], held.offset
    size = dtype.itemsize * int(np.prod(row_shape))
    if not held.flags.c_contiguous:
        return StreamedPool(n, shape, lambda rows: _scaled(path.name, held[rows], shape))

    def take(rows: Rows) -> Array:
        with path.open("rb") as file:
            content = b"".join(os.pread(file.fileno(), size, offset + int(row) * size) for row in rows)
        return _scaled(path.name, np.frombuffer(content, dtype).reshape(len(rows), *row_shape), shape)

    return StreamedPool(n, shape, take)


def _scaled(name: str, x: np.ndarray, shape: tuple[int, ...]) -> Array:
    """8-bit pictures to [0, 1], 16-bit ones too; other numbers as they are; in the layout asked for."""
    if x.ndim < 2 or x.dtype.kind not in "uif":
        raise InputError(f"{name}: a pool must be numbers of shape (n, ...); got {x.dtype} of shape {x.shape}.")
    top = {"uint8": 255.0, "uint16": 65535.0}.get(x.dtype.name, 1.0)
    found = x.astype(np.float64) / top
    if not np.isfinite(found).all():
        raise InputError(f"{name}: a pool must be finite; got NaN or infinity. Drop those rows first.")
    return found if found.shape[1:] == shape else as_pictures(found, shape)


def of_dataset(held: Any, shape: tuple[int, ...]) -> StreamedPool:
    """A data set of Hugging Face's `datasets`, or anything with a length that gives pictures by index."""
    height, width, channels, first = layout_of(shape)
    held = held() if isinstance(held, type) or (callable(held) and not hasattr(held, "__getitem__")) else held
    if isinstance(held, Mapping) or not (hasattr(held, "__len__") and hasattr(held, "__getitem__")):
        raise InputError(
            f"A pool needs a length and rows by index; a {type(held).__name__} has not both. Of a data set dictionary "
            "name one split; a stream of `datasets` must be saved first."
        )
    columns = list(getattr(held, "column_names", ()) or ())
    column = next((name for name in COLUMNS if name in columns), None)
    if columns and column is None:
        raise InputError(f"The data set was expected to have a column image or img; it has {', '.join(columns)}.")

    def one(row: int) -> Any:
        item = held[row]
        return _picture(item[column] if column else item, height, width, channels)

    def take(rows: Rows) -> Array:
        return _laid_out(np.stack([one(int(row)) for row in rows]) if len(rows) else None, shape, first)

    label = next((name for name in GROUPS if name in columns), None)
    groups = None if label is None else np.asarray(held[label])
    return StreamedPool(len(held), shape, take, groups=groups)


def _picture(item: Any, height: int, width: int, channels: int) -> Any:
    """8-bit (height, width, channels) of a picture of Pillow's, of an array, or of a pair with a label."""
    from PIL import Image

    item = item[0] if isinstance(item, Sequence) and len(item) == 2 else item  # torchvision: (picture, label)
    if not isinstance(item, Image.Image):
        array = np.asarray(item)
        if array.dtype.kind == "f":
            array = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
        item = Image.fromarray(
            np.squeeze(np.moveaxis(array, 0, 2) if array.ndim == 3 and array.shape[0] in (1, 3) else array)
        )
    return shrunk(item, height, width, channels)
