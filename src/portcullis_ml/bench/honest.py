"""What a guard costs clients who mean well: one cell of an audit for every defense."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.flags import raised
from portcullis_ml.bench.marks import Mark
from portcullis_ml.bench.records import Record, plain_estimate
from portcullis_ml.bench.target import guard_of, interface_of, served_model
from portcullis_ml.core.guard import Guard, Released
from portcullis_ml.core.oracle import checked_answer
from portcullis_ml.core.types import Answer, Array, Estimate, Interface, Request
from portcullis_ml.measures.detection import run_detector
from portcullis_ml.measures.statistics import clustered, mean_of
from portcullis_ml.measures.utility import honest_cost
from portcullis_ml.measures.value_cost import value_cost

__all__ = ["honest_cell"]

HONEST = 150  # rows that one honest client asks
CHUNK = 50  # of them are held against an alarm at a time


def honest_cell(cell: Cell, experiment: Experiment, mark: Mark | None, spec: ExperimentSpec) -> Record:
    """What the guard costs clients who mean well: the test rows, shared out among a few of them.

    Where a victim is served that was trained anew (hardened, or with a mark), beside the plain one's answers, so that
    the cost of that training is part of it.
    """
    order = cell.rng("honest order").permutation(len(experiment.test_x))
    shares = np.array_split(order, max(1, len(order) // HONEST))
    streams = [experiment.test_x[rows] for rows in shares]
    truths = None if experiment.test_y is None else [experiment.test_y[rows] for rows in shares]
    interface = interface_of(cell, experiment)
    seconds: list[float] = []

    def fresh() -> Guard:
        return guard_of(cell, interface, mark) or Guard(key=bytes(16))

    def timed() -> Guard:
        return _Timed(fresh(), seconds)

    trained_anew = cell.hardening is not None or (mark is not None and mark.stage is None)
    plain = spec.load().model if trained_anew else None
    measure: Any = value_cost if experiment.numbers else honest_cost
    cost = measure(
        timed, served_model(experiment, mark), interface, streams, truths, rng=cell.rng("honest"), plain=plain
    )
    measures = cost.measures() | _false_alarms(cell, experiment, streams)
    flags = []
    if not experiment.numbers and not cost.agreement.value == 1:
        flags.append(raised("labels_changed", f"{1 - cost.agreement.value:.1%} of honest rows"))
    if moved := _unsteady(fresh(), experiment, interface):
        flags.append(raised("randomised_answers", f"{moved} of {min(len(order), 20)} questions"))
    asked = sum(map(len, streams))
    return Record(
        cell=cell,
        measures=measures,
        queries=asked,
        flags=tuple(flags),
        threat_model={"accounts": len(shares)},
        notes={"guard_seconds": plain_estimate(mean_of(seconds, unit="questions", within=(0.0, np.inf)))},
    )


class _Timed(Guard):
    """A guard that notes how long it takes to release each answer."""

    def __init__(self, guard: Guard, seconds: list[float]) -> None:
        self.__dict__.update(guard.__dict__)
        self._seconds = seconds

    def release(self, request: Request, clean: Answer) -> Released:
        since = time.perf_counter()
        released = super().release(request, clean)
        self._seconds.append(time.perf_counter() - since)
        return released


def _false_alarms(cell: Cell, experiment: Experiment, streams: list[Array]) -> dict[str, Estimate]:
    """Chunks of 50 honest rows with an alarm, for the first detector of the guard; the interval is over clients, whose
    chunks resemble each other."""
    guard = guard_of(cell, interface_of(cell, experiment))
    if guard is None or not guard.detectors():
        return {}
    detector = guard.detectors()[0]
    answers = [checked_answer(experiment.model, x, experiment.interface) for x in streams]
    suspicions = [
        run_detector(detector, x, a, client=str(i)) for i, (x, a) in enumerate(zip(streams, answers, strict=True))
    ]
    loud = [detector.alarms(s) for s in suspicions]
    chunks = [[bool(alarms[i : i + CHUNK].any()) for i in range(0, len(alarms), CHUNK)] for alarms in loud]
    return {"false_alarm": clustered(np.array([*map(sum, chunks)]), np.array([*map(len, chunks)]), unit="clients")}


def _unsteady(guard: Guard, experiment: Experiment, interface: Interface) -> int:
    """How many of 20 questions get a different answer when the same client asks again, or another client asks."""
    x = experiment.test_x[:20]
    clean = checked_answer(experiment.model, x, interface)
    answers = []
    for client in ("first", "first", "second"):
        request = Request(client, x)
        guard.admit(request)
        answers.append(guard.release(request, clean).answer)
    differs = np.zeros(len(x), bool)
    for other in answers[1:]:
        first = answers[0]
        for a, b in (
            (first.labels, other.labels),
            (first.scores, other.scores),
            (first.explanation, other.explanation),
        ):
            if a is not None and b is not None:
                same = (a == b) | (np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else a == b
                differs |= ~same.reshape(len(x), -1).all(axis=1)
    return int(differs.sum())
