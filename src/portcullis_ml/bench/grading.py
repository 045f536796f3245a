"""How a copy is graded: what it is compared with, and by which measures."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.links import transfer
from portcullis_ml.bench.marks import Mark
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Differentiable, Estimate, Model
from portcullis_ml.measures.agreement import Exam
from portcullis_ml.measures.fidelity import fidelity
from portcullis_ml.measures.regression import ValueExam
from portcullis_ml.measures.transferability import Transfer

__all__ = ["CopyExam", "exam_for", "graded"]

CopyExam = Exam | ValueExam  # of classes, or of numbers

UNIFORM = 10_000  # points for agreement on the whole input space
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
