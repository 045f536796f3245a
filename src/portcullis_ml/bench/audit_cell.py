"""What one cell of an audit does: load the experiment, run the attack, grade the copy that it makes.

The thief gets an oracle and rows of their own, nothing more. The examiner, who owns the victim, compares the
copy with it on test rows that neither has trained on and on uniform points. The guard's key is
derived from the cell, so that a run can be repeated to the bit; it is no secret, and a served guard
must never use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.controls import most_frequent, own_labels
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.flags import raised
from portcullis_ml.bench.leakage import candidates_of, leakage_measures
from portcullis_ml.bench.ledger import FileLedger
from portcullis_ml.bench.links import court, follow
from portcullis_ml.bench.marks import Mark, mark_of
from portcullis_ml.bench.records import Record
from portcullis_ml.bench.run import Workspace
from portcullis_ml.core.artifacts import identity
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.extraction import Extraction, ExtractionAttack
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle, checked_answer
from portcullis_ml.core.ownership import MarkLog
from portcullis_ml.core.privacy import PrivacyAttack
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Array, Differentiable, Estimate, Interface, Model, Request, Reveals, Rows
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import Exam, agreement
from portcullis_ml.measures.detection import false_positives, run_detector
from portcullis_ml.measures.transferability import Transfer
from portcullis_ml.measures.utility import honest_cost
from portcullis_ml.models.auto import AutoLearner, AutoModel
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["audit_cell", "bindable", "guard_of", "knowledge_of"]

UNIFORM = 10_000  # points for agreement on the whole input space
HONEST = 150  # rows that one honest client asks
CURVE = 24  # points of a curve at most
INNOCENTS = 5  # models that a mark is tried on beside the copy
THIEF = "thief"  # the client name under which an attack asks


def audit_cell(
    cell: Cell, workspace: Workspace, *, spec: ExperimentSpec, keep: Callable[[Extraction], None] | None = None
) -> Record:
    """The record of one cell; `spec` says where the victim and the rows lie on this machine.

    keep(extraction) may store what the attack returned before it is graded.
    """
    experiment = spec.load(_hardened(cell))
    if cell.role == "honest":
        return _honest(cell, experiment, mark_of(cell, spec), spec)
    if cell.budget == 0:
        return _unpaid(cell, experiment, spec)
    scene = _scene(cell, spec)
    if cell.role == "privacy":
        return _privacy(cell, workspace, scene)
    attack: ExtractionAttack = ATTACKS.build(cell.attack)
    with workspace.ledger(columns=scene.columns) as ledger:
        oracle = scene.oracle(cell, ledger)
        extraction = attack(oracle, scene.knowledge, rng=cell.rng("attack"), watch=workspace.report)
    if keep:
        keep(extraction)
    exam = _exam(spec, scene.mark, _hardened(cell))
    measures, classes, notes = _graded(extraction.model, cell, experiment, exam)
    if isinstance(extraction.model, AutoModel):
        notes["chosen"] = extraction.model.chosen
    if len(scene.interface.input_shape) == 1 and not cell.defense:
        notes["right"] = right_rows(extraction.model, experiment, exam)
    if leak := representers_note(extraction.model, experiment, cell):
        notes["leak"] = leak
    return Record(
        cell=cell,
        measures=measures,
        classes=classes,
        curve=_curve(extraction, experiment, exam),
        queries=extraction.queries,
        stopped=extraction.stopped,
        alarms=_alarms(oracle),
        flags=tuple(_flags(cell, extraction, experiment, scene.guard)),
        threat_model=_threat_model(cell, scene.interface, scene.knowledge),
        notes=_plain(extraction.notes | notes),
        then=tuple(_plain_link(link) for link in _links(cell, extraction.model, scene, exam)),
    )


def _hardened(cell: Cell) -> str | None:
    """The folder of the hardened victim that this cell serves, or None."""
    if cell.hardening is None:
        return None
    if "artifact" not in cell.hardening:
        name = cell.hardening["unit"]
        raise InputError(
            f"{name} must have trained a victim before anything is attacked; it has not. Run `portcullis prepare "
            f"{name} ...` and give its folder as --victim."
        )
    return str(cell.hardening["artifact"])


@dataclass(frozen=True)
class _Scene:
    """What an attacker meets in one cell: the served model, its guard, what it shows, and what the attacker has."""

    experiment: Experiment
    model: Model
    guard: Guard | None
    interface: Interface
    knowledge: Knowledge
    mark: Mark | None

    @property
    def columns(self) -> int:
        """How many numbers an answer shows for a row, at most."""
        scores = max(self.interface.n_classes, 1)
        if not self.interface.explains:
            return scores
        explanation = checked_answer(self.model, self.experiment.test_x[:1], self.interface).explanation
        return scores + (0 if explanation is None else explanation.size)

    def oracle(self, cell: Cell, ledger: FileLedger) -> LocalOracle:
        return LocalOracle(self.model, self.interface, budget=cell.budget, guard=self.guard, ledger=ledger)


def _scene(cell: Cell, spec: ExperimentSpec) -> _Scene:
    experiment, mark = spec.load(_hardened(cell)), mark_of(cell, spec)
    answered = _asked_for(cell, experiment)
    guard = guard_of(cell, answered, mark)
    interface = answered if guard is None else guard.shown(answered)
    return _Scene(experiment, _served(experiment, mark), guard, interface, knowledge_of(cell, experiment), mark)


def _served(experiment: Experiment, mark: Mark | None) -> Model:
    """The victim, or the one that was trained with a mark."""
    return experiment.model if mark is None or mark.stage is not None else mark.model


def guard_of(cell: Cell, interface: Interface, mark: Mark | None = None) -> Guard | None:
    """The cell's guard as it meets its first client, bound to the undefended API; None for no defense."""
    stages = [DEFENSES.build(stage) for stage in cell.defense]
    if mark is not None and mark.stage is not None:
        stages.append(mark.stage)
    if not stages:
        return None
    key = derive(cell.seed, "guard key, not a secret", json.dumps(identity(cell.defense), sort_keys=True)).bytes(32)
    return Guard(*stages, key=key, interface=interface)


def bindable(cell: Cell, experiment: Experiment) -> None:
    """Raise InputError, before anything is paid, where the cell's guard cannot be put before this victim."""
    try:
        guard_of(cell, _asked_for(cell, experiment))
    except NotApplicable:
        pass  # the cell will say so by itself


def knowledge_of(cell: Cell, experiment: Experiment) -> Knowledge:
    """What this cell's thief has: the pool, a few seeds drawn anew for every seed of the grid, and a learner."""
    learner = None if cell.learner is None else ATTACKS.build(cell.learner)
    if isinstance(learner, AutoLearner):
        learner = learner.knowing(experiment.interface)
    seeds = experiment.draw_seeds(
        int(cell.extra.get("seeds", 10 * experiment.interface.n_classes)), derive(cell.seed, "seeds")
    )
    return Knowledge(
        pool=experiment.pool,
        pool_groups=experiment.pool_labels,
        seeds=seeds,
        learner=learner,
        defense=identity(cell.defense) if cell.knows_defense else None,
    )


def _privacy(cell: Cell, workspace: Workspace, scene: _Scene) -> Record:
    """An attack on the training data through the API as it is defended."""
    attack: PrivacyAttack = PRIVACY.build(cell.attack)
    candidates, member = candidates_of(scene.experiment, cell.rng("candidates"), most=cell.budget)
    with workspace.ledger(columns=scene.columns) as ledger:
        oracle = scene.oracle(cell, ledger)
        rng, watch = cell.rng("attack"), workspace.report
        leakage = attack(oracle, scene.knowledge, candidates, rng=rng, watch=watch)
    measures, notes = leakage_measures(leakage, member, scene.experiment, cell.rng("leak"))
    return Record(
        cell=cell,
        measures=measures,
        queries=leakage.queries,
        stopped=leakage.stopped,
        alarms=_alarms(oracle),
        threat_model=_threat_model(cell, scene.interface, scene.knowledge),
        notes=_plain(notes | {"candidates": len(candidates), "members": int(member.sum())}),
    )


def _links(cell: Cell, copy: Model, scene: _Scene, exam: Exam) -> list[dict[str, Any]]:
    """What is done with the copy: the cell's links, and the examination of a marked victim's copy."""
    done = follow(
        cell,
        copy,
        scene.model,
        interface=scene.interface,
        experiment=scene.experiment,
        knowledge=scene.knowledge,
        exam=exam,
    )
    if scene.mark is not None:
        log = MarkLog()
        if scene.guard is not None and scene.mark.stage is not None:
            log = scene.mark.scheme.log(scene.guard.store.load((THIEF, scene.guard.names[-1])))
        innocents = _innocents(cell, scene)
        done.append(court(cell, scene.mark, log, copy, scene.interface, innocents))
        if scene.mark.stage is None:  # did the mark take at all?
            done.append(court(cell, scene.mark, log, scene.mark.model, scene.interface, (), of=" on the marked victim"))
    return done


def _innocents(cell: Cell, scene: _Scene) -> list[Model]:
    """Models that owe the mark nothing: trained by the thief's learner on the pool's own labels, where it has them."""
    experiment, known = scene.experiment, scene.knowledge
    classes = experiment.interface.n_classes
    if known.pool is None or experiment.pool_labels is None or known.learner is None:
        return []
    rngs = [cell.rng("innocent", str(i)) for i in range(INNOCENTS)]
    return [own_labels(known, experiment.pool_labels, classes, rng) for rng in rngs]


def representers_note(copy: Model, experiment: Experiment, cell: Cell) -> dict[str, Any] | None:
    """What a copy that is a kernel model gives away of the training set, as a record's note."""
    oracle = LocalOracle(copy, experiment.interface, budget=1)
    nobody = Rows(experiment.test_x[:0])
    try:
        leakage = PRIVACY.build("representers")(oracle, Knowledge(model=copy), nobody, rng=cell.rng("leak"))
    except NotApplicable:
        return None
    note: dict[str, Any] = leakage_measures(leakage, np.empty(0, bool), experiment, cell.rng("leak"))[1]["leak"]
    return note


def _asked_for(cell: Cell, experiment: Experiment) -> Interface:
    """What this cell's API shows. An experiment that explains also runs cells of an API that does not."""
    changes = {k: v for k, v in cell.interface.items() if k in ("k", "decimals", "precision", "missing")}
    changes["explains"] = bool(cell.interface.get("explains"))
    return experiment.interface.revealing(reveals=Reveals.parse(cell.interface["reveals"]), **changes)


def _exam(spec: ExperimentSpec, mark: Mark | None = None, hardened: str | None = None) -> Exam:
    """What a copy is compared with: the model that is served, hardened or marked or neither."""
    if mark is None or mark.stage is not None:
        return _plain_exam(spec, hardened)
    return _exam_of(spec.load(), mark.model)


@lru_cache(maxsize=4)
def _plain_exam(spec: ExperimentSpec, hardened: str | None) -> Exam:
    experiment = spec.load(hardened)
    return _exam_of(experiment, experiment.model)


def _exam_of(experiment: Experiment, model: Model) -> Exam:
    rng = derive(0, "exam")
    rows = experiment.test_x, experiment.test_y
    return Exam.of(model, *rows, interface=experiment.interface, rng=rng, points=UNIFORM)


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


def right_rows(copy: Model, experiment: Experiment, exam: Exam) -> str:
    """One bit for every test row, in order and in hexadecimal: whether the copy agrees. For paired comparisons."""
    right = copy.scores(experiment.test_x).argmax(axis=1) == exam.victim.argmax(axis=1)
    return np.packbits(right).tobytes().hex()


def _curve(extraction: Extraction, experiment: Experiment, exam: Exam) -> tuple[tuple[int, dict[str, Estimate]], ...]:
    """Agreement after every round that the attack noted, thinned to what a reader can see."""
    step = max(1, -(-len(extraction.history) // CURVE))
    rounds = extraction.history[::-1][::step][::-1]  # counted from the end, so that the last round is among them
    victim = exam.victim.argmax(axis=1)
    return tuple((q, {"agreement": agreement(victim, m.scores(experiment.test_x).argmax(axis=1))}) for q, m in rounds)


def _unpaid(cell: Cell, experiment: Experiment, spec: ExperimentSpec) -> Record:
    """The record of a control that asks the API nothing."""
    exam = _exam(spec, hardened=_hardened(cell))
    copy: Model
    if cell.attack["unit"] == "own_labels":
        rng = cell.rng("attack")
        copy = own_labels(knowledge_of(cell, experiment), experiment.pool_labels, experiment.interface.n_classes, rng)
    else:
        copy = most_frequent(exam.victim.argmax(axis=1), experiment.interface)
    measures, classes, _ = _graded(copy, replace(cell, extra={}), experiment, exam)
    return Record(cell=cell, measures=measures, classes=classes, threat_model={"answers": "none", "accounts": 0})


def _honest(cell: Cell, experiment: Experiment, mark: Mark | None, spec: ExperimentSpec) -> Record:
    """What the guard costs clients who mean well: the test rows, shared out among a few of them.

    Where a hardened victim is served, beside the plain one's answers, so that the hardening's cost is part of it.
    """
    order = cell.rng("honest order").permutation(len(experiment.test_x))
    shares = np.array_split(order, max(1, len(order) // HONEST))
    streams = [experiment.test_x[rows] for rows in shares]
    truths = None if experiment.test_y is None else [experiment.test_y[rows] for rows in shares]
    interface = _asked_for(cell, experiment)

    def fresh() -> Guard:
        return guard_of(cell, interface, mark) or Guard(key=bytes(16))

    trained_anew = cell.hardening is not None or (mark is not None and mark.stage is None)
    plain = spec.load().model if trained_anew else None
    cost = honest_cost(
        fresh, _served(experiment, mark), interface, streams, truths, rng=cell.rng("honest"), plain=plain
    )
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
