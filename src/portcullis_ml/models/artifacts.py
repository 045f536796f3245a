"""Artifacts on disk: arrays as safetensors, and a folder that is written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.core.artifacts import ABOUT, Artifact, Contents
from portcullis_ml.core.errors import InputError, MissingExtra

__all__ = ["pack_arrays", "read_about", "unpack_arrays", "write_artifact"]


def pack_arrays(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None) -> bytes:
    """The arrays as one safetensors file, with what is said about them (JSON) in its header. Raises MissingExtra."""
    header = {} if about is None else {"portcullis": json.dumps(about)}
    return bytes(_safetensors().save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, header))


def read_about(data: bytes) -> dict[str, Any]:
    """What `pack_arrays` wrote into the header of a whole safetensors file; {} where there is nothing."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(json.loads(header.get("__metadata__", {}).get("portcullis", "{}")))


def unpack_arrays(data: bytes, name: str = "An artifact's file") -> dict[str, np.ndarray]:
    """The arrays in a safetensors file of that name. Raises InputError where it is none, or cut short."""
    library = _safetensors()
    try:
        return dict(library.load(data))
    except Exception as error:  # the library raises errors of several kinds on a damaged file
        raise InputError(
            f"{name} was expected to be a whole safetensors file; its {len(data):,} bytes are not ({error}). "
            "Prepare it again."
        ) from error


def write_artifact(contents: Contents, folder: Path | str) -> Artifact:
    """Write everything into a new or empty folder. InputError if the folder holds something or cannot be written."""
    folder = Path(folder)
    files = {**contents.files, ABOUT: json.dumps(contents.about, indent=1, sort_keys=True).encode()}
    unfinished = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        for name, data in files.items():
            (unfinished / name).write_bytes(data)
        os.replace(unfinished, folder)  # takes the place of an empty folder; the system refuses a full one
    except OSError as error:
        for file in unfinished.glob("*"):
            file.unlink()
        if unfinished.is_dir():
            unfinished.rmdir()
        raise InputError(f"{folder} cannot be written ({error.strerror}). Name a new or an empty folder.") from error
    return Artifact.at(str(folder))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise MissingExtra("What a recipe has trained", "safetensors") from error
    return safetensors.numpy
