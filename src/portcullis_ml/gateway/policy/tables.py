"""Tables of a policy's file: their keys, their values as settings, and mistakes by their lines."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from portcullis_ml.core.errors import ParameterError, PortcullisError
from portcullis_ml.gateway.policy.contents import Policy
from portcullis_ml.gateway.policy.toml_positions import PolicyError, made

__all__ = ["Tables"]

T = TypeVar("T")


@dataclass(frozen=True)
class Tables:
    """One file, as it was parsed."""

    tree: dict[str, Any]
    where: str
    folder: Path
    positions: dict[tuple[str, ...], int]
    text: str
    main: Policy | None  # where the file is that of a further model

    def _text(self, where: tuple[str, ...], value: Any) -> str:
        if not isinstance(value, str):
            raise self._wrong(where, f"{where[-1]} must be text; got {value!r}.")
        return value

    def _table(self, name: str, known: tuple[str, ...]) -> dict[str, Any]:
        table = self.tree.get(name, {})
        if not isinstance(table, dict):
            raise self._wrong((name,), f"{name} must be a table: write [{name}].")
        self._known(table, known, (name,))
        return table

    def _settings(self, kind: Callable[..., T], name: str) -> T:
        table = self._table(name, tuple(f.name for f in dataclasses.fields(kind)))  # type: ignore[arg-type]
        found: T = self._built((name,), made, kind, table)
        return found

    def _known(self, table: Mapping[str, Any], known: tuple[str, ...], where: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known are {', '.join(known)}."
                raise self._wrong((*where, key), f"{key!r} is not known here.{hint}")

    def _built(self, where: tuple[str, ...], build: Callable[..., T], *values: Any, **settings: Any) -> T:
        try:
            return build(*values, **settings)
        except ParameterError as error:
            field = re.split(r"[.\s]", error.parameter)[-1]
            raise self._wrong((*where, "classes" if field == "n_classes" else field), str(error)) from error
        except (PortcullisError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise self._wrong(where, str(error)) from error

    def _wrong(self, where: tuple[str, ...], sentence: str) -> PolicyError:
        """The error at the line of this key, or of the closest table around it."""
        for end in range(len(where), 0, -1):
            if where[:end] in self.positions:
                return PolicyError(self.where, self.positions[where[:end]], sentence)
        return PolicyError(self.where, 0, sentence)
