"""Which of a process's models a request to the operators' port is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlencode

from portcullis_ml.core.errors import InputError
from portcullis_ml.gateway.admin.keys import Keyed
from portcullis_ml.gateway.admin.views import Shown
from portcullis_ml.gateway.state.stores import StateStore

__all__ = ["Choice", "Gate"]


class Health(Protocol):
    async def look(self) -> dict[str, Any]: ...


class Gate(Shown, Keyed, Protocol):
    """The part of a gate that its operators look at."""

    @property
    def health(self) -> Health: ...


class Choice:
    """The gates of a process, each with its store."""

    def __init__(self, models: Sequence[tuple[Gate, StateStore]]) -> None:
        self._models = models
        self.several = len(models) > 1

    def made(self, asked: Mapping[str, str]) -> tuple[Gate, StateStore]:
        """The one under "model", by its name or by its name and version. Raises InputError if there are several and it
        is none of them."""
        if not self.several:
            return self._models[0]
        word = asked.get("model", "")
        for known in ("id", "name"):
            for gate, store in self._models:
                if word == getattr(gate.policy.served, known):
                    return gate, store
        names = ", ".join(gate.policy.served.id for gate, _ in self._models)
        raise InputError(f"Say which model: model must be one of {names}; got {word[:128]!r}.")

    def of(self, gate: Gate) -> str:
        """What says in an address which model it is about; nothing where there is one."""
        return urlencode({"model": gate.policy.served.id}) if self.several else ""
