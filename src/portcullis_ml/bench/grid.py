"""The grid of an audit: attack x defense x budget x seed, and the controls that no audit may go without.

Whatever was asked for, these rows are added: no defense, label only, honest clients behind every defense, and the
controls of `controls.py`. Whoever is shown scores may look at the labels only: behind defenses that keep the labels the
row of label only says how far that leads, behind others it is tried. A cell that cannot run is left in: it comes back
"not applicable" with the reason, so that a reader sees what was not tried and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from portcullis_ml.bench.cell import Cell, Role
from portcullis_ml.bench.controls import PlainStranger
from portcullis_ml.bench.knowing import attackers_of
from portcullis_ml.bench.named import LABELS_ONLY, NONE, GuardSpec, Spec, attack_named, guard_named
from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Reveals
from portcullis_ml.extraction import CATALOG as ATTACKS

__all__ = ["Plan"]

CONTROLS = "portcullis_ml.bench.controls:"
STRANGER, PLAIN_STRANGER = "plain_stranger", describe(PlainStranger())
NOISE, RANDOM_QUERIES = "random_queries", {"unit": f"{CONTROLS}RandomQueries", "batch": 256}
TOLD = " (told the guard)"  # behind the name of an attack that knows the defense
FOLLOW_GRADIENTS = ("jacobian",)  # attacks whose copy must be differentiable


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an audit is to run: units by their names as people wrote them; see `cell.Cell` for the rest."""

    victim: Spec
    data: Spec
    interface: Spec
    attacks: Mapping[str, Spec]
    defenses: Mapping[str, GuardSpec]
    budgets: Sequence[int]  # the largest for every cell, all of them where there is no defense
    seeds: Sequence[int]
    learner: Spec | None
    gradients: Spec | None = None  # the same for attacks that follow their copy's gradients; None: `learner`
    own_labels: bool = False  # whether the pool has labels of the victim's classes
    numbers: bool = False  # whether the victim answers numbers: then no labels can be shown instead
    stranger: bool = False  # whether a plain stranger is tried behind every defense
    noise: bool = False  # whether random queries are, too: for rows of a table they are an attack like any other
    privacy: Mapping[str, Spec] = field(default_factory=dict)  # attacks on the training data, beside every defense
    marks: Mapping[str, Spec] = field(default_factory=dict)  # ownership schemes, each a row of its own like a defense
    then: Sequence[Spec] = ()  # what is done with every copy at the largest budget
    extra: Spec = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("attacks", "budgets", "seeds"):
            if not getattr(self, name):
                raise ParameterError(name, "a list of at least one", getattr(self, name))
        if min(self.budgets) < 1:
            raise ParameterError("budget", "at least 1 query", min(self.budgets))

    def cells(self) -> list[Cell]:
        """Every cell, all of the first seed first, so that a run that is cut short has something to say."""
        guards = self._guards()
        aware = {w: s for w, s in _aware(self.attacks, guards).items() if w in self.attacks or self._fits(s)}
        return [cell for seed in self.seeds for cell in self._of_seed(seed, aware, guards)]

    def _fits(self, attack: Spec) -> bool:
        """Whether an attack that nobody named is for what the victim answers."""
        return not self.numbers or ATTACKS.load(attack["unit"]).needs.task != "classification"

    @property
    def _bare(self) -> bool:
        """Whether the API shows one thing and nothing else: labels, or a number."""
        return self.numbers or (
            Reveals.parse(self.interface["reveals"]) == Reveals.LABELS and not self.interface.get("explains")
        )

    def _guards(self) -> dict[str, GuardSpec]:
        """No defense and, where that hides something, label only are always tried."""
        always = [NONE] if self._bare else [NONE, "label_only"]
        return {word: guard_named(word) for word in always} | dict(self.defenses)

    def _of_seed(self, seed: int, aware: Mapping[str, Spec], guards: Mapping[str, GuardSpec]) -> Iterator[Cell]:
        top = max(self.budgets)
        honest = {"unit": "honest"}
        for attack, spec in self.attacks.items():
            if attack in aware:
                continue  # it runs where a guard is that it knows
            for defense, guard in guards.items():
                for budget in sorted(set(self.budgets), reverse=True) if defense == NONE else [top]:
                    yield self._cell(seed, attack, spec, defense, guard, budget)
            for mark, scheme in self.marks.items():
                yield self._cell(seed, attack, spec, mark, GuardSpec(), top, mark=scheme)
        for defense, guard in guards.items():
            for attack, spec in aware.items():
                if attack in self.attacks or attack in attackers_of(guard):
                    yield self._cell(seed, attack + TOLD, spec, defense, guard, top, knows_defense=True)
            for attack, spec in self.privacy.items():
                yield self._cell(seed, attack, spec, defense, guard, top, "privacy")
        yield from self._labels_only(seed, aware, guards)
        yield from self._controls(seed, top, guards)
        for defense, guard in guards.items():
            yield self._cell(seed, "honest", honest, defense, guard, 0, "honest")
        for mark, scheme in self.marks.items():
            yield self._cell(seed, "honest", honest, mark, GuardSpec(), 0, "honest", mark=scheme)

    def _labels_only(self, seed: int, aware: Mapping[str, Spec], guards: Mapping[str, GuardSpec]) -> Iterator[Cell]:
        """Attacks that throw the scores away, where the row of label only does not say how far that leads."""
        able = {a: s for a, s in self.attacks.items() if a not in aware and _labels_do(s)}
        tried: list[tuple[str, Spec, Role]] = [(attack, spec, "attack") for attack, spec in able.items()]
        tried += [(name, spec, "control") for name, spec in self._everywhere().items()]
        for defense, guard in guards.items():
            if self._bare or guard.keeps_labels:
                continue
            for attack, spec, role in tried:
                name = attack + LABELS_ONLY
                yield self._cell(seed, name, spec, defense, guard, max(self.budgets), role, uses="labels")

    def _controls(self, seed: int, top: int, guards: Mapping[str, GuardSpec]) -> Iterator[Cell]:
        if self.learner is not None:
            if not self.noise:
                yield self._cell(seed, NOISE, RANDOM_QUERIES, NONE, GuardSpec(), top, "control")
            shuffled = {"unit": f"{CONTROLS}Shuffled", "of": dict(self._donor())}
            yield self._cell(seed, "shuffled", shuffled, NONE, GuardSpec(), top, "control")
            if self.own_labels:
                yield self._cell(seed, "own_labels", {"unit": "own_labels"}, NONE, GuardSpec(), 0, "control")
        for name, spec in self._everywhere().items():
            for defense, guard in guards.items():
                yield self._cell(seed, name, spec, defense, guard, top, "control")
        yield self._cell(seed, "no_api", {"unit": "no_api"}, NONE, GuardSpec(), 0, "control")

    def _everywhere(self) -> dict[str, Spec]:
        """The controls that stand behind every defense, as attackers do."""
        noise = {NOISE: RANDOM_QUERIES} if self.noise and self.learner is not None else {}
        return noise | ({STRANGER: PLAIN_STRANGER} if self.stranger else {})

    def _donor(self) -> Spec:
        """The attack whose transfer set is shuffled: the first that trains a learner, random queries otherwise."""
        for spec in self.attacks.values():
            if ATTACKS.load(spec["unit"]).needs.learner:
                return spec
        return RANDOM_QUERIES

    def _cell(
        self,
        seed: int,
        attack: str,
        spec: Spec,
        defense: str,
        guard: GuardSpec,
        budget: int,
        role: Role = "attack",
        *,
        knows_defense: bool = False,
        uses: Literal["", "labels"] = "",
        mark: Spec | None = None,
    ) -> Cell:
        copied = role == "attack" and budget == max(self.budgets) and not uses
        return Cell(
            victim=self.victim,
            data=self.data,
            interface=self.interface,
            attack=spec,
            defense=guard.stages,
            budget=budget,
            seed=seed,
            learner=None if role == "honest" and mark is None else self._learner(spec),
            hardening=guard.hardening,
            role=role,
            knows_defense=knows_defense,
            uses=uses,
            mark=mark,
            then=tuple(self.then) if copied else (),
            extra=self.extra,
            names={"attack": attack, "defense": defense},
        )

    def _learner(self, attack: Spec) -> Spec | None:
        """Shuffled controls take the learner of the attack whose transfer set it is."""
        donor = attack.get("of")
        unit = (donor if isinstance(donor, Mapping) else attack)["unit"]
        return self.gradients if self.gradients is not None and unit in FOLLOW_GRADIENTS else self.learner


def _aware(attacks: Mapping[str, Spec], guards: Mapping[str, GuardSpec]) -> dict[str, Spec]:
    """The attacks that are told of the guard: those asked for, and those that know one of these guards."""
    asked = {spec["unit"] for spec in attacks.values()}
    chosen = {word: spec for word, spec in attacks.items() if ATTACKS.load(spec["unit"]).needs.defense}
    known = {word: attack_named(word) for guard in guards.values() for word in attackers_of(guard)}
    return chosen | {word: spec for word, spec in sorted(known.items()) if spec["unit"] not in asked}


def _labels_do(attack: Spec) -> bool:
    """Whether the attack can work from labels alone."""
    needs = ATTACKS.load(attack["unit"]).needs
    return bool(needs.answers == Reveals.LABELS and not needs.explains)
