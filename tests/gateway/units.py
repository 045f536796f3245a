"""Detectors and defenses that do exactly what a test needs; named "module:Class" in its policy."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Defense, Detector
from portcullis_ml.core.recipes import Recipe, prepared
from portcullis_ml.core.settings import bound
from portcullis_ml.core.types import Answer


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


@dataclass(frozen=True, kw_only=True)
class Slow(Defense[Count]):
    """Runs a model, or so it says: sleeps in `release` for one client's requests. What it lets out depends on the order
    in which the client's requests came."""

    client: str = "thief"
    seconds: float = 0.2
    heavy: ClassVar[bool] = True
    name: ClassVar[str] = "tests.gateway.units:Slow"

    def start(self) -> Count:
        return Count()

    def release(self, request, answer, clean, state, noise):  # type: ignore[no-untyped-def]
        if request.client == self.client:
            time.sleep(self.seconds)
        scores = answer.scores.copy()
        for row, x in zip(scores, request.x, strict=True):
            state.rows += 1
            state.suspicion = 0.5 * state.suspicion + float(x.sum())
            row[:] = np.round(row, 1 + (state.rows + int(8 * state.suspicion)) % 4)
        return Answer(answer.labels, scores)


@dataclass(frozen=True, kw_only=True)
class Learns(Recipe):
    """What `FromFile` is prepared by."""

    name: ClassVar[str] = "tests.gateway.units:Learns"

    def fit(self, given, rows, outside, *, rng, watch):  # type: ignore[no-untyped-def]
        return Contents({"decimals": b"[1, 1, 1]"})


@dataclass(frozen=True, kw_only=True)
class FromFile(Defense[Count]):
    """Rounds each class's score to the decimals that a file says, one number for each class."""

    file: Artifact | Recipe
    decimals: tuple[int, ...] = field(default=(), init=False, compare=False)
    name: ClassVar[str] = "tests.gateway.units:FromFile"

    def bind(self, interface):  # type: ignore[no-untyped-def]
        contents = prepared(self, "file")
        try:
            (data,) = contents.files.values()
            decimals = tuple(map(int, json.loads(data)))
        except (TypeError, ValueError):
            raise InputError("A list of decimals was expected in the file; it holds something else.") from None
        if len(decimals) != interface.n_classes:
            raise InputError(f"The file must hold decimals for {interface.n_classes} classes; got {len(decimals)}.")
        return bound(self, decimals=decimals)

    def start(self) -> Count:
        return Count()

    def release(self, request, answer, clean, state, noise):  # type: ignore[no-untyped-def]
        state.rows += len(request)
        scores = np.stack([np.round(s, d) for s, d in zip(answer.scores.T, self.decimals, strict=True)], axis=1)
        return Answer(answer.labels, scores)


@dataclass(frozen=True, kw_only=True)
class Doubts(Defense[Count]):
    """Reads explanations: the more those of a client speak against the answers, the flatter the scores."""

    name: ClassVar[str] = "tests.gateway.units:Doubts"

    def bind(self, interface):  # type: ignore[no-untyped-def]
        if not interface.explains:
            raise NotApplicable("Doubts reads explanations; this API has none.")
        return self

    def start(self) -> Count:
        return Count()

    def release(self, request, answer, clean, state, noise):  # type: ignore[no-untyped-def]
        scores = answer.scores.copy()
        for row, why in zip(scores, clean.explanation, strict=True):
            state.rows += 1
            state.suspicion = 0.5 * state.suspicion + float(np.minimum(why, 0.0).sum())
            share = 1.0 / (1.0 - state.suspicion)
            row[:] = share * row + (1.0 - share) / len(row)
        return Answer(answer.labels, scores, answer.explanation)


class Door:
    """Where a `Waits` stands until a test opens it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.opened.wait(20), "nobody opened the door: the stage runs where the test runs"


DOORS: dict[str, Door] = {}  # by the word for a step: "admit", "undo", "release"


@dataclass(frozen=True, kw_only=True)
class Waits(Defense[Count]):
    """Counts one client's rows, and waits at the doors that a test has put up."""

    client: str = "thief"
    extra: int = 0
    heavy: ClassVar[bool] = True
    name: ClassVar[str] = "tests.gateway.units:Waits"

    def start(self) -> Count:
        return Count()

    def _wait(self, request, step: str) -> None:  # type: ignore[no-untyped-def]
        if request.client == self.client and step in DOORS:
            DOORS[step].wait()

    def admit(self, request, state):  # type: ignore[no-untyped-def]
        self._wait(request, "admit")
        state.rows += len(request)

    def undo(self, request, state):  # type: ignore[no-untyped-def]
        self._wait(request, "undo")
        state.rows -= len(request)

    def release(self, request, answer, clean, state, noise):  # type: ignore[no-untyped-def]
        self._wait(request, "release")
        state.suspicion += 1.0
        return answer


@dataclass(frozen=True, kw_only=True)
class WaitsLightly(Waits):
    """The same, by a stage that says it runs no model."""

    heavy: ClassVar[bool] = False
    name: ClassVar[str] = "tests.gateway.units:WaitsLightly"


@dataclass(frozen=True, kw_only=True)
class BrokenModel(Defense[None]):
    """Raises an error at one step, on another thread."""

    step: str = "release"
    heavy: ClassVar[bool] = True
    name: ClassVar[str] = "tests.gateway.units:BrokenModel"

    def _break(self, step: str) -> None:
        if step == self.step:
            raise ZeroDivisionError("a bug in a stage")

    def admit(self, request, state):  # type: ignore[no-untyped-def]
        self._break("admit")

    def undo(self, request, state):  # type: ignore[no-untyped-def]
        self._break("undo")

    def release(self, request, answer, clean, state, noise):  # type: ignore[no-untyped-def]
        self._break("release")
        return answer
