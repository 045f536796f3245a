"""What a policy's stages have on disk: found in their settings, named in a policy's digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.recipes import Recipe, prepared

__all__ = ["artifacts", "digest", "refuse_recipes"]


def artifacts(stages: Iterable[object]) -> list[Artifact]:
    """Every artifact that a setting of a stage names, in order."""
    return [value for stage in stages for _, _, value in _settings(stage) if isinstance(value, Artifact)]


def digest(text: str, stages: Iterable[object]) -> str:
    """The digest of a policy: of its text, and of what its artifacts hold."""
    hashes = "".join(artifact.sha256 for artifact in artifacts(stages))
    return hashlib.blake2b((text + hashes).encode(), digest_size=6).hexdigest()


def refuse_recipes(stage: object) -> None:
    """InputError if a setting names a recipe where what it has trained must stand."""
    for unit, name, value in _settings(stage):
        if isinstance(value, Recipe):
            prepared(unit, name)


def _settings(unit: object) -> Iterator[tuple[object, str, Any]]:
    """(unit, name, value) of every setting, those of units that are settings too."""
    for name in (f.name for f in fields(unit) if f.init) if is_dataclass(unit) else ():
        value = getattr(unit, name)
        for part in value if isinstance(value, tuple) else (value,):
            yield unit, name, part
            if not isinstance(part, Artifact | Recipe):
                yield from _settings(part)
