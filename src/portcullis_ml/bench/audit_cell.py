"""What one cell of an audit does: load the experiment, run the attack, grade the copy that it makes.

The thief gets an oracle and rows of their own, nothing more. The examiner, who owns the victim, compares the
copy with it on test rows that neither has trained on and on uniform points. The guard's key is
derived from the cell, so that a run can be repeated to the bit; it is no secret, and a served guard
must never use it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from portcullis_ml.bench.asked import asked_note
from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.controls import mean_answer, most_frequent, own_labels
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.flags import raised
from portcullis_ml.bench.grading import CopyExam, curve_of, exam_for, graded
from portcullis_ml.bench.honest import honest_cell
from portcullis_ml.bench.innocents import innocents_for
from portcullis_ml.bench.leakage import candidates_of, leakage_measures, shadow_learner
from portcullis_ml.bench.links import court, follow
from portcullis_ml.bench.marks import mark_of
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.bench.target import Target, hardened_folder, knowledge_of, target_of
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import AttackFailed, NotApplicable
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import MarkLog
from portcullis_ml.core.privacy import PrivacyAttack
from portcullis_ml.core.types import Interface, Model, Rows
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.regression import ValueExam
from portcullis_ml.measures.square_attack import square_attack
from portcullis_ml.measures.transferability import Transfer
from portcullis_ml.models.units import InUnits, OracleInUnits, Units
from portcullis_ml.privacy import CATALOG as PRIVACY
from portcullis_ml.repetitions import packed

__all__ = ["audit_cell", "representers_note"]

PROBED = 256  # test rows on which a copy must say something
INNOCENTS = 5  # models that a mark is tried on beside the copy, or more where its scheme needs more
THIEF = "thief"  # the client name under which an attack asks


def audit_cell(
    cell: Cell, workspace: Workspace, *, spec: ExperimentSpec, keep: Callable[[Extraction], None] | None = None
) -> Record:
    """The record of one cell; `spec` says where the victim and the rows lie on this machine.

    keep(extraction) may store what the attack returned before it is graded.
    """
    experiment = spec.load(hardened_folder(cell))
    if cell.role == "honest":
        return honest_cell(cell, experiment, mark_of(cell, spec), spec)
    if cell.budget == 0:
        return _unpaid(cell, experiment, spec)
    target = target_of(cell, spec)
    if cell.role == "privacy":
        return _privacy(cell, workspace, target, spec.device)
    attack: ExtractionAttack = ATTACKS.build(cell.attack)
    with workspace.ledger(columns=target.columns) as ledger:
        oracle = target.oracle(cell, ledger)
        extraction = attack(oracle, target.knowledge, rng=cell.rng("attack"), watch=workspace.report)
    if keep:
        keep(extraction)
    _must_answer(extraction.model, cell, experiment)
    exam = exam_for(spec, target.mark, hardened_folder(cell))
    measures, classes, notes = graded(extraction.model, cell, experiment, exam)
    if chosen := getattr(extraction.model, "chosen", None):  # a learner that chooses says what it trained
        notes["chosen"] = chosen
    curve, right = curve_of(extraction, experiment, exam, rng=cell.rng("curve"))
    if right:
        *notes["right_on_the_way"], notes["right"] = right
    if shown := _asked(cell, extraction, target.interface):
        notes["asked"] = shown
    if leak := representers_note(extraction.model, experiment, cell):
        notes["leak"] = leak
    return Record(
        cell=cell,
        measures=measures,
        classes=classes,
        curve=curve,
        queries=extraction.queries,
        stopped=extraction.stopped,
        alarms=_alarms(oracle),
        flags=tuple(_flags(cell, extraction, experiment, target.guard)),
        threat_model=_threat_model(cell, target.interface, target.knowledge),
        notes=_plain(extraction.notes | notes),
        then=tuple(_plain_link(link) for link in _links(cell, extraction.model, target, exam, spec)),
    )


def _asked(cell: Cell, extraction: Extraction, interface: Interface) -> dict[str, Any] | None:
    """Pictures of the questions, of one seed of every attack on the undefended API."""
    plain = cell.role == "attack" and cell.seed == 0 and not (cell.defense or cell.hardening or cell.mark)
    return asked_note(extraction, interface) if plain else None


def _privacy(cell: Cell, workspace: Workspace, target: Target, device: str) -> Record:
    """An attack on the training data through the API as it is defended."""
    attack: PrivacyAttack | Transfer = PRIVACY.build(cell.attack)
    if isinstance(attack, Transfer):
        return _evasion(attack, cell, workspace, target)
    candidates, member = candidates_of(target.experiment, cell.rng("candidates"), most=cell.budget)
    with workspace.ledger(columns=target.columns) as ledger:
        oracle = target.oracle(cell, ledger)
        rng, watch = cell.rng("attack"), workspace.report
        knowledge = replace(target.knowledge, learner=shadow_learner(target.experiment, device))
        leakage = attack(oracle, knowledge, candidates, rng=rng, watch=watch)
    pool = None if knowledge.pool is None else Rows(knowledge.pool, knowledge.pool_groups)
    measures, notes = leakage_measures(leakage, candidates, member, target.experiment, cell.rng("leak"), pool=pool)
    return Record(
        cell=cell,
        measures=measures,
        queries=leakage.queries,
        stopped=leakage.stopped,
        alarms=_alarms(oracle),
        threat_model=_threat_model(cell, target.interface, target.knowledge),
        notes=_plain(notes | {"candidates": len(candidates), "members": int(member.sum())}),
    )


def _evasion(protocol: Transfer, cell: Cell, workspace: Workspace, target: Target) -> Record:
    """Evasion by whoever has no copy: a search by the answers of the API, for as many queries as a theft."""
    units, x = Units(target.experiment.interface), target.experiment.test_x
    labels, victim = target.model.scores(x).argmax(axis=1), InUnits(target.model, units)
    with workspace.ledger(columns=target.columns) as ledger:
        oracle, rng = target.oracle(cell, ledger), cell.rng("attack")
        asked, bounds = OracleInUnits(oracle, units), units.bounds
        rate, harvest = square_attack(protocol, asked, victim, units.of(x), labels, bounds=bounds, rng=rng)
    return Record(
        cell=cell,
        measures={"fooled": rate},
        queries=harvest.paid,
        stopped=harvest.ended,
        alarms=_alarms(oracle),
        threat_model=_threat_model(cell, target.interface, target.knowledge),
        notes={"goal": protocol.goal},
    )


def _links(cell: Cell, copy: Model, target: Target, exam: CopyExam, spec: ExperimentSpec) -> list[dict[str, Any]]:
    """What is done with the copy: the cell's links, and the examination of a marked victim's copy."""
    if isinstance(exam, ValueExam):
        return []  # what follows a theft needs classes; an audit of numbers is refused with any of it
    done = follow(
        cell,
        copy,
        target.model,
        interface=target.interface,
        experiment=target.experiment,
        knowledge=target.knowledge,
        exam=exam,
    )
    if target.mark is not None:
        log = MarkLog()
        if target.guard is not None and target.mark.stage is not None:
            log = target.mark.scheme.log(target.guard.store.load((THIEF, target.guard.names[-1])))
        innocents = innocents_for(cell, spec, target.knowledge, max(INNOCENTS, target.mark.scheme.least))
        done.append(court(cell, target.mark, log, copy, target.interface, innocents))
        if target.mark.stage is None:  # did the mark take at all?
            of = " on the victim itself" if target.mark.scheme.marks == "nothing" else " on the marked victim"
            done.append(court(cell, target.mark, log, target.mark.model, target.interface, innocents, of=of))
    return done


def representers_note(copy: Model, experiment: Experiment, cell: Cell) -> dict[str, Any] | None:
    """What a copy that is a kernel model gives away of the training set, as a record's note."""
    oracle = LocalOracle(copy, experiment.interface, budget=1)
    nobody = Rows(experiment.test_x[:0])
    try:
        leakage = PRIVACY.build("representers")(oracle, Knowledge(model=copy), nobody, rng=cell.rng("leak"))
    except NotApplicable:
        return None
    note: dict[str, Any] = leakage_measures(leakage, nobody, np.empty(0, bool), experiment, cell.rng("leak"))[1]["leak"]
    return note


def _must_answer(copy: Model, cell: Cell, experiment: Experiment) -> None:
    """Raise AttackFailed where the copy says NaN of every row: no label can be read off that."""
    if np.isnan(copy.scores(experiment.test_x[:PROBED])).any(axis=1).all():
        raise AttackFailed(
            f"{cell.attack_name} left a copy that says NaN of every row, so there is nothing to grade. Its learner did "
            "not converge: take another learner, or fewer epochs."
        )


def _unpaid(cell: Cell, experiment: Experiment, spec: ExperimentSpec) -> Record:
    """The record of a control that asks the API nothing."""
    exam = exam_for(spec, hardened=hardened_folder(cell))
    copy: Model
    notes: dict[str, Any] = {}
    victim = exam.victim
    if cell.attack["unit"] == "own_labels":
        notes["labelled"] = 0 if experiment.pool is None else len(experiment.pool)
        rng = cell.rng("attack")
        copy = own_labels(knowledge_of(cell, experiment), experiment.pool_labels, experiment.interface.n_classes, rng)
    elif experiment.numbers:
        copy = mean_answer(victim, experiment.interface)
    else:
        copy = most_frequent(victim.argmax(axis=1), experiment.interface)
        notes["victim"] = victim.argmax(axis=1).tolist()
    measures, classes, remarks = graded(copy, replace(cell, extra={}), experiment, exam)
    notes |= remarks
    if not experiment.numbers:
        notes["right"] = packed(victim.argmax(axis=1) == copy.scores(experiment.test_x).argmax(axis=1))
    threat = {"answers": "none", "accounts": 0}
    return Record(cell=cell, measures=measures, classes=classes, threat_model=threat, notes=notes)


def _flags(cell: Cell, extraction: Extraction, experiment: Experiment, guard: Guard | None) -> list[dict[str, str]]:
    found = []
    if extraction.stopped == "done" and extraction.queries < 0.9 * cell.budget:
        found.append(raised("budget_not_spent", f"{extraction.queries:,} of {cell.budget:,} queries"))
    test = {row.tobytes() for row in np.ascontiguousarray(experiment.test_x)}
    if queried := sum(row.tobytes() in test for row in np.ascontiguousarray(extraction.x)):
        found.append(raised("test_was_queried", f"{queried} of {len(extraction.x):,} rows"))
    if guard and any(s.start() is not None for s in guard.stages):
        found.append(raised("one_account"))
    return found


def _threat_model(cell: Cell, interface: Interface, knowledge: Knowledge) -> dict[str, Any]:
    held = [f"a pool of {len(knowledge.pool):,}"] if knowledge.pool is not None else []
    held += [f"{len(knowledge.seeds):,} seeds"] if knowledge.seeds is not None else []
    shown = interface.reveals.word + (" and explanations" if interface.explains else "")
    return {
        "answers": f"{shown}, and throws the rest away" if cell.uses else shown,
        "data": " and ".join(held) or "none",
        "queries": cell.budget,
        "accounts": 1,
        "knows_defense": cell.knows_defense,
        "authorised_by": "the victim is a model of the person who runs this audit",
    }


def _alarms(oracle: LocalOracle) -> tuple[dict[str, Any], ...]:
    return tuple({"stage": a.stage, "row": a.row, "suspicion": _finite(a.suspicion)} for a in oracle.alarms)


def _plain_link(link: dict[str, Any]) -> dict[str, Any]:
    return {**link, "notes": _plain(link["notes"])}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _plain(notes: Any) -> Any:
    """Notes as strict JSON: numpy numbers become numbers, what is not finite becomes null."""
    if isinstance(notes, dict):
        return {str(k): _plain(v) for k, v in notes.items()}
    if isinstance(notes, list | tuple):
        return [_plain(v) for v in notes]
    if isinstance(notes, np.generic | np.ndarray):
        return _plain(notes.tolist())
    if isinstance(notes, float):
        return _finite(notes)
    return notes if notes is None or isinstance(notes, bool | int | str) else str(notes)
