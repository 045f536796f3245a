"""Features that were computed once are not computed again: a store by the content of the rows.

A row is known by the SHA-256 of its numbers; the store by the checksum of what computes the features. What was computed
stands in a folder, a file for every batch that came new, so that other processes find it, and a run that was stopped
has lost nothing. A file is written under another name and then renamed; one that cannot be read is left out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array

__all__ = ["FeatureStore", "features_folder"]

Features = NDArray[np.float32]
IN_MEMORY = 2**29  # bytes of features that a store without a folder keeps


def features_folder() -> Path:
    """`features` in $PORTCULLIS_CACHE, or in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PORTCULLIS_CACHE") or Path(base) / "portcullis") / "features"


class FeatureStore:
    """Features (n, width) float32 of rows, from the folder where they are there, else from `compute`.

    `computed` counts the rows that had to be computed. Without a folder they are kept in memory, up to half a GiB.
    """

    def __init__(self, compute: Callable[[Array], Features], folder: Path | None) -> None:
        self._compute, self._folder = compute, folder
        self._places: dict[bytes, tuple[Features, int]] = {}  # key -> a file's features and the row in it
        self._read: set[str] = set()
        self._held = 0
        self.computed = 0

    def __call__(self, rows: Array) -> Features:
        """(n, width) features of rows (n, ...), each distinct row computed once."""
        keys = [hashlib.sha256(np.asarray(row, np.float32).tobytes()).digest() for row in rows]
        if any(key not in self._places for key in keys):
            self._look()
        new = {key: i for i, key in enumerate(keys) if key not in self._places}
        if new:
            self._keep(list(new), self._compute(rows[list(new.values())]))
        found = [self._places[key] for key in keys]
        if self._folder is None and self._held > IN_MEMORY:
            self._places, self._held = {}, 0
        return np.stack([features[i] for features, i in found])

    def _keep(self, keys: list[bytes], features: Features) -> None:
        self.computed += len(keys)
        self._held += features.nbytes
        if self._folder is not None:
            features = self._written(keys, features)
        self._places |= {key: (features, i) for i, key in enumerate(keys)}

    def _written(self, keys: list[bytes], features: Features) -> Features:
        """The same features, on disk; in memory where the folder cannot be written."""
        assert self._folder is not None
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for suffix, array in ((".npy", features), (".keys.npy", np.frombuffer(b"".join(keys), np.uint8))):
                partial = self._folder / f"{name}.{os.getpid()}.part"
                with partial.open("wb") as file:
                    np.save(file, array)
                partial.replace(self._folder / f"{name}{suffix}")
            self._read.add(name)
            return np.load(self._folder / f"{name}.npy", mmap_mode="r")  # type: ignore[no-any-return]
        except OSError:
            return features

    def _look(self) -> None:
        """Take in the files that have come since."""
        if self._folder is None or not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.keys.npy")):
            name = path.name.removesuffix(".keys.npy")
            if name in self._read:
                continue
            self._read.add(name)
            try:
                keys: Any = np.load(path, allow_pickle=False).reshape(-1, 32)
                features = np.load(self._folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError):
                continue  # cut short: its rows are computed again
            if features.ndim == 2 and len(features) == len(keys):
                self._places |= {key.tobytes(): (features, i) for i, key in enumerate(keys)}
