"""How good a copy was after each round of its attack, and on which test rows it agreed then."""

from __future__ import annotations

import numpy as np

from portcullis_ml.bench.experiment import Experiment
from portcullis_ml.bench.grading import CopyExam
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.types import Estimate, Labels
from portcullis_ml.measures.agreement import Exam, agreement
from portcullis_ml.measures.fidelity import balanced_agreement
from portcullis_ml.measures.regression import ValueExam
from portcullis_ml.repetitions import packed

__all__ = ["curve_of"]

CURVE = 24  # points of a curve at most

Curve = tuple[tuple[int, dict[str, Estimate]], ...]


def curve_of(
    extraction: Extraction, experiment: Experiment, exam: CopyExam, *, rng: np.random.Generator
) -> tuple[Curve, list[str]]:
    """Agreement, by rows and by classes, and accuracy after every round that the attack noted, thinned to what a reader
    can see, and on which rows the copy agrees; of numbers nothing is said of rows.

    The rows of each round are written as one bit for every test row, in order and in hexadecimal: whether the copy
    agrees there. Copies are compared row by row, and one is chosen on some rows and judged on the others.
    """
    step = max(1, -(-len(extraction.history) // CURVE))
    rounds = extraction.history[::-1][::step][::-1]  # counted from the end, so that the last round is among them
    if isinstance(exam, ValueExam):
        return tuple((q, exam.along(model, rng=rng)) for q, model in rounds), []
    victim = exam.victim.argmax(axis=1)
    labels = [model.scores(experiment.test_x).argmax(axis=1) for _, model in rounds]
    points = tuple((q, _figures(exam, experiment.test_y, found)) for (q, _), found in zip(rounds, labels, strict=True))
    return points, [packed(victim == found) for found in labels]


def _figures(exam: Exam, true: Labels | None, found: Labels) -> dict[str, Estimate]:
    victim = exam.victim.argmax(axis=1)
    measures = {
        "agreement": agreement(victim, found),
        "balanced_agreement": balanced_agreement(victim, found, exam.interface.n_classes),
    }
    return measures if true is None else measures | {"accuracy": agreement(true, found)}
