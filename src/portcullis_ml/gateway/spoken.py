"""How an API is spoken to, as a person names it: a protocol, or a file that describes a home-made one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway.policy.image_table import image_spec
from portcullis_ml.gateway.policy.names import mapping_options
from portcullis_ml.gateway.protocols.mapping import DEFAULTS

__all__ = ["spoken"]


def spoken(word: str) -> tuple[str, Mapping[str, Any]]:
    """(name of the protocol, its options): "v2" -> ("v2", {}), "mapping.toml" -> ("mapping", {"rows": "$.x", ...}).

    The file holds the table [model.mapping] of a policy, or its keys alone; for pictures [model.image] or [image], and
    [mapping] for where the answer's scores and labels stand. InputError where it cannot be used.
    """
    if not word.endswith(".toml"):
        return word, {}
    try:
        table = tomllib.loads(Path(word).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{word} was expected to describe an API in TOML; it cannot be read ({error}).") from error
    model = table.get("model", {})
    image = model["image"] if isinstance(model, dict) and "image" in model else table.get("image")
    if image is not None:
        return "pictures", _pictures(word, image, model.get("mapping", table.get("mapping", {})))
    options = model["mapping"] if isinstance(model, dict) and "mapping" in model else table
    unknown = [key for key in options if key not in DEFAULTS] if isinstance(options, dict) else []
    if unknown or not options:
        found = f"has {', '.join(unknown)}" if unknown else "is empty"
        raise InputError(f"{word} was expected to say {', '.join(DEFAULTS)} of an API, each optional; it {found}.")
    try:
        return "mapping", mapping_options(options)
    except ParameterError as error:
        raise InputError(f"{word}: {error}") from error


def _pictures(word: str, image: Any, mapping: Any) -> Mapping[str, Any]:
    """The options of an API that takes pictures."""
    try:
        return {**mapping_options(mapping), "image": image_spec(image)}
    except (ParameterError, InputError) as error:
        raise InputError(f"{word}: {error}") from error
