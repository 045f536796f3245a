"""Named data sets: digits embedded, .npz and .csv files of a folder, OpenML where there is a network.

    digits          scikit-learn's 8x8 digits, always there
    NAME            NAME.npz, NAME.csv.gz or NAME.csv in the folder given, or in $PORTCULLIS_DATA
    PATH.npz, .csv  that file
    openml:NAME     from openml.org through scikit-learn

An .npz holds x_train, y_train, x_test, y_test; 8-bit images are scaled to [0, 1]. A column `track_train` says which
rows show one object, and is kept as `groups`. Class names may stand beside it in NAME.classes.json. Nothing is
unpickled and nothing larger than `limit` bytes is unpacked.
"""

from __future__ import annotations

import difflib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Labels
from portcullis_ml.data.dataset import Dataset
from portcullis_ml.data.tables import from_csv, from_openml
from portcullis_ml.data.takes import NOTHING_KNOWN, Takes

__all__ = ["available", "data_folder", "load_dataset"]

LIMIT = 2 * 2**30  # bytes, unpacked
SUFFIXES = (".npz", ".csv.gz", ".csv")


def load_dataset(
    name: str,
    folder: str | Path | None = None,
    *,
    target: str | None = None,
    limit: int = LIMIT,
    takes: Takes = NOTHING_KNOWN,
    unlabelled: bool = False,
) -> Dataset:
    """The data set of that name (see the head of this file). `target` names the label column of a table, `takes` what
    a model takes of its columns; `unlabelled` says that a .csv may have no label column."""
    if name == "digits":
        return _digits()
    if name.startswith("openml:"):
        return from_openml(name.removeprefix("openml:"), target)
    path = _find(name, folder)
    if path.stat().st_size > limit:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes; at most {limit:,} are read. Take a part of it.")
    if path.name.endswith(".npz"):
        return _images(path, limit)
    return from_csv(path, target, limit, takes, unlabelled=unlabelled)


def available(folder: str | Path | None = None) -> list[str]:
    """The names that `load_dataset` knows without a network."""
    place = data_folder(folder)
    found = {_stem(p) for p in place.iterdir() if p.name.endswith(SUFFIXES)} if place and place.is_dir() else set()
    return sorted(found | {"digits"})


def data_folder(folder: str | Path | None) -> Path | None:
    """Where data sets lie: the folder given, or $PORTCULLIS_DATA, or nowhere."""
    given = folder or os.environ.get("PORTCULLIS_DATA")
    return Path(given) if given else None


def _stem(path: Path) -> str:
    return next(path.name.removesuffix(suffix) for suffix in (*SUFFIXES, "") if path.name.endswith(suffix))


def _find(name: str, folder: str | Path | None) -> Path:
    place = data_folder(folder)
    if name.endswith(SUFFIXES):
        path = Path(name)
        if path.is_file():
            return path
        raise InputError(f"There is no file {name}. Check the path; it is taken from the current directory.")
    for suffix in SUFFIXES:
        if place and (place / f"{name}{suffix}").is_file():
            return place / f"{name}{suffix}"
    names = available(place)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names
    where = f"in {place}" if place else "nowhere else, since no folder was given and PORTCULLIS_DATA is not set"
    raise InputError(
        f"There is no data set {name!r}; looked among the embedded ones and {where}. "
        f"Did you mean {' or '.join(near)}? Or give a folder, a file, or openml:NAME."
    )


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = derive(0, "data", "digits").permutation(len(bunch.target))  # the source is ordered by writer
    x, y = bunch.images[order] / 16.0, bunch.target[order].astype(np.int64)
    cut = len(x) * 7 // 10
    return Dataset(
        name="digits", x=x[:cut], y=y[:cut], x_test=x[cut:], y_test=y[cut:], classes=tuple(map(str, range(10)))
    )


def _images(path: Path, limit: int) -> Dataset:
    arrays = _arrays(path, limit)
    x, x_test = _scaled(path, arrays["x_train"]), _scaled(path, arrays["x_test"])
    y, y_test = (arrays[key].astype(np.int64) for key in ("y_train", "y_test"))
    for name, rows, labels in (("train", x, y), ("test", x_test, y_test)):
        if labels.shape != (len(rows),) or len(rows) == 0:
            raise InputError(f"{path}: y_{name} must have one label for each of {len(rows)} rows; got {labels.shape}.")
    if x.shape[1:] != x_test.shape[1:]:
        raise InputError(f"{path}: train and test rows must have one shape; got {x.shape[1:]} and {x_test.shape[1:]}.")
    least, greatest = min(x.min(), x_test.min()), max(x.max(), x_test.max())
    if not (np.isfinite(least) and np.isfinite(greatest)):
        raise InputError(f"{path}: rows must be finite; got NaN or infinity. Drop those rows first.")
    return Dataset(
        name=_stem(path),
        x=x,
        y=y,
        x_test=x_test,
        y_test=y_test,
        classes=_classes(path, np.concatenate([y, y_test])),
        bounds=(0.0, 1.0) if 0 <= least and greatest <= 1 else (float(least), float(greatest)),
        groups=arrays["track_train"].astype(np.int64) if "track_train" in arrays else None,
        groups_test=arrays["track_test"].astype(np.int64) if "track_test" in arrays else None,
    )


def _arrays(path: Path, limit: int) -> dict[str, NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > limit:
            raise InputError(f"{path} unpacks to {unpacked:,} bytes; at most {limit:,} are read. Take a part of it.")
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} was expected to be an .npz of plain arrays; it cannot be read ({error}). "
            "Write it again with numpy.savez_compressed, without objects."
        ) from error
    lacking = [key for key in ("x_train", "y_train", "x_test", "y_test") if key not in arrays]
    if lacking:
        raise InputError(f"{path} was expected to hold {', '.join(lacking)}; it holds {', '.join(sorted(arrays))}.")
    return arrays


def _scaled(path: Path, x: NDArray[np.generic]) -> Array:
    """8-bit images to [0, 1]; anything else as it is."""
    if x.ndim < 2 or x.dtype.kind not in "uif":
        raise InputError(f"{path}: rows must be numbers of shape (n, ...); got {x.dtype} of shape {x.shape}.")
    return x.astype(np.float64) / (255.0 if x.dtype == np.uint8 else 1.0)


def _classes(path: Path, y: Labels) -> tuple[str, ...]:
    beside = path.with_name(f"{_stem(path)}.classes.json")
    names = tuple(map(str, range(int(y.max()) + 1)))
    if beside.is_file():
        held = json.loads(beside.read_text("utf-8"))
        names = tuple(map(str, held["classes"] if isinstance(held, dict) else held))
    if y.min() < 0 or y.max() >= len(names):
        raise InputError(f"{path}: labels must lie in 0..{len(names) - 1}; got {y.min()}..{y.max()}.")
    return names
