"""The settings of a protocol, from the TOML file of the same name in this folder."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

__all__ = ["plan_in"]


def plan_in(file: str) -> dict[str, Any]:
    """What that file says: settings, published figures and what a quick look changes."""
    return tomllib.loads((resources.files(__package__) / file).read_text())
