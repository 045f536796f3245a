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
from portcullis_ml.catalog import split_outside
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Reveals
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS

__all__ = ["NONE", "Plan", "attack_named", "defense_named", "guard_stages"]

NONE = "none"
CONTROLS = "portcullis_ml.bench.controls:"

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
    own_labels: bool = False  # whether the pool has labels of the victim's classes
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
        return [cell for seed in self.seeds for cell in self._of_seed(seed, attacks, defenses)]

    def _defenses(self) -> list[str]:
        bare = Reveals.parse(self.interface["reveals"]) == Reveals.LABELS and not self.interface.get("explains")
        always = [NONE] if bare else [NONE, "label_only"]
        return list(dict.fromkeys([*always, *self.defenses]))

    def _of_seed(self, seed: int, attacks: Mapping[str, Spec], defenses: Mapping[str, Any]) -> Iterator[Cell]:
        top = max(self.budgets)
        for attack, spec in attacks.items():
            for defense, stages in defenses.items():
                for budget in sorted(set(self.budgets), reverse=True) if defense == NONE else [top]:
                    yield self._cell(seed, attack, spec, defense, stages, budget)
        yield from self._controls(seed, attacks, top)
        for defense, stages in defenses.items():
            yield self._cell(seed, "honest", {"unit": "honest"}, defense, stages, 0, "honest")

    def _controls(self, seed: int, attacks: Mapping[str, Spec], top: int) -> Iterator[Cell]:
        if self.learner is not None:
            random = {"unit": f"{CONTROLS}RandomQueries", "batch": 256}
            yield self._cell(seed, "random_queries", random, NONE, (), top, "control")
            shuffled = {"unit": f"{CONTROLS}Shuffled", "of": dict(self._donor(attacks))}
            yield self._cell(seed, "shuffled", shuffled, NONE, (), top, "control")
            if self.own_labels:
                yield self._cell(seed, "own_labels", {"unit": "own_labels"}, NONE, (), 0, "control")
        yield self._cell(seed, "no_api", {"unit": "no_api"}, NONE, (), 0, "control")

    def _donor(self, attacks: Mapping[str, Spec]) -> Spec:
        """The attack whose transfer set is shuffled: the first that trains a learner, random queries otherwise."""
        for spec in attacks.values():
            if ATTACKS.load(spec["unit"]).needs.learner:
                return spec
        return {"unit": f"{CONTROLS}RandomQueries", "batch": 256}

    def _cell(
        self, seed: int, attack: str, spec: Spec, defense: str, stages: Any, budget: int, role: Role = "attack"
    ) -> Cell:
        return Cell(
            victim=self.victim,
            data=self.data,
            interface=self.interface,
            attack=spec,
            defense=tuple(stages),
            budget=budget,
            seed=seed,
            learner=None if role == "honest" else self.learner,
            role=role,
            extra=self.extra,
            names={"attack": attack, "defense": defense},
        )


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
