"""Links: what is done with the copy once it is made, in the same cell and on the same bill.

A link is a unit's description. The copy is the next link's victim, without a guard and without a price: an extraction
attack copies it again, a privacy attack asks it about the first victim's training rows and may look into it, `evasion`
carries adversarial examples from it to the first victim, and an ownership scheme examines it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment
from portcullis_ml.bench.innocents import Innocents
from portcullis_ml.bench.leakage import candidates_of, leakage_measures, shadow_learner
from portcullis_ml.bench.marks import Mark
from portcullis_ml.catalog import Catalog
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable, PortcullisError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import MarkLog
from portcullis_ml.core.privacy import PrivacyAttack
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Differentiable, Estimate, Interface, Model, Reveals, Rows
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import Exam
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.measures.transferability import Transfer
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["LINKS", "UNMETERED", "bare", "court", "follow", "link_named"]

UNMETERED = 10**9  # queries: whoever holds a model asks it for nothing
EVASION = {"evasion": "portcullis_ml.measures.transferability:Transfer"}
RISKS = {"membership": "loss_threshold", "inversion": "mi_face"}  # what a risk's name stands for
LINKS = Catalog("privacy", dict(sorted({**ATTACKS, **PRIVACY, **EVASION}.items())), {**ATTACKS.presets, **RISKS})


def link_named(word: str) -> dict[str, Any]:
    """The description of a link: "loss_threshold", "evasion(goal=untargeted)", "my_package.module:Class"."""
    return describe(LINKS.build(word))


def follow(
    cell: Cell,
    copy: Model,
    victim: Model,
    *,
    interface: Interface,
    experiment: Experiment,
    knowledge: Knowledge,
    exam: Exam,
) -> list[dict[str, Any]]:
    """What became of every link of `cell.then`. A link that fails says why; those after it work on the last copy."""
    done = []
    for number, description in enumerate(cell.then):
        unit = LINKS.build(description)
        rng = cell.rng("then", str(number))
        name = _name(str(description["unit"]))
        try:
            if isinstance(unit, ExtractionAttack):
                oracle = LocalOracle(copy, bare(interface), budget=cell.budget)
                copy = unit(oracle, replace(knowledge, defense=[]), rng=rng).model  # the copy stands behind no guard
                link = _link(name, "extraction", exam.grade(copy, rng=rng).measures())
            elif isinstance(unit, PrivacyAttack):
                link = _privacy(name, unit, copy, bare(interface), experiment, knowledge, rng)
            elif isinstance(unit, Transfer):
                link = _evasion(name, unit, copy, victim, experiment, exam, rng)
            else:
                raise InputError(f"A link must be an attack on the copy; {name} is a {type(unit).__name__}.")
        except PortcullisError as error:
            outcome = "not applicable" if isinstance(error, NotApplicable) else "failed"
            link = _link(name, "?", outcome=outcome, reason=str(error))
        done.append(link)
    return done


def court(
    cell: Cell, mark: Mark, log: MarkLog, copy: Model, interface: Interface, innocents: Innocents, of: str = ""
) -> dict[str, Any]:
    """The examination of a copy under the cell's mark, and of models that never saw the victim's answers."""
    oracle = LocalOracle(copy, bare(interface), budget=UNMETERED)
    rng, commitment = cell.rng("court"), mark.key.commit()
    found = mark.scheme(
        mark.key, oracle, innocents.models, commitment=commitment, rng=rng, log=log, learnt=innocents.learnt
    )
    measures = {"matches": clopper_pearson(found.matches, found.n, unit="marked questions")}
    if found.tried:
        measures["false_claims"] = clopper_pearson(found.accused, found.tried, unit="innocent models")
    notes = {"p_value": found.p_value, "null": found.null, "queries": found.queries, "verdict": found.verdict}
    notes |= {"innocents_learnt": innocents.rows}
    notes |= {"level": found.level, "lacking": found.lacking, "assumed": list(found.assumed), **found.notes}
    return _link(_name(mark.scheme.name) + of, "ownership", measures, notes)


def _privacy(
    name: str,
    attack: PrivacyAttack,
    copy: Model,
    interface: Interface,
    experiment: Experiment,
    knowledge: Knowledge,
    rng: np.random.Generator,
) -> dict[str, Any]:
    candidates, member = candidates_of(experiment, rng)
    oracle = LocalOracle(copy, interface, budget=UNMETERED)
    held = replace(knowledge, model=copy, defense=[], rehearse=None, learner=shadow_learner(experiment))
    leakage = attack(oracle, held, candidates, rng=rng)
    pool = None if held.pool is None else Rows(held.pool, held.pool_groups)
    measures, notes = leakage_measures(leakage, candidates, member, experiment, rng, pool=pool)
    return _link(name, "privacy", measures, notes)


def _evasion(
    name: str,
    protocol: Transfer,
    copy: Model,
    victim: Model,
    experiment: Experiment,
    exam: Exam,
    rng: np.random.Generator,
) -> dict[str, Any]:
    if not isinstance(copy, Differentiable):
        raise NotApplicable(f"evasion needs a copy that can be differentiated; this is a {type(copy).__name__}.")
    labels, bounds = exam.victim.argmax(axis=1), experiment.interface.bounds
    report = protocol(copy, victim, experiment.test_x, labels, bounds=bounds, rng=rng)
    return _link(name, "evasion", {"fooled": report.rate, "noise": report.noise}, {"goal": protocol.goal})


def _name(unit: str) -> str:
    """The word for a unit: "evasion" has a name as a link only."""
    return next((word for word, path in LINKS.items() if unit in (word, path)), unit.rpartition(":")[2])


def bare(interface: Interface) -> Interface:
    """The interface of a model in one's own hands: everything is shown, nothing explained."""
    return interface.revealing(reveals=Reveals.PROBS, decimals=None, explains=False)


def _link(
    name: str,
    kind: str,
    measures: Mapping[str, Estimate] | None = None,
    notes: Mapping[str, Any] | None = None,
    *,
    outcome: str = "done",
    reason: str = "",
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "outcome": outcome,
        "reason": reason,
        "measures": dict(measures or {}),
        "notes": dict(notes or {}),
    }
