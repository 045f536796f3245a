"""What every attack shares, whatever it brings home: what it needs, what it knows, how it asks and is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.errors import AttackFailed, BudgetExhausted, NotApplicable, Refused
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import Oracle
from portcullis_ml.core.types import Answer, Array, Interface, Learner, Model, Reveals

__all__ = ["Attack", "Harvest", "Knowledge", "Needs", "Watch"]

Watch = Callable[[int, int], None]  # (rows paid, budget)


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the thief has besides the API, unlabelled by the victim and free.

    pool         (n, *input_shape) natural inputs from wherever the thief found them
    pool_groups  (n,) the public grouping of the pool (its own labels), for bandit-style selection
    seeds        (n, *input_shape) a few inputs from the victim's own domain
    learner      the thief's training procedure
    defense      the guard's stages as descriptions, without its key; [] for no guard, None where nobody told
    rehearse     rows and true scores (n, c) -> what the known guard makes of them, under a key of the thief's own
    train        copy, own rows, foreign rows -> the known guard with all that it has trained, trained on these
    model        the model itself, for who holds it: a copy in the thief's own hands, or an examiner's model
    """

    pool: Array | None = None
    pool_groups: np.ndarray | None = None
    seeds: Array | None = None
    learner: Learner | None = None
    defense: Sequence[Mapping[str, Any]] | None = None
    rehearse: Callable[[Array, Array], Answer] | None = None
    train: Callable[[Model, Array, Array], Guard] | None = None
    model: Model | None = None

    def stages(self, *units: str) -> list[Mapping[str, Any]]:
        """The stages of these units in the guard that is known, those within other stages included."""
        return [stage for stage in _stages(self.defense) if stage["unit"] in units]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an attack cannot do without. Data, so that a grid can write why a cell does not apply."""

    answers: Reveals = Reveals.LABELS
    task: str = "classification"  # or "regression", or "any"
    pool: bool = False
    seeds: bool = False
    learner: bool = False
    missing: bool = False  # incomplete queries
    features: bool = False  # a table's schema
    explains: bool = False  # explanations beside the answers
    model: bool = False  # the model itself, not only its answers
    numeric: bool = True  # rows of numbers; False: it asks about rows that it was given or that the interface draws
    defense: tuple[str, ...] = ()  # to know a guard with one of these stages ("any" for any), or that there is none

    def lacking(self, interface: Interface, knowledge: Knowledge, name: str) -> str | None:
        """One sentence that says what is not there, or None when the attack applies."""
        if self.task not in ("any", interface.task):
            return f"{name} needs a {self.task} API; this one does {interface.task}."
        if interface.outputs > 1:
            return f"{name} learns one number a row; this API answers {interface.outputs}, which no attack here copies."
        if interface.task == "classification" and interface.reveals < self.answers:
            given = interface.reveals.word
            return f"{name} needs {self.answers.word}; this API gives {given}. See: portcullis list --answers {given}"
        if self.numeric and interface.text:
            return f"{name} needs rows of numbers; this API takes texts. Leave it out."
        if self.missing and not interface.missing:
            return f"{name} needs incomplete queries; this API wants every input."
        if self.features and interface.features is None:
            return f"{name} needs a table with named features; this API takes plain arrays."
        if self.explains and not interface.explains:
            return f"{name} needs explanations; this API gives none."
        for thing, words in _WORDS.items():
            held = getattr(knowledge, thing)
            if getattr(self, thing) and (held is None or (thing in ("pool", "seeds") and len(held) == 0)):
                return f"{name} needs {words}; this attacker has none."
        if self.defense and not self.knows(knowledge.defense):
            return f"{name} needs to know of a guard with {' or '.join(self.defense)}; this attacker knows of none."
        return None

    def knows(self, defense: Sequence[Mapping[str, Any]] | None) -> bool:
        """Whether a guard of this description, or no guard, is what the attack needs to know."""
        units = {stage["unit"] for stage in _stages(defense)}
        return defense is not None and (not units or "any" in self.defense or not units.isdisjoint(self.defense))


_WORDS = {
    "pool": "a pool of natural inputs", "seeds": "seed inputs from the domain", "learner": "a surrogate learner",
    "model": "the model itself",
}  # fmt: skip


def _stages(description: Any) -> Iterator[Mapping[str, Any]]:
    """The descriptions of all units in a description, those within others included."""
    if isinstance(description, Mapping):
        if "unit" in description:
            yield description
        description = list(description.values())
    for part in description if isinstance(description, list | tuple) else ():
        yield from _stages(part)


class Harvest:
    """An attack's record of its questions: asks, keeps what was answered, and knows when it is over.

    Cuts a batch to what is left, keeps the rows that a guard answered before it refused, and raises neither for
    an empty budget nor for a refusal: look at `open`. `watch` is called with (rows paid, budget) after every batch.
    """

    def __init__(self, oracle: Oracle, watch: Watch | None = None) -> None:
        self._oracle, self._watch = oracle, watch or (lambda paid, budget: None)
        self._x: list[Array] = []
        self._answers: list[Answer] = []
        self.stopped, self.paid = "done", 0
        self.history: list[tuple[int, Model]] = []
        self.notes: dict[str, Any] = {}

    @property
    def open(self) -> bool:
        """Whether another row can be asked."""
        return self.stopped == "done" and self._oracle.left > 0

    @property
    def left(self) -> int:
        return self._oracle.left if self.stopped == "done" else 0

    @property
    def ended(self) -> str:
        """Why it is over: "done", "budget" or the guard's reason."""
        return "budget" if self.stopped == "done" and self._oracle.left == 0 else self.stopped

    def ask(self, x: Array) -> Answer:
        """Query as many rows at the head of x as can be paid for; the answer to those that were answered."""
        answer = self._ask(x[: self.left])
        self._watch(self.paid, self.paid + self.left)
        return answer

    def _ask(self, x: Array) -> Answer:
        answer = None
        if len(x):
            self.paid += len(x)
            try:
                answer = self._oracle.query(x)
            except BudgetExhausted:  # somebody else spends from the same budget
                self.stopped = "budget"
                self.paid -= len(x)
            except Refused as refusal:
                self.stopped = refusal.reason
                answer = refusal.answered
                self.paid -= refusal.untaken(len(x))
        if answer is None:
            return self._nothing()
        self._x.append(x[: len(answer)])
        self._answers.append(answer)
        return answer

    def _nothing(self) -> Answer:
        told = self._oracle.interface
        labels = np.empty(0, np.int64) if told.n_classes else None
        return Answer(labels, np.empty((0, told.columns)) if told.reveals > Reveals.LABELS or labels is None else None)

    def __len__(self) -> int:
        return sum(len(a) for a in self._answers)

    @property
    def x(self) -> Array:
        """(n, *input_shape) the answered rows."""
        return np.concatenate(self._x) if self._x else np.empty((0, *self._oracle.interface.input_shape))

    @property
    def answer(self) -> Answer:
        if not self._answers:
            raise AttackFailed("Not one row was answered, so there is nothing to learn from.")
        return Answer.concat(self._answers)

    def targets(self) -> Array:
        """(n, n_classes) training targets read off the answers."""
        return self.answer.soft(self._oracle.interface.n_classes)

    def keep(self, model: Model) -> Model:
        """Note the copy as it stands after the queries paid so far."""
        self.history.append((self.paid, model))
        return model


class Attack:
    """Settings are fields, needs are data. The kinds of attack (extraction, privacy) say what comes out of one."""

    name: ClassVar[str] = ""
    needs: ClassVar[Needs] = Needs()

    def _begin(self, oracle: Oracle, knowledge: Knowledge, watch: Watch | None) -> Harvest:
        """What the attack asks through. Raises NotApplicable, before the first query, when `needs` are not met."""
        if reason := self.needs.lacking(oracle.interface, knowledge, self.name or type(self).__name__):
            raise NotApplicable(reason)
        return Harvest(oracle, watch)
