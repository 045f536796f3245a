"""What a privacy attack is asked about, and how what it says is judged by whoever knows the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.experiment import Experiment, victims_learner
from portcullis_ml.bench.privacy_rows import guessed_measures, inverted_measures
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.privacy import Leakage
from portcullis_ml.core.types import Estimate, Learner, Model, Rows
from portcullis_ml.measures.membership import membership_measures
from portcullis_ml.measures.recovered import match_recovered

__all__ = ["candidates_of", "leakage_measures", "shadow_learner"]

CANDIDATES = 1_000  # of each kind, members and others, at most


def candidates_of(
    experiment: Experiment, rng: np.random.Generator, *, most: int = 2 * CANDIDATES
) -> tuple[Rows, NDArray[np.bool_]]:
    """Training rows and as many test rows, in a random order, at most `most` in all; and which are training rows."""
    if experiment.train is None:
        raise NotApplicable("Privacy is measured on rows that the victim was trained on. Give them with --train FILE.")
    n = min(len(experiment.train), len(experiment.test_x), CANDIDATES, max(most // 2, 1))
    ours = rng.permutation(len(experiment.train))[:n]
    others = rng.permutation(len(experiment.test_x))[:n]
    order = rng.permutation(2 * n)
    x = np.concatenate([experiment.train[ours], experiment.test_x[others]])[order]
    known = experiment.train_y is not None and experiment.test_y is not None
    y = np.concatenate([experiment.train_y[ours], experiment.test_y[others]])[order] if known else None  # type: ignore[index]
    return Rows(x, y), (np.arange(2 * n) < n)[order]


def shadow_learner(experiment: Experiment, device: str = "cpu") -> Learner:
    """How an attacker trains models like the victim: the victim's own way, as far as it is known.

    A scikit-learn victim is fitted anew with its own settings. No stranger knows them, but an owner who measures what
    the model gives away must not count on that.
    """
    from portcullis_ml.models.sklearn import EstimatorLearner, SklearnModel

    if "learner" not in experiment.names["victim"] and isinstance(experiment.model, SklearnModel):
        return EstimatorLearner(experiment.model)
    return victims_learner(experiment, device)


def leakage_measures(
    leakage: Leakage,
    rows: Rows,
    member: NDArray[np.bool_],
    experiment: Experiment,
    rng: np.random.Generator,
    *,
    pool: Rows | None = None,
    apart: Model | None = None,
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Measures and notes of a record, from what an attack said of these rows and what is true.

    pool   what the attacker knows of other people, with which a hidden column is guessed without the model too
    apart  a classifier that was trained apart, which judges rebuilt inputs
    """
    measures, notes = dict(leakage.measures), dict(leakage.notes)
    found = leakage.recovered
    if leakage.membership is not None:
        measures |= membership_measures(leakage.membership, member)
    if found is None or not len(found):
        return measures, notes
    if "column" in notes:
        more = guessed_measures(found, rows, member, pool, experiment, notes["column"], rng=rng)
    elif "classes" in notes:
        more = inverted_measures(found, notes["classes"], rows, member, apart, experiment)
    else:
        more = {}, {"leak": match_recovered(found, experiment.train, experiment.test_x, experiment.interface, rng=rng)}
    return measures | more[0], notes | more[1]
