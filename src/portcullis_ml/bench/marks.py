"""Marks in an audit: the victim, or its guard, as an ownership scheme marks it in one cell."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec, explaining, victims_learner
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.ownership import Key, Scheme
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Learner, Model, Rows
from portcullis_ml.models.sklearn import EstimatorLearner, SklearnModel
from portcullis_ml.ownership import CATALOG as SCHEMES

__all__ = ["Mark", "learner_of", "mark_of"]


@dataclass(frozen=True)
class Mark:
    """A scheme at work: its key, the model that is served, and the stage that marks answers, if one does."""

    scheme: Scheme[Any]
    key: Key
    model: Model
    stage: Defense[Any] | None = None


def mark_of(cell: Cell, spec: ExperimentSpec) -> Mark | None:
    """The cell's mark, or None. Its secret is derived from the cell's seed, so that a run can be repeated: it is no
    secret, and a served mark must never use it."""
    if cell.mark is None:
        return None
    scheme: Scheme[Any] = SCHEMES.build(cell.mark)
    secret = derive(cell.seed, "mark key, not a secret", json.dumps(cell.mark, sort_keys=True)).bytes(32)
    experiment, key = spec.load(), _minted(spec, json.dumps(cell.mark), secret)
    if scheme.marks != "model":
        return Mark(scheme, key, experiment.model, scheme.defense(key) if scheme.marks == "answers" else None)
    return Mark(scheme, key, _trained(spec, json.dumps(cell.mark), cell.seed, secret))


@lru_cache(maxsize=8)
def _minted(spec: ExperimentSpec, mark: str, secret: bytes) -> Key:
    """The key, once in a process for each mark and seed: some schemes train models to make one."""
    experiment, scheme = spec.load(), SCHEMES.build(json.loads(mark))
    test = Rows(experiment.test_x, experiment.test_y)
    trained = None if experiment.train is None else Rows(experiment.train, experiment.train_y)
    key: Key = scheme.mint(secret, experiment.interface, experiment.model, (trained, test))
    return key


@lru_cache(maxsize=2)
def _trained(spec: ExperimentSpec, mark: str, seed: int, secret: bytes) -> Model:
    """The victim trained anew with its mark by its own training procedure, once in a process for each mark and seed."""
    experiment, scheme = spec.load(), SCHEMES.build(json.loads(mark))
    if experiment.train is None or experiment.train_y is None:
        raise NotApplicable(f"{scheme.name} is trained in; it needs the victim's rows and classes. Give --train FILE.")
    rows = Rows(experiment.train, experiment.train_y)
    key = scheme.mint(secret, experiment.interface)
    rng = derive(seed, "marked victim", mark)
    model: Model = scheme.embed(key, victims_learner(experiment, spec.device), rows, rng=rng)
    return explaining(model, spec, experiment.test_x)


def learner_of(
    experiment: Experiment, spec: ExperimentSpec, *, go_on: bool = False, epochs: int | None = None
) -> tuple[Learner, Model | None]:
    """(how the victim is trained anew, the model that training goes on from or None).

    A classifier of scikit-learn is fitted again with its own settings, a network trained again or on; a victim that
    was trained here has a procedure of its own. NotApplicable for what cannot be trained here.
    """
    model, known = experiment.model, experiment.names["victim"].get("learner")
    start = model if go_on else None
    if isinstance(model, SklearnModel) and not known:
        found: Learner = EstimatorLearner(model)
        start = None
    elif known or getattr(model, "network", None):
        found = victims_learner(experiment, spec.device)
        if not known:
            found = replace(found, network=model.network)  # type: ignore[type-var, attr-defined]
        if epochs is not None and hasattr(found, "epochs"):
            found = replace(found, epochs=epochs)  # type: ignore[type-var]
    else:
        raise NotApplicable(
            f"{type(model).__name__} cannot be trained here. Write the rows to train on with --rows FILE.npz, and "
            "train it as you always do."
        )
    return found, start
