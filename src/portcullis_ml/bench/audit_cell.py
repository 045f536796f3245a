"""What one cell of an audit does: load the experiment, run the attack, grade the copy that it makes.

The thief gets an oracle and rows of their own, nothing more. The examiner, who owns the victim, compares the
copy with it on test rows that neither has trained on and on uniform points. The guard's key is
derived from the cell, so that a run can be repeated to the bit; it is no secret, and a served guard
must never use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.controls import most_frequent, own_labels
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.flags import raised
from portcullis_ml.bench.leak import leaked
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.artifacts import identity
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle, checked_answer
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Differentiable, Estimate, Interface, Model, Request, Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import Exam, agreement
from portcullis_ml.measures.detection import false_positives, run_detector
from portcullis_ml.measures.transferability import Transfer
from portcullis_ml.measures.utility import honest_cost

__all__ = ["audit_cell", "guard_of", "knowledge_of"]

UNIFORM = 10_000  # points for agreement on the whole input space
HONEST = 150  # rows that one honest client asks
CURVE = 24  # points of a curve at most


def audit_cell(
    cell: Cell, workspace: Workspace, *, spec: ExperimentSpec, keep: Callable[[Extraction], None] | None = None
) -> Record:
    """The record of one cell; `spec` says where the victim and the rows lie on this machine.

    keep(extraction) may store what the attack returned before it is graded.
    """
    experiment = spec.load()
    if cell.role == "honest":
        return _honest(cell, experiment)
    if cell.budget == 0:
        return _unpaid(cell, experiment, spec)
    attack: ExtractionAttack = ATTACKS.build(cell.attack)
    answered = _asked_for(cell, experiment)
    guard = guard_of(cell, answered)
    interface = answered if guard is None else guard.shown(answered)
    knowledge = knowledge_of(cell, experiment)
    with workspace.ledger(columns=_columns(experiment, interface)) as ledger:
        oracle = LocalOracle(experiment.model, interface, budget=cell.budget, guard=guard, ledger=ledger)
        extraction = attack(oracle, knowledge, rng=cell.rng("attack"), watch=workspace.report)
    if keep:
        keep(extraction)
    measures, classes, notes = _graded(extraction.model, cell, experiment, _exam(spec))
    if leak := leaked(extraction.model, experiment, cell.rng("leak")):
        notes["leak"] = leak
    return Record(
        cell=cell,
        measures=measures,
        classes=classes,
        curve=_curve(extraction, experiment, _exam(spec)),
        queries=extraction.queries,
        stopped=extraction.stopped,
        alarms=tuple({"stage": a.stage, "row": a.row, "suspicion": _finite(a.suspicion)} for a in oracle.alarms),
        flags=tuple(_flags(cell, extraction, experiment, guard)),
        threat_model=_threat_model(cell, interface, knowledge),
        notes=_plain(extraction.notes | notes),
    )


def guard_of(cell: Cell, interface: Interface) -> Guard | None:
    """The cell's guard as it meets its first client, bound to the undefended API; None for no defense."""
    if not cell.defense:
        return None
    key = derive(cell.seed, "guard key, not a secret", json.dumps(identity(cell.defense), sort_keys=True)).bytes(32)
    return Guard(*(DEFENSES.build(stage) for stage in cell.defense), key=key, interface=interface)


def knowledge_of(cell: Cell, experiment: Experiment) -> Knowledge:
    """What this cell's thief has: the pool, a few seeds drawn anew for every seed of the grid, and a learner."""
    learner = None if cell.learner is None else ATTACKS.build(cell.learner)
    seeds = experiment.draw_seeds(
        int(cell.extra.get("seeds", 10 * experiment.interface.n_classes)), derive(cell.seed, "seeds")
    )
    return Knowledge(pool=experiment.pool, pool_groups=experiment.pool_labels, seeds=seeds, learner=learner)


def _columns(experiment: Experiment, interface: Interface) -> int:
    """How many numbers an answer shows for a row, at most."""
    scores = max(interface.n_classes, 1)
    if not interface.explains:
        return scores
    explanation = checked_answer(experiment.model, experiment.test_x[:1], interface).explanation
    return scores + (0 if explanation is None else explanation.size)


def _asked_for(cell: Cell, experiment: Experiment) -> Interface:
    """What this cell's API shows. An experiment that explains also runs cells of an API that does not."""
    changes = {k: v for k, v in cell.interface.items() if k in ("k", "decimals", "precision", "missing")}
    changes["explains"] = bool(cell.interface.get("explains"))
    return experiment.interface.revealing(reveals=Reveals.parse(cell.interface["reveals"]), **changes)


@lru_cache(maxsize=4)
def _exam(spec: ExperimentSpec) -> Exam:
    experiment = spec.load()
    rng = derive(0, "exam")
    return Exam.of(
        experiment.model, experiment.test_x, experiment.test_y, interface=experiment.interface, rng=rng, points=UNIFORM
    )


def _graded(
    copy: Model, cell: Cell, experiment: Experiment, exam: Exam
) -> tuple[dict[str, Estimate], tuple[Any, ...], dict[str, Any]]:
    closeness = exam.grade(copy, rng=cell.rng("grade"))
    measures = closeness.measures()
    if cell.extra.get("transfer") and isinstance(copy, Differentiable):
        measures |= _transfer(copy, cell, experiment, exam)
    return measures, closeness.per_class, {"grading": list(closeness.notes)} if closeness.notes else {}


def _transfer(copy: Differentiable, cell: Cell, experiment: Experiment, exam: Exam) -> dict[str, Estimate]:
    labels = exam.victim.argmax(axis=1)
    found: dict[str, Estimate] = {}
    protocols = {"targeted": Transfer(goal="targeted"), "untargeted": Transfer(goal="untargeted")}
    for goal, protocol in protocols.items():
        report = protocol(
            copy,
            experiment.model,
            experiment.test_x,
            labels,
            bounds=experiment.interface.bounds,
            rng=cell.rng("transfer", goal),
        )
        found |= {f"transfer_{goal}": report.rate, f"transfer_{goal}_noise": report.noise}
    return found


def _curve(extraction: Extraction, experiment: Experiment, exam: Exam) -> tuple[tuple[int, dict[str, Estimate]], ...]:
    """Agreement after every round that the attack noted, thinned to what a reader can see."""
    step = max(1, -(-len(extraction.history) // CURVE))
    rounds = extraction.history[::-1][::step][::-1]  # counted from the end, so that the last round is among them
    victim = exam.victim.argmax(axis=1)
    return tuple((q, {"agreement": agreement(victim, m.scores(experiment.test_x).argmax(axis=1))}) for q, m in rounds)


def _unpaid(cell: Cell, experiment: Experiment, spec: ExperimentSpec) -> Record:
    """The record of a control that asks the API nothing."""
    exam = _exam(spec)
    copy: Model
    if cell.attack["unit"] == "own_labels":
        rng = cell.rng("attack")
        copy = own_labels(knowledge_of(cell, experiment), experiment.pool_labels, experiment.interface.n_classes, rng)
    else:
        copy = most_frequent(exam.victim.argmax(axis=1), experiment.interface)
    measures, classes, _ = _graded(copy, replace(cell, extra={}), experiment, exam)
    return Record(cell=cell, measures=measures, classes=classes, threat_model={"answers": "none", "accounts": 0})


def _honest(cell: Cell, experiment: Experiment) -> Record:
    """What the guard costs clients who mean well: the test rows, shared out among a few of them."""
    order = cell.rng("honest order").permutation(len(experiment.test_x))
    shares = np.array_split(order, max(1, len(order) // HONEST))
    streams = [experiment.test_x[rows] for rows in shares]
    truths = None if experiment.test_y is None else [experiment.test_y[rows] for rows in shares]
    interface = _asked_for(cell, experiment)

    def fresh() -> Guard:
        return guard_of(cell, interface) or Guard(key=bytes(16))

    cost = honest_cost(fresh, experiment.model, interface, streams, truths, rng=cell.rng("honest"))
    measures = cost.measures() | _false_alarms(cell, experiment, streams)
    flags = []
    if not cost.agreement.value == 1:
        flags.append(raised("labels_changed", f"{1 - cost.agreement.value:.1%} of honest rows"))
    if moved := _unsteady(fresh(), experiment, interface):
        flags.append(raised("randomised_answers", f"{moved} of {min(len(order), 20)} questions"))
    asked = sum(map(len, streams))
    return Record(
        cell=cell, measures=measures, queries=asked, flags=tuple(flags), threat_model={"accounts": len(shares)}
    )


def _false_alarms(cell: Cell, experiment: Experiment, streams: list[Array]) -> dict[str, Estimate]:
    """Chunks of 50 honest rows with an alarm, for the first detector of the guard."""
    guard = guard_of(cell, _asked_for(cell, experiment))
    if guard is None or not guard.detectors():
        return {}
    detector = guard.detectors()[0]
    answers = [checked_answer(experiment.model, x, experiment.interface) for x in streams]
    suspicions = [
        run_detector(detector, x, a, client=str(i)) for i, (x, a) in enumerate(zip(streams, answers, strict=True))
    ]
    return {"false_alarm": false_positives([detector.alarms(s) for s in suspicions])}


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
    return {
        "answers": interface.reveals.word + (" and explanations" if interface.explains else ""),
        "data": " and ".join(held) or "none",
        "queries": cell.budget,
        "accounts": 1,
        "knows_defense": False,
        "authorised_by": "the victim is a model of the person who runs this audit",
    }


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
