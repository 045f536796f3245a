"""Detectors and defenses that do exactly what a test needs; named "module:Class" in its policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.guard import Defense, Detector


@dataclass
class Count:
    rows: int = 0
    suspicion: float = 0.0


@dataclass(frozen=True, kw_only=True)
class At(Detector[Count]):
    """Alarms at one row of the stream; the suspicion is the row's number."""

    row: int = 3
    threshold: float = 0.0
    name: ClassVar[str] = "tests.gateway.units:At"

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", self.row - 0.5)

    def start(self) -> Count:
        return Count()

    def update(self, state, request, answer):  # type: ignore[no-untyped-def]
        found = np.arange(state.rows + 1, state.rows + len(request) + 1, dtype=float)
        state.rows += len(request)
        state.suspicion = float(state.rows)
        return found


@dataclass(frozen=True, kw_only=True)
class Broken(Defense[None]):
    """Raises an error that nobody foresaw."""

    name: ClassVar[str] = "tests.gateway.units:Broken"

    def release(self, request, answer, clean, state, noise):  # type: ignore[no-untyped-def]
        raise ZeroDivisionError("a bug in a stage")
