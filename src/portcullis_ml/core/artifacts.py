"""Things on disk, known by their content: a trained filter, an auxiliary model, a key.

A setting that names a file or a folder is an `Artifact`, written "PATH" or "PATH@sha256:HEX". The SHA-256 is that of
the content, so whoever keeps settings (a cell, a client's state, a policy, a query log) sees that it has changed; with
the hash written out, other content is refused. For a file it is what `sha256sum` prints.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError

__all__ = ["ABOUT", "WRITTEN", "Artifact", "Contents"]

ABOUT = "about.json"  # what is said about an artifact, in its folder
LIMIT = 2 * 2**30  # bytes in all
WRITTEN = re.compile(r"(?P<path>.*)@sha256:(?P<sha256>[0-9a-f]{64})", re.S)


@dataclass(frozen=True)
class Contents:
    """What an artifact holds: files by name, and what is said about them (JSON: the recipe, the victim, ...)."""

    files: Mapping[str, bytes]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A file or a folder of files: where it lies, and the SHA-256 of its content. Made by `at`."""

    path: str
    sha256: str

    @classmethod
    def at(cls, text: str | Artifact, folder: Path = Path()) -> Artifact:
        """The artifact at "PATH" or "PATH@sha256:HEX", a relative path starting from `folder`.

        Raises InputError if nothing readable lies there, or other content than the hash says.
        """
        found = WRITTEN.fullmatch(str(text))
        path = Path(os.path.abspath(folder / (found["path"] if found else str(text))))
        artifact = cls(str(path), _digest(_read(path)))
        if found and found["sha256"] != artifact.sha256:
            raise artifact._changed(found["sha256"])
        return artifact

    def __str__(self) -> str:
        return f"{self.path}@sha256:{self.sha256}"

    def read(self) -> Contents:
        """The content, which is exactly what the hash says; InputError where it is that no longer."""
        files = _read(Path(self.path))
        if _digest(files) != self.sha256:
            raise Artifact(self.path, _digest(files))._changed(self.sha256)
        about = files.pop(ABOUT, b"{}")
        try:
            return Contents(files, json.loads(about))
        except ValueError as error:
            raise InputError(f"{self.path}/{ABOUT} must be JSON; it is not ({error}). Prepare it again.") from error

    def _changed(self, wanted: str) -> InputError:
        return InputError(
            f"{self.path} was expected to hold what has the SHA-256 {wanted[:12]}...; it holds {self.sha256[:12]}.... "
            "Bring the old content back, or name the new one without its hash."
        )


def _read(path: Path) -> dict[str, bytes]:
    """Every file by its name within the folder; a single file has the name ""."""
    try:
        found = {path: ""} if path.is_file() else {p: p.relative_to(path).as_posix() for p in path.rglob("*")}
        files = {name: p for p, name in found.items() if p.is_file()}
        if sum(p.stat().st_size for p in files.values()) > LIMIT:
            raise InputError(f"{path} holds more than {LIMIT:,} bytes; an artifact may not. Name the right folder.")
        content = {name: p.read_bytes() for name, p in sorted(files.items())}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from error
    if not content:
        raise InputError(f"A file or a folder of files was expected at {path}; there is none. Check the path.")
    return content


def _digest(files: Mapping[str, bytes]) -> str:
    digests = {name: hashlib.sha256(data) for name, data in files.items()}
    if "" in digests:
        return digests[""].hexdigest()
    listing = "".join(f"{digest.hexdigest()}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()
