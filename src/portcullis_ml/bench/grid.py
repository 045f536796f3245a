"""The grid of an audit: attack x defense x budget x seed, and the controls that no audit may go without.

Whatever was asked for, these rows are added: no defense, label only, honest clients behind every
defense, and the controls of `controls.py`. A cell that cannot run is left in: it comes back
"not applicable" with the reason, so that a reader sees what was not tried and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from portcullis_ml.bench.cell import Cell, Role
from portcullis_ml.bench.links import link_named
from portcullis_ml.catalog import split_outside
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.ownership import Scheme
from portcullis_ml.core.privacy import PrivacyAttack
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.ownership import CATALOG as SCHEMES
from portcullis_ml.privacy import CATALOG as PRIVACY

__all__ = ["NONE", "Plan", "attack_named", "defense_named", "guard_stages", "mark_named", "privacy_named"]

NONE = "none"
CONTROLS = "portcullis_ml.bench.controls:"
FOLLOW_GRADIENTS = ("jacobian",)  # attacks whose copy must be differentiable

Spec = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an audit is to run. Names are as people wrote them; see `cell.Cell` for the rest."""

    victim: Spec
    data: Spec
    interface: Spec
    attacks: Sequence[str]
    defenses: Sequence[str]
    budgets: Sequence[int]  # the largest for every cell, all of them where there is no defense
    seeds: Sequence[int]
    learner: Spec | None
    gradients: Spec | None = None  # the same for attacks that follow their copy's gradients; None: `learner`
    own_labels: bool = False  # whether the pool has labels of the victim's classes
    stranger: bool = False  # whether a plain stranger can be tried: rows of a table
    privacy: Sequence[str] = ()  # attacks on the training data, beside every defense
    marks: Sequence[str] = ()  # ownership schemes, each a row of its own like a defense
    then: Sequence[str] = ()  # what is done with every copy at the largest budget
    extra: Spec = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("attacks", "budgets", "seeds"):
            if not getattr(self, name):
                raise ParameterError(name, "a list of at least one", getattr(self, name))
        if min(self.budgets) < 1:
            raise ParameterError("budget", "at least 1 query", min(self.budgets))

    def cells(self) -> list[Cell]:
        """Every cell, all of the first seed first, so that a run that is cut short has something to say."""
        attacks = {name: attack_named(name) for name in self.attacks}
        defenses = {name: defense_named(name) for name in self._defenses()}
        aware = _aware(attacks)
        return [cell for seed in self.seeds for cell in self._of_seed(seed, attacks, aware, defenses)]

    def _defenses(self) -> list[str]:
        always = [NONE] if Reveals.parse(self.interface["reveals"]) == Reveals.LABELS else [NONE, "label_only"]
        return list(dict.fromkeys([*always, *self.defenses]))

    def _of_seed(
        self, seed: int, attacks: Mapping[str, Spec], aware: Mapping[str, Spec], defenses: Mapping[str, Any]
    ) -> Iterator[Cell]:
        top = max(self.budgets)
        privacy = {name: privacy_named(name) for name in self.privacy}
        for attack, spec in attacks.items():
            if attack in aware:
                continue  # it runs where a guard is that it knows
            for defense, stages in defenses.items():
                for budget in sorted(set(self.budgets), reverse=True) if defense == NONE else [top]:
                    yield self._cell(seed, attack, spec, defense, stages, budget)
            for mark in self.marks:
                yield self._cell(seed, attack, spec, mark, (), top, mark=mark_named(mark))
        for defense, stages in defenses.items():
            for attack, spec in aware.items():
                if ATTACKS.load(spec["unit"]).needs.knows(stages):
                    yield self._cell(seed, attack, spec, defense, stages, top, knows_defense=True)
            for attack, spec in privacy.items():
                yield self._cell(seed, attack, spec, defense, stages, top, "privacy")
        yield from self._controls(seed, attacks, top)
        for defense, stages in defenses.items():
            yield self._cell(seed, "honest", {"unit": "honest"}, defense, stages, 0, "honest")
        for mark in self.marks:
            yield self._cell(seed, "honest", {"unit": "honest"}, mark, (), 0, "honest", mark=mark_named(mark))

    def _controls(self, seed: int, attacks: Mapping[str, Spec], top: int) -> Iterator[Cell]:
        if self.learner is not None:
            random = {"unit": f"{CONTROLS}RandomQueries", "batch": 256}
            yield self._cell(seed, "random_queries", random, NONE, (), top, "control")
            shuffled = {"unit": f"{CONTROLS}Shuffled", "of": dict(self._donor(attacks))}
            yield self._cell(seed, "shuffled", shuffled, NONE, (), top, "control")
            if self.own_labels:
                yield self._cell(seed, "own_labels", {"unit": "own_labels"}, NONE, (), 0, "control")
        if self.stranger:
            stranger = {"unit": f"{CONTROLS}PlainStranger"}
            yield self._cell(seed, "plain_stranger", stranger, NONE, (), top, "control")
        yield self._cell(seed, "no_api", {"unit": "no_api"}, NONE, (), 0, "control")

    def _donor(self, attacks: Mapping[str, Spec]) -> Spec:
        """The attack whose transfer set is shuffled: the first that trains a learner, random queries otherwise."""
        for spec in attacks.values():
            if ATTACKS.load(spec["unit"]).needs.learner:
                return spec
        return {"unit": f"{CONTROLS}RandomQueries", "batch": 256}

    def _cell(
        self,
        seed: int,
        attack: str,
        spec: Spec,
        defense: str,
        stages: Any,
        budget: int,
        role: Role = "attack",
        *,
        knows_defense: bool = False,
        mark: Spec | None = None,
    ) -> Cell:
        copied = role == "attack" and budget == max(self.budgets)
        return Cell(
            victim=self.victim,
            data=self.data,
            interface=self.interface,
            attack=spec,
            defense=tuple(stages),
            budget=budget,
            seed=seed,
            learner=None if role == "honest" and mark is None else self._learner(spec),
            role=role,
            knows_defense=knows_defense,
            mark=mark,
            then=tuple(link_named(word) for word in self.then) if copied else (),
            extra=self.extra,
            names={"attack": attack, "defense": defense},
        )

    def _learner(self, attack: Spec) -> Spec | None:
        """Shuffled controls take the learner of the attack whose transfer set it is."""
        donor = attack.get("of")
        unit = (donor if isinstance(donor, Mapping) else attack)["unit"]
        return self.gradients if self.gradients is not None and unit in FOLLOW_GRADIENTS else self.learner


def _aware(attacks: Mapping[str, Spec]) -> dict[str, Spec]:
    """Every attack of the catalog that is made for some guard, as asked for or with its defaults."""
    asked = {spec["unit"] for spec in attacks.values()}
    made_for = [name for name in ATTACKS if name not in asked and ATTACKS.load(name).needs.defense]
    chosen = {word: spec for word, spec in attacks.items() if ATTACKS.load(spec["unit"]).needs.defense}
    return chosen | {name: describe(ATTACKS.build(name)) for name in made_for}


def privacy_named(word: str) -> dict[str, Any]:
    """The description of a privacy attack."""
    unit = PRIVACY.build(word)
    if not isinstance(unit, PrivacyAttack):
        raise ParameterError("a privacy attack", "a PrivacyAttack", type(unit).__name__)
    return describe(unit)


def mark_named(word: str) -> dict[str, Any]:
    """The description of an ownership scheme."""
    unit = SCHEMES.build(word)
    if not isinstance(unit, Scheme):
        raise ParameterError("an ownership scheme", "a Scheme", type(unit).__name__)
    return describe(unit)


def attack_named(word: str) -> dict[str, Any]:
    """The description of "knockoff", "jacobian(k=7)", "my_package.module:Class" or a preset such as "jb_top3"."""
    unit = ATTACKS.build(word)
    if not isinstance(unit, ExtractionAttack):
        raise ParameterError("an attack", "an ExtractionAttack", type(unit).__name__)
    return describe(unit)


def defense_named(word: str) -> list[dict[str, Any]]:
    """The descriptions of a guard's stages, in order: "none", "rounding(decimals=2)" or "a + b" for two stages."""
    return [describe(stage) for stage in guard_stages(word)]


def guard_stages(word: str) -> list[Any]:
    """The stages themselves."""
    if word.strip() in ("", NONE):
        return []
    return [DEFENSES.build(part) for part in split_outside(word, "+")]
