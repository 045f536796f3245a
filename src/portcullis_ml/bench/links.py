"""Links: what is done with the copy once it is made, in the same cell and on the same bill.

A link is a unit's description. The copy is the next link's victim, without a guard and without a price: an extraction
attack copies it again, a privacy attack asks it about the first victim's training rows and may look into it, `evasion`
carries adversarial examples from it to the first victim, and an ownership scheme examines it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.experiment import Experiment, learner_for
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
from portcullis_ml.core.types import Differentiable, Estimate, Interface, Labels, Model, Reveals, Rows
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.measures.agreement import Exam
from portcullis_ml.measures.statistics import clopper_pearson
from portcullis_ml.measures.transferability import Transfer, TransferReport
from portcullis_ml.models.units import InUnits, Units
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["LINKS", "UNMETERED", "bare", "court", "directly", "follow", "link_named", "links_named", "transfer"]

UNMETERED = 10**9  # queries: whoever holds a model asks it for nothing
STAND_IN = 2_000  # rows of the pool at most, and as many uniform ones, from which a network learns a copy
EVASION = {"evasion": "portcullis_ml.measures.transferability:Transfer"}
RISKS = {"membership": "loss_threshold", "inversion": "mi_face"}  # what a risk's name stands for
LINKS = Catalog("privacy", dict(sorted({**ATTACKS, **PRIVACY, **EVASION}.items())), {**ATTACKS.presets, **RISKS})


def link_named(word: str) -> dict[str, Any]:
    """The description of a link: "loss_threshold", "evasion(goal=untargeted)", "my_package.module:Class"."""
    return describe(LINKS.build(word))


def links_named(word: str) -> list[dict[str, Any]]:
    """The links of a word: one, but of "evasion" both goals."""
    goals = ("targeted", "untargeted") if word.strip() == "evasion" else ()
    return [link_named(f"evasion(goal={goal})") for goal in goals] or [link_named(word)]


def directly(links: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Those links that can be tried on the API itself as well, by their names."""
    return {_name(link): link for link in links if isinstance(LINKS.build(link), PrivacyAttack | Transfer)}


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
        name = _name(description)
        try:
            if isinstance(unit, ExtractionAttack):
                oracle = LocalOracle(copy, bare(interface), budget=cell.budget)
                copy = unit(oracle, replace(knowledge, defense=[]), rng=rng).model  # the copy stands behind no guard
                link = _link(name, "extraction", exam.grade(copy, rng=rng).measures())
            elif isinstance(unit, PrivacyAttack):
                link = _privacy(name, unit, copy, bare(interface), experiment, knowledge, rng)
            elif isinstance(unit, Transfer):
                link = _evasion(name, unit, copy, victim, experiment, knowledge, exam, rng)
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
    return _link(_name({"unit": mark.scheme.name}) + of, "ownership", measures, notes)


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
    knowledge: Knowledge,
    exam: Exam,
    rng: np.random.Generator,
) -> dict[str, Any]:
    followed = copy if isinstance(copy, Differentiable) else _differentiable(copy, experiment, knowledge, rng)
    report = transfer(protocol, followed, victim, experiment, exam.victim.argmax(axis=1), rng=rng)
    notes = {"goal": protocol.goal, "by_a_network": followed is not copy}
    return _link(name, "evasion", {"fooled": report.rate, "noise": report.noise}, notes)


def transfer(
    protocol: Transfer,
    copy: Differentiable,
    victim: Model,
    experiment: Experiment,
    labels: Labels,
    *,
    rng: np.random.Generator,
) -> TransferReport:
    """Examples from the copy to the victim, which gives the test rows these labels; `eps` is a share of each input's
    range, and categories stay as they are."""
    units = Units(experiment.interface)
    x = units.of(experiment.test_x)
    return protocol(InUnits(copy, units), InUnits(victim, units), x, labels, bounds=units.bounds, rng=rng)


def _differentiable(
    copy: Model, experiment: Experiment, knowledge: Knowledge, rng: np.random.Generator
) -> Differentiable:
    """A network that learns a copy without gradients from its own answers, which cost nothing."""
    interface = experiment.interface
    x = interface.uniform(STAND_IN, rng)
    if knowledge.pool is not None and len(knowledge.pool):
        known = knowledge.pool[np.sort(rng.permutation(len(knowledge.pool))[:STAND_IN])]
        x = np.concatenate([known, x[: len(known)]])
    network = learner_for(interface.input_shape, gradients=True).fit(x, copy.scores(x), rng=rng)
    if not isinstance(network, Differentiable):
        raise NotApplicable(f"evasion needs a copy that can be differentiated; this is a {type(copy).__name__}.")
    return network


def _name(description: Mapping[str, Any]) -> str:
    """The word for a unit: "evasion" has a name as a link only, and says its goal."""
    unit = str(description["unit"])
    name = next((word for word, path in LINKS.items() if unit in (word, path)), unit.rpartition(":")[2])
    return f"{name} ({description['goal']})" if name == "evasion" else name


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
