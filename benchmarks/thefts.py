"""One attack run for `exact.py`: what came of it, and its seconds without the oracle's.

Seconds are the processor's, so that other work on the machine does not count.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Interface, Model

__all__ = ["HEAD", "Row", "Theft", "door_of"]

Row = tuple[Any, ...]


class Timed:
    """An oracle that knows how long it took itself."""

    def __init__(self, oracle: LocalOracle) -> None:
        self._oracle = oracle
        self.seconds = 0.0

    @property
    def interface(self) -> Interface:
        return self._oracle.interface

    @property
    def left(self) -> int:
        return self._oracle.left

    def query(self, x: Array) -> Answer:
        before = time.process_time()
        answer = self._oracle.query(x)
        self.seconds += time.process_time() - before
        return answer


class Theft:
    """One attack run: what came of it, and the attack's own seconds."""

    def __init__(self, attack: ExtractionAttack, victim: Model, door: Interface, budget: int, seed: int = 0) -> None:
        oracle = Timed(LocalOracle(victim, door, budget=budget))
        before = time.process_time()
        self.result: Extraction = attack(oracle, Knowledge(), rng=np.random.default_rng(seed))
        self.seconds = time.process_time() - before - oracle.seconds
        self.oracle_seconds = oracle.seconds
        points = door.uniform(10_000, np.random.default_rng(12345))
        truth, ours = victim.scores(points), self.result.model.scores(points)
        self.wrong = float((truth.argmax(axis=1) != ours.argmax(axis=1)).mean())
        self.distance = float(np.abs(truth - ours).sum(axis=1).mean() / 2)
        self.seen = len(np.unique(truth.argmax(axis=1)))

    def row(self, what: str) -> Row:
        queries, times = self.result.queries, (f"{self.seconds:.2f}", f"{self.oracle_seconds:.2f}")
        return (what, queries, *times, f"{self.wrong:.2%}", f"{self.distance:.1e}", self.seen)


HEAD = ("attack", "queries", "attack s", "oracle s", "R_unif", "R_unif TV", "seen")


def door_of(victim: Model, **changes: Any) -> Interface:
    settings: dict[str, Any] = {"bounds": (-1, 1), "n_classes": victim.n_classes, **changes}
    return Interface(input_shape=victim.input_shape, **settings)
