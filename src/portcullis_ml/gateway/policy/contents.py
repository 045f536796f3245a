"""What a policy says, once it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.types import Interface
from portcullis_ml.gateway.policy.clients import Clients
from portcullis_ml.gateway.policy.groups_table import Groups
from portcullis_ml.gateway.policy.model_table import undefended
from portcullis_ml.gateway.policy.settings import (
    Admin,
    Alarms,
    Failure,
    Limits,
    Listen,
    QueryLog,
    State,
    Telemetry,
    UpstreamTable,
)
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.wire import ModelSpec, Wire

__all__ = ["Policy"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy as read: everything checked, nothing opened."""

    served: ModelSpec  # the model as clients see it
    asked: ModelSpec  # the model as the upstream knows it
    shown: Interface  # what everybody gets to see
    stages: tuple[Defense[Any], ...]
    key: bytes
    key_path: Path
    clients: Clients
    upstream: UpstreamTable | None
    listen: Listen
    limits: Limits
    failure: Failure
    state: State
    log: QueryLog | None
    alarms: Alarms | None
    telemetry: Telemetry | None
    admin: Admin
    groups: Groups
    mode: str = "enforce"
    quantum: float = 1e-6
    digest: str = ""  # of the file and of the artifacts that it names; stands in every line of the query log
    path: str = ""  # of the file
    models: tuple[Policy, ...] = ()  # further ones behind the same gate

    @property
    def enforced(self) -> bool:
        return self.mode == "enforce"

    def guard(self) -> Guard:
        """A guard of its own, its stages bound to the model; InputError where an artifact has changed meanwhile."""
        return Guard(*self.stages, key=self.key, quantum=self.quantum, interface=undefended(self.asked))

    def wires(self) -> tuple[Wire, ...]:
        return tuple(PROTOCOLS.load(name)() for name in self.listen.spoken)
