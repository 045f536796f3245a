"""How a copy is graded: what it is compared with, and by which measures."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.links import transfer
from portcullis_ml.bench.marks import Mark
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Differentiable, Estimate, Model
from portcullis_ml.measures.agreement import Exam, agreement
from portcullis_ml.measures.fidelity import balanced_agreement, fidelity
from portcullis_ml.measures.regression import ValueExam
from portcullis_ml.measures.transferability import Transfer
from portcullis_ml.repetitions import packed

__all__ = ["CopyExam", "curve_of", "exam_for", "graded"]

CopyExam = Exam | ValueExam  # of classes, or of numbers
Points = tuple[tuple[int, dict[str, Estimate]], ...]

UNIFORM = 10_000  # points for agreement on the whole input space
CURVE = 24  # points of a curve at most
UNIFORM_PAID = 500  # of them, where an API is asked, or about random texts


def exam_for(spec: ExperimentSpec, mark: Mark | None = None, hardened: str | None = None) -> CopyExam:
    """What a copy is compared with: the model that is served, hardened or marked or neither."""
    if mark is None or mark.stage is not None:
        return _plain_exam(spec, hardened)
    return _exam_of(spec, spec.load(), mark.model)


@lru_cache(maxsize=4)
def _plain_exam(spec: ExperimentSpec, hardened: str | None) -> CopyExam:
    experiment = spec.load(hardened)
    return _exam_of(spec, experiment, experiment.model)


def _exam_of(spec: ExperimentSpec, experiment: Experiment, model: Model) -> CopyExam:
    exam = ValueExam if experiment.numbers else Exam
    points = UNIFORM_PAID if spec.endpoint or experiment.interface.text else UNIFORM
    rows = experiment.test_x, experiment.test_y
    return exam.of(model, *rows, interface=experiment.interface, rng=derive(0, "exam"), points=points)


def graded(
    copy: Model, cell: Cell, experiment: Experiment, exam: CopyExam
) -> tuple[dict[str, Estimate], tuple[Any, ...], dict[str, Any]]:
    """The measures of a copy, its recovery class by class, and notes."""
    closeness = exam.grade(copy, rng=cell.rng("grade"))
    measures = closeness.measures()
    if isinstance(exam, Exam):
        measures |= fidelity(exam.victim, copy.scores(exam.x), exam.true, rng=cell.rng("fidelity"))
    if cell.extra.get("transfer") and isinstance(copy, Differentiable):
        measures |= _transfer(copy, cell, experiment, exam)
    return measures, closeness.per_class, closeness.remarks()


def _transfer(copy: Differentiable, cell: Cell, experiment: Experiment, exam: CopyExam) -> dict[str, Estimate]:
    labels = exam.victim.argmax(axis=1)
    found: dict[str, Estimate] = {}
    protocols = {"targeted": Transfer(goal="targeted"), "untargeted": Transfer(goal="untargeted")}
    for goal, protocol in protocols.items():
        rng = cell.rng("transfer", goal)
        report = transfer(protocol, copy, experiment.model, experiment, labels, rng=rng)
        found |= {f"transfer_{goal}": report.rate, f"transfer_{goal}_noise": report.noise}
    return found


def curve_of(
    extraction: Extraction, experiment: Experiment, exam: CopyExam, *, rng: np.random.Generator
) -> tuple[Points, list[str]]:
    """How good the copy is after every round that the attack noted, thinned to what a reader can see, and on which rows
    the copy agrees; of numbers nothing is said of rows.

    The rows of each round are written as one bit for every test row, in order and in hexadecimal: whether the copy
    agrees there. Copies are compared row by row, and one is chosen on some rows and judged on the others.
    """
    step = max(1, -(-len(extraction.history) // CURVE))
    rounds = extraction.history[::-1][::step][::-1]  # counted from the end, so that the last round is among them
    if isinstance(exam, ValueExam):
        return tuple((q, exam.along(model, rng=rng)) for q, model in rounds), []
    victim = exam.victim.argmax(axis=1)
    labels = [model.scores(experiment.test_x).argmax(axis=1) for _, model in rounds]
    truth = {} if experiment.test_y is None else {"accuracy": experiment.test_y}
    points = [
        (q, {name: agreement(right, found) for name, right in ({"agreement": victim} | truth).items()})
        for (q, _), found in zip(rounds, labels, strict=True)
    ]
    for (_, measures), found in zip(points, labels, strict=True):
        measures["balanced_agreement"] = balanced_agreement(victim, found, exam.interface.n_classes)
    return tuple(points), [packed(victim == found) for found in labels]
