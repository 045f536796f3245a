"""One attack on training data of which it is known who is a member: on the API, on a copy, or on an innocent model.

What is judged is in the cell's `extra`: {"on": "api" | "copy" | "innocent", "rows": most of a kind}. The innocent model
was trained without any candidate, so an attack that finds members in it finds something else than membership.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.leakage import leakage_measures, shadow_learner
from portcullis_ml.bench.links import UNMETERED, bare
from portcullis_ml.bench.privacy_rows import Candidates, hiding
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.bench.target import target_of
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Estimate, Learner, Model, Rows
from portcullis_ml.data.splits import halves
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.membership import RATES, members_found
from portcullis_ml.measures.roc import exposed, risk, roc_points
from portcullis_ml.models.load import load_model
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["FIXED", "candidates_for", "copy_for", "learner_of", "pools_for", "privacy_cell"]

FIXED = (0.1, 0.01, 0.001, 0.0)  # the false positive rates of the table
SHOWN = 20  # the most exposed rows, in a record


def privacy_cell(cell: Cell, workspace: Workspace, *, spec: ExperimentSpec) -> Record:
    """The record of one cell; `spec` says where the victim and the rows lie on this machine."""
    target = target_of(cell, spec)
    candidates = candidates_for(target.experiment, int(cell.extra["rows"]), cell.seed)
    attack: PrivacyAttack = PRIVACY.build(cell.attack)
    pool = pools_for(target.experiment, candidates, cell.seed)[0] or Rows(_unlabelled(target.experiment))
    learner = learner_of(target.experiment, cell.learner, spec.device)
    knowledge = replace(target.knowledge, pool=pool.x, pool_groups=pool.y, learner=learner)
    on = cell.extra["on"]
    if on == "innocent":
        target = replace(target, model=_innocent_for(cell, spec))
    with workspace.ledger(columns=target.columns) as ledger:
        oracle = target.oracle(cell, ledger)
        if on == "copy":
            copy = copy_for(target.experiment, str(cell.extra["copy"]))
            oracle = LocalOracle(copy, bare(target.experiment.interface), budget=UNMETERED)
            knowledge = replace(knowledge, model=copy, defense=[], rehearse=None)
        shown = hiding(candidates.rows, cell.attack, target.experiment)
        leakage = attack(oracle, knowledge, shown, rng=cell.rng("attack"), watch=workspace.report)
    measures, notes = _judged(leakage, candidates, knowledge, cell, spec)
    return Record(
        cell=cell,
        measures=measures,
        queries=leakage.queries,
        stopped=leakage.stopped,
        threat_model=_threat_model(cell, knowledge, target.interface.reveals.word),
        notes=notes,
    )


def _judged(
    leakage: Leakage, candidates: Candidates, knowledge: Knowledge, cell: Cell, spec: ExperimentSpec
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Measures and notes of what an attack said, by what is true."""
    experiment, pool = spec.load(), None
    if knowledge.pool is not None and len(knowledge.pool):
        pool = Rows(knowledge.pool, knowledge.pool_groups)
    apart = None
    if cell.extra["on"] != "innocent" and pools_for(experiment, candidates, cell.seed)[1] and "classes" in cell.attack:
        apart = _innocent_for(cell, spec)  # never the inverted model's own opinion
    rows, member = candidates.rows, candidates.member
    measures, notes = leakage_measures(leakage, rows, member, experiment, cell.rng("leak"), pool=pool, apart=apart)
    plain = {name: _plain(value) for name, value in notes.items()}
    return measures, plain | ({} if leakage.membership is None else _notes(leakage.membership, candidates))


def _innocent_for(cell: Cell, spec: ExperimentSpec) -> Model:
    return _innocent(spec, json.dumps(cell.learner), int(cell.extra["rows"]), cell.seed)


def _unlabelled(experiment: Experiment) -> Array:
    """The pool where it has no labels, as shadow models and controls cannot use it and imputation can."""
    known = experiment.pool is not None and experiment.pool_labels is None
    return experiment.pool if known else experiment.test_x[:0]  # type: ignore[return-value]


def candidates_for(experiment: Experiment, most: int, seed: int) -> Candidates:
    """At most so many members and so many others, in a random order. InputError where they cannot be measured.

    Of rows that Portcullis drew itself, others that equal a member are left out: tables have such people.
    """
    if experiment.train is None:
        raise InputError("Privacy is measured on rows that the victim was trained on. Give them with --members FILE.")
    if experiment.train_y is None or experiment.test_y is None:
        which = "members" if experiment.train_y is None else "non-members"
        raise InputError(
            f"Membership attacks need the true class of every row; the {which} have none. Save them with y, or name "
            "their label column with --target."
        )
    if experiment.train.shape[1:] != experiment.test_x.shape[1:]:
        raise InputError(
            f"The members were expected to have the inputs of the non-members, {experiment.test_x.shape[1:]}; they "
            f"have {experiment.train.shape[1:]}. Give rows as the victim takes them."
        )
    alone = _alone(experiment.test_x, experiment.train)
    if not alone.all() and "learner" not in experiment.names["victim"]:  # two files, of which one is wrong
        same = int((~alone).sum())
        raise InputError(
            f"Members and non-members were expected to have no row in common; {same:,} of {len(experiment.test_x):,} "
            "non-members are members too. Remove them from one of the files."
        )
    if len(np.unique(np.concatenate([experiment.train_y, experiment.test_y]))) < 2:
        raise InputError("The candidates were expected to show at least two classes; they show one. Give more rows.")
    rng = derive(seed, "candidates")
    ours, others = np.arange(len(experiment.train)), np.flatnonzero(alone)
    ours, others = (np.sort(rng.permutation(rows)[:most]) for rows in (ours, others))
    x = np.concatenate([experiment.train[ours], experiment.test_x[others]])
    y = np.concatenate([experiment.train_y[ours], experiment.test_y[others]])
    member = np.arange(len(x)) < len(ours)
    order = rng.permutation(len(x))
    return Candidates(Rows(x[order], y[order]), member[order], np.concatenate([ours, others])[order])


def _alone(rows: Array, others: Array) -> NDArray[np.bool_]:
    """(n,) which rows stand nowhere among the others."""
    known = {row.tobytes() for row in np.ascontiguousarray(others)}
    return np.array([row.tobytes() not in known for row in np.ascontiguousarray(rows)], bool)


def pools_for(experiment: Experiment, candidates: Candidates, seed: int) -> tuple[Rows | None, Rows | None]:
    """(the attacker's half of the labelled pool, the half that trains the innocent model); None where there is none.

    They are apart, so that an attack does not compare candidates with rows that the innocent model was trained on.
    No candidate is among them.
    """
    if experiment.pool is None or experiment.pool_labels is None:
        return None, None
    new = _alone(experiment.pool, candidates.rows.x)
    new &= (experiment.pool_labels >= 0) & (experiment.pool_labels < experiment.interface.n_classes)
    chosen = np.flatnonzero(new)
    if len(chosen) < 4:
        return None, None
    groups = None if experiment.together is None else experiment.together[chosen]
    x, y = experiment.pool[chosen], experiment.pool_labels[chosen].astype(np.int64)
    first, second = halves(len(chosen), groups, rng=derive(seed, "pool"))
    innocent = Rows(x[second], y[second])
    return Rows(x[first], y[first]), innocent if len(np.unique(y[second])) > 1 else None


def learner_of(experiment: Experiment, described: Any, device: str) -> Learner:
    """The learner that a cell describes, or the victim's own way of training where it describes none."""
    if described is None:
        return shadow_learner(experiment, device)
    learner: Learner = ATTACKS.build(described)
    return learner


def copy_for(experiment: Experiment, path: str) -> Model:
    """The stolen copy in a file. InputError where it does not answer the victim's questions."""
    interface = experiment.interface
    features = interface.features if experiment.classes is not None else None
    copy = load_model(path, input_shape=interface.input_shape, n_classes=interface.n_classes, features=features)
    if tuple(copy.input_shape) != interface.input_shape or copy.n_classes != interface.n_classes:
        raise InputError(
            f"The copy was expected to take inputs of {interface.input_shape} and know {interface.n_classes} classes, "
            f"as the victim does; {path} takes {tuple(copy.input_shape)} and knows {copy.n_classes}. Name its own copy."
        )
    return copy


@lru_cache(maxsize=2)
def _innocent(spec: ExperimentSpec, learner: str, most: int, seed: int) -> Model:
    """A model that was trained on the pool's labelled rows, and on no candidate; `learner` is a description as JSON."""
    experiment = spec.load()
    rows = pools_for(experiment, candidates_for(experiment, most, seed), seed)[1]
    if rows is None or rows.y is None:
        raise NotApplicable("The control needs a labelled pool to train a model without the candidates. Give --pool.")
    trainer = learner_of(experiment, json.loads(learner), spec.device)
    return trainer.fit(rows.x, np.eye(experiment.interface.n_classes)[rows.y], rng=derive(seed, "innocent"))


def _notes(suspicion: Array, candidates: Candidates) -> dict[str, Any]:
    """The curve, members first in the order of their files, and the most exposed rows."""
    member = candidates.member
    heard = np.where(np.isnan(suspicion), -np.inf, suspicion)
    fpr, tpr = roc_points(suspicion, member)
    order = np.lexsort((candidates.place, ~member))
    chance = risk(suspicion, member)
    named = [
        {"row": int(candidates.place[i]), "suspicion": float(suspicion[i]), "p_value": float(chance[i])}
        for i in exposed(suspicion, member, SHOWN)
    ]
    fixed = {f"{100 * rate:g}": members_found(heard, member, rate) for rate in FIXED}
    return {
        "roc": {"fpr": fpr.round(6).tolist(), "tpr": tpr.round(6).tolist()},
        "signal_values": [None if np.isnan(v) else float(f"{v:.6g}") for v in suspicion[order]],
        "places": candidates.place[order].tolist(),
        "members": int(member.sum()),
        "non_members": int((~member).sum()),
        "fixed_fpr": {rate: [e.value, e.low, e.high] for rate, e in fixed.items()},
        "exposed": named,
        "named_at_1_percent": int((chance[member] <= RATES["tpr_at_1_percent"]).sum()),
    }


def _threat_model(cell: Cell, knowledge: Knowledge, shown: str) -> dict[str, Any]:
    pool = 0 if knowledge.pool is None else len(knowledge.pool)
    held = "the true classes" + (f" and a pool of {pool:,}" if pool else "")
    return {"answers": shown, "data": held, "accounts": 1, "knows_defense": cell.knows_defense}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
