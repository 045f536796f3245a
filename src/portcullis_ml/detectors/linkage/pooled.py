"""The stream of a group: what its accounts ask, in order of time, as one client's.

A detector that is not told of the accounts reads one principal. That is the form in which Kesarwani, Mukhoty, Arya and
Mehta ("Model Extraction Warning in MLaaS Paradigm", ACSAC 2018) judge users who collude, and what the test by merging
asks of PRADA: accounts of eighty questions each stay below its least number, their union does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from portcullis_ml.core.guard import Detector
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Request

__all__ = ["Pooled", "pooled", "union"]

Stream = Sequence[tuple[Request, Answer]]


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """A detector over requests that name accounts, and which group each account is in."""

    detector: Detector[Any]  # that reads each group's stream

    name: ClassVar[str] = "pooled"

    def __post_init__(self) -> None:
        check(self, "detector", "a detector", lambda v: isinstance(v, Detector))

    def bind(self, interface: Interface) -> Self:
        return replace(self, detector=self.detector.bind(interface))

    def start(self) -> dict[str, Any]:
        return {}

    def update(self, states: dict[str, Any], group: str, request: Request, answer: Answer) -> Array:
        """(n,) suspicions of the group after each row; changes `states` in place."""
        if group not in states:
            states[group] = self.detector.start()
        return self.detector.update(states[group], replace(request, client=group), answer)


def union(streams: Mapping[str, Stream]) -> list[tuple[Request, Answer]]:
    """The requests of all accounts in order of time. At one time accounts come by name, and each keeps its order."""
    ends = [(request.at, name, i) for name, stream in streams.items() for i, (request, _) in enumerate(stream)]
    return [streams[name][i] for _, name, i in sorted(ends)]


def pooled(detector: Detector[Any], streams: Mapping[str, Stream]) -> Array:
    """(n,) the suspicions of the union of the accounts' streams, in order of time."""
    unit, states = Pooled(detector=detector), dict[str, Any]()
    found = [unit.update(states, "group", request, answer) for request, answer in union(streams)]
    return np.concatenate([*found, np.empty(0)])
