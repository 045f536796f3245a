"""What an attacker meets in one cell: the model that is served, its guard, what it shows, and what the attacker has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.ledger import FileLedger
from portcullis_ml.bench.marks import Mark, mark_of
from portcullis_ml.bench.named import GuardSpec
from portcullis_ml.bench.rehearsal import Rehearsal
from portcullis_ml.catalog import identity
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle, checked_answer
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Interface, Model, Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS

__all__ = [
    "Target",
    "bindable",
    "guard_of",
    "hardened_folder",
    "interface_of",
    "knowledge_of",
    "served_model",
    "target_of",
]


def hardened_folder(cell: Cell) -> str | None:
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
class Target:
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
        scores = self.interface.columns
        if not self.interface.explains:
            return scores
        explanation = checked_answer(self.model, self.experiment.test_x[:1], self.interface).explanation
        return scores + (0 if explanation is None else explanation.size)

    def oracle(self, cell: Cell, ledger: FileLedger) -> LocalOracle:
        return LocalOracle(self.model, self.interface, budget=cell.budget, guard=self.guard, ledger=ledger)


def target_of(cell: Cell, spec: ExperimentSpec) -> Target:
    experiment, mark = spec.load(hardened_folder(cell)), mark_of(cell, spec)
    answered = interface_of(cell, experiment)
    guard = guard_of(cell, answered, mark)
    interface = answered if guard is None else guard.shown(answered)
    if cell.uses == "labels":  # the guard still sees the whole answer; the attacker throws the rest away
        interface = interface.revealing(reveals=Reveals.LABELS, explains=False)
    return Target(experiment, served_model(experiment, mark), guard, interface, knowledge_of(cell, experiment), mark)


def served_model(experiment: Experiment, mark: Mark | None) -> Model:
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
        guard_of(cell, interface_of(cell, experiment))
    except NotApplicable:
        pass  # the cell will say so by itself


def knowledge_of(cell: Cell, experiment: Experiment) -> Knowledge:
    """What this cell's thief has: the pool, a few seeds drawn anew for every seed of the grid, and a learner."""
    learner: Any = None if cell.learner is None else ATTACKS.build(cell.learner)
    if hasattr(learner, "knowing"):
        learner = learner.knowing(experiment.interface)
    seeds = experiment.draw_seeds(
        int(cell.extra.get("seeds", 10 * experiment.interface.n_classes)), derive(cell.seed, "seeds")
    )
    rehearsal = Rehearsal(cell, interface_of(cell, experiment)) if cell.knows_defense and cell.defense else None
    return Knowledge(
        pool=experiment.pool,
        pool_groups=experiment.pool_groups,
        seeds=seeds,
        learner=learner,
        defense=identity(GuardSpec(cell.defense, cell.hardening).known) if cell.knows_defense else None,
        rehearse=rehearsal,
        train=None if rehearsal is None else rehearsal.train,
    )


def interface_of(cell: Cell, experiment: Experiment) -> Interface:
    """What this cell's API shows. An experiment that explains also runs cells of an API that does not."""
    changes = {k: v for k, v in cell.interface.items() if k in ("k", "decimals", "precision", "missing")}
    changes["explains"] = bool(cell.interface.get("explains"))
    return experiment.interface.revealing(reveals=Reveals.parse(cell.interface["reveals"]), **changes)
