"""Innocent models in a folder, with a file that says of each whether it learnt the owner's rows, how and by which seed.

What the file says is the word of whoever trained the models. Who has the rows can check it: their fingerprint stands in
the file, and the same rows, learner and seed give the same models again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Rows

__all__ = ["MANIFEST", "Innocents", "read_manifest", "rows_sha256", "sha256_of", "write_manifest"]

MANIFEST = "innocents.json"
MODELS = (".onnx", ".skops", ".safetensors", ".npz")  # what is a model in a folder that has no such file
IN_ONE_FOLDER = "model"  # the stem of a model's files where the folder itself is one model


@dataclass(frozen=True)
class Innocents:
    """Innocent models by what `load_model` calls them.

    learnt   of each, whether it is known to have learnt the owner's training rows
    rows     fingerprints of those rows, as the folders' files have them
    """

    names: tuple[str, ...] = ()
    learnt: tuple[bool, ...] = ()
    rows: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: Iterable[str]) -> Innocents:
        """The models that these words name: files, module:object, folders that hold one model, and folders of models.

        Raises InputError for a folder without models, a model that is not the one that its folder's file names, and one
        that is named twice, since it would count as two.
        """
        names: list[str] = []
        learnt: list[bool] = []
        rows: dict[str, None] = {}
        for word in words:
            folder = Path(word)
            manifest = read_manifest(folder) if folder.is_dir() else None
            if manifest is not None:
                for entry in manifest["models"]:
                    names.append(str(_checked(folder, entry)))
                    learnt.append(entry["learnt"] == "owner")
                rows[str(manifest["owner"]["sha256"])] = None
                continue
            inside = _inside(folder) if folder.is_dir() else [word]
            names += inside
            learnt += [False] * len(inside)
        places = [str(Path(name).resolve()) for name in names]
        if twice := next((name for name, place in zip(names, places, strict=True) if places.count(place) > 1), None):
            raise InputError(f"Innocent models were expected to differ; {twice} is named more than once. Name it once.")
        return cls(tuple(names), tuple(learnt), tuple(rows))

    def to_json(self) -> dict[str, Any]:
        return {"models": len(self.names), "learnt_the_owners_rows": sum(self.learnt), "owners_rows": list(self.rows)}


def _inside(folder: Path) -> list[str]:
    """The models in a folder that has no manifest: the folder itself where it is one model, else every file and folder
    of a model."""
    found = sorted(p for p in folder.iterdir() if p.is_dir() or p.suffix.lower() in MODELS)
    if any(p.stem == IN_ONE_FOLDER and p.is_file() for p in found):
        return [str(folder)]
    if not found:
        raise InputError(
            f"Innocent models were expected in {folder}; it holds none. Run `portcullis watermark innocents`."
        )
    return [str(p) for p in found]


def _checked(folder: Path, entry: Mapping[str, Any]) -> Path:
    path = folder / Path(entry["file"]).name
    if not path.is_file() or sha256_of(path) != entry["sha256"]:
        raise InputError(
            f"{path} was expected to be the model that {folder / MANIFEST} names; it is "
            f"{'another' if path.is_file() else 'not there'}. Make the folder again."
        )
    return path


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_sha256(rows: Rows) -> str:
    """The SHA-256 of rows and classes, the same on every machine: numbers as little-endian float64, words as JSON."""
    number = rows.x.dtype.kind in "biuf"
    x = np.ascontiguousarray(rows.x, "<f8").tobytes() if number else json.dumps(rows.x.tolist()).encode()
    y = b"" if rows.y is None else np.ascontiguousarray(rows.y, "<i8").tobytes()
    return hashlib.sha256(f"{rows.x.shape}".encode() + x + y).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the folder's file says; None where there is none, InputError where it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        known = isinstance(found["owner"]["sha256"], str) and all(
            isinstance(entry["file"], str)
            and isinstance(entry["sha256"], str)
            and entry["learnt"] in ("owner", "others")
            for entry in found["models"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path} was expected to say which models learnt what; it does not. Make the folder again.")
    return found


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Take the place of the folder's file, whole or not at all."""
    unfinished = folder / f".{MANIFEST}"
    unfinished.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(unfinished, folder / MANIFEST)
