"""How an API is spoken to, as a person names it: a protocol, or a file that describes a home-made one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.core.types import Feature
from portcullis_ml.gateway.policy.image_table import image_spec
from portcullis_ml.gateway.policy.model_table import feature
from portcullis_ml.gateway.policy.names import mapping_options
from portcullis_ml.gateway.protocols.mapping_table import DEFAULTS
from portcullis_ml.gateway.protocols.unspoken import spoken as known

__all__ = ["Spoken", "spoken"]


class Spoken(NamedTuple):
    """A protocol, and what it has to be told of the API."""

    protocol: str
    options: Mapping[str, Any] = {}
    features: tuple[Feature, ...] = ()  # the model's columns, where a file names them


def spoken(word: str) -> Spoken:
    """ "v2" -> the protocol v2; "mapping.toml" -> the protocol mapping with {"rows": "$.x", ...}.

    The file holds the table [model.mapping] of a policy, and [model] features where rows are objects by name; or the
    keys of that table alone. For pictures it holds [model.image] or [image], and [model.mapping] or [mapping] for where
    the answer's scores and labels stand. InputError where it cannot be used.
    """
    if not word.endswith(".toml"):
        known("The protocol", word)
        return Spoken(word)
    try:
        table = tomllib.loads(Path(word).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{word} was expected to describe an API in TOML; it cannot be read ({error}).") from error
    model = table.get("model", {})
    image = model["image"] if isinstance(model, dict) and "image" in model else table.get("image")
    if image is not None:
        return _pictures(word, image, model.get("mapping", table.get("mapping", {})))
    model = model if isinstance(model, dict) and "mapping" in model else {"mapping": table}
    options = model["mapping"]
    unknown = [key for key in options if key not in DEFAULTS] if isinstance(options, dict) else []
    if unknown or not options:
        found = f"has {', '.join(unknown)}" if unknown else "is empty"
        raise InputError(f"{word} was expected to say {', '.join(DEFAULTS)} of an API, each optional; it {found}.")
    try:
        columns = model.get("features", [])
        if not isinstance(columns, list):
            raise InputError("features must be a list of tables such as { name = ... }.")
        return Spoken("mapping", mapping_options(options), tuple(map(feature, columns)))
    except (PortcullisError, TypeError) as error:
        raise InputError(f"{word}: {error}") from error


def _pictures(word: str, image: Any, mapping: Any) -> Spoken:
    try:
        return Spoken("pictures", {**mapping_options(mapping), "image": image_spec(image)})
    except PortcullisError as error:
        raise InputError(f"{word}: {error}") from error
