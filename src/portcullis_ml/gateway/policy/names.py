"""The names and paths of a policy that go over the wire: each must be something that can be asked for there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.gateway.protocols.mapping_table import mapping_table

__all__ = ["HEADER", "MODEL_NAME", "SEGMENT", "is_header", "is_model_name", "is_path", "is_segment", "is_tensor",
           "mapping_options"]  # fmt: skip

SEGMENT = "a name of letters, digits and any of ._-~=@+, without a slash"
MODEL_NAME = (
    "a name of letters, digits and any of ._-~=@+, or several with a slash between them, none of which is a word of a "
    "server's routes, such as infer or versions"
)
ROUTE_WORDS = frozenset(("versions", "labels", "infer", "ready", "metadata", "stats", "config", "generate",
                         "generate_stream", "explain", "load", "unload", "trace"))  # fmt: skip
HEADER = "the name of a header, such as x-api-key"


def is_segment(name: str) -> bool:
    """Whether a name can stand between two slashes of an address as it is."""
    return re.fullmatch(r"[A-Za-z0-9._\-~=@+]+", name) is not None and name.strip(".") != ""


def is_model_name(name: str) -> bool:
    """Whether an address with this name in it can be read in one way only: "a/versions/1" could be a version of "a"."""
    parts = name.split("/")
    return all(map(is_segment, parts)) and (len(parts) == 1 or not ROUTE_WORDS & set(parts))


def is_tensor(name: str) -> bool:
    return name.strip() != "" and name.isprintable()


def is_header(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~\-]+", name) is not None


def is_path(path: str) -> bool:
    """Whether an address's path is written in the one way in which it is read."""
    plain = re.fullmatch(r"(/[A-Za-z0-9._\-~:=@+,!$&'()*;]*)+", path) is not None
    return plain and not {"", ".", ".."} & set(path.split("/")[1:-1]) and path.split("/")[-1] not in (".", "..")


def mapping_options(table: Any, name: str = "model") -> Mapping[str, Any]:
    """The table of the protocol "mapping". Raises ParameterError, whose parameter is the key that is wrong."""
    if not isinstance(table, dict):
        raise ParameterError("mapping", f"a table: write [{name}.mapping]", table)
    if not is_path(mapping_table(table).path):
        raise ParameterError("path", "a path such as /predict, without ?, # or %", table["path"])
    return table
