"""The shape of an extraction attack: what it needs, what it knows, what it brings home.

An author writes `steal`; needs, counting and the record are seen to once, in the final `__call__`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np

from portcullis_ml.core.errors import AttackFailed, BudgetExhausted, NotApplicable, Refused
from portcullis_ml.core.oracle import Oracle
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Answer, Array, Interface, Learner, Model, Reveals

__all__ = ["Extraction", "ExtractionAttack", "Harvest", "Knowledge", "Needs"]


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the thief has besides the API. Everything here is unlabelled by the victim, and free.

    pool         (n, *input_shape) natural inputs from wherever the thief found them
    pool_groups  (n,) the public grouping of the pool (its own labels), for bandit-style selection
    seeds        (n, *input_shape) a few inputs from the victim's own domain
    learner      the thief's training procedure
    """

    pool: Array | None = None
    pool_groups: np.ndarray | None = None
    seeds: Array | None = None
    learner: Learner | None = None


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

    def lacking(self, interface: Interface, knowledge: Knowledge, name: str) -> str | None:
        """One sentence that says what is not there, or None when the attack applies."""
        if self.task not in ("any", interface.task):
            return f"{name} needs a {self.task} API; this one does {interface.task}."
        if interface.task == "classification" and interface.reveals < self.answers:
            return (
                f"{name} needs {self.answers.word}; this API gives {interface.reveals.word}. "
                f"Try one of: portcullis list extraction --answers {interface.reveals.word}"
            )
        if self.missing and not interface.missing:
            return f"{name} needs incomplete queries; this API wants every input."
        if self.features and interface.features is None:
            return f"{name} needs a table with named features; this API takes plain arrays."
        for thing in ("pool", "seeds", "learner"):
            held = getattr(knowledge, thing)
            if getattr(self, thing) and (held is None or (thing != "learner" and len(held) == 0)):
                return f"{name} needs {_WORDS[thing]}; this attacker has none."
        return None


_WORDS = {"pool": "a pool of natural inputs", "seeds": "seed inputs from the domain", "learner": "a surrogate learner"}


@dataclass(frozen=True)
class Extraction:
    """What an attack brings home.

    model      the copy
    x, answer  the transfer set: every answered row and its answer, in the order asked
    queries    rows paid for, the refused ones included
    history    (queries so far, copy so far) at the end of every round, the last one included
    stopped    why it ended: "done", "budget" or the guard's reason
    notes      what an attack has to say for itself (residuals, classes seen, ...), JSON
    """

    model: Model
    x: Array
    answer: Answer
    queries: int
    history: tuple[tuple[int, Model], ...] = ()
    stopped: str = "done"
    notes: dict[str, Any] = field(default_factory=dict)


class Harvest:
    """A thief's notebook: asks, keeps what was answered, and knows when the game is over.

    Cuts a batch to what is left, keeps the rows that a closing guard still answered, and never
    raises for an empty purse or a closed door: look at `open`.
    """

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._x: list[Array] = []
        self._answers: list[Answer] = []
        self.stopped = "done"
        self.history: list[tuple[int, Model]] = []
        self.notes: dict[str, Any] = {}
        self.paid = 0

    @property
    def open(self) -> bool:
        """Whether another row can be asked."""
        return self.stopped == "done" and self._oracle.left > 0

    @property
    def left(self) -> int:
        return self._oracle.left if self.stopped == "done" else 0

    def ask(self, x: Array) -> Answer:
        """Query as many rows at the head of x as can be paid for; the answer to those that were answered."""
        x = x[: self.left]
        answer = None
        if len(x):
            self.paid += len(x)
            try:
                answer = self._oracle.query(x)
            except BudgetExhausted:  # somebody else spends from the same purse
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

    def demand(self, x: Array) -> Answer:
        """As `ask`, for an attack that can do nothing with less than all of x.

        Raises BudgetExhausted (nothing is sent) or Refused.
        """
        if self.stopped == "done" and len(x) > self.left:
            raise BudgetExhausted(len(x), self.left)
        answer = self.ask(x)
        if len(answer) < len(x):
            raise Refused(self.stopped)
        return answer

    def _nothing(self) -> Answer:
        columns = max(self._oracle.interface.n_classes, 1)
        shows_scores = self._oracle.interface.reveals > Reveals.LABELS or columns == 1
        return Answer(None if columns == 1 else np.empty(0, np.int64), np.empty((0, columns)) if shows_scores else None)

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


@dataclass(frozen=True, kw_only=True)
class ExtractionAttack(ABC):
    """An extraction attack: settings are fields, the algorithm is `steal`, all else happens here.

    `steal` asks through `harvest` and returns the copy. It touches nothing of the victim but the answers.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[Needs] = Needs()

    @abstractmethod
    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        """Return a copy of the model behind the harvest's oracle."""

    @final
    def __call__(
        self,
        oracle: Oracle,
        knowledge: Knowledge,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None] | None = None,
    ) -> Extraction:
        """Run the attack until it is done or the budget or the guard ends it.

        watch(paid, budget) is called after every batch, for progress bars. Raises NotApplicable before
        the first query when `needs` are not met, AttackFailed when no copy could be made.
        """
        reason = self.needs.lacking(oracle.interface, knowledge, self.name or type(self).__name__)
        if reason:
            raise NotApplicable(reason)
        harvest = _Watched(oracle, watch) if watch else Harvest(oracle)
        model = self.steal(harvest, oracle.interface, knowledge, rng)
        if not harvest.history or harvest.history[-1][1] is not model:
            harvest.keep(model)
        stopped = "budget" if harvest.stopped == "done" and oracle.left == 0 else harvest.stopped
        return Extraction(
            model, harvest.x, harvest.answer, harvest.paid, tuple(harvest.history), stopped, harvest.notes
        )

    def describe(self) -> dict[str, Any]:
        return describe(self)


class _Watched(Harvest):
    """A notebook that somebody looks over the shoulder of."""

    def __init__(self, oracle: Oracle, watch: Callable[[int, int], None]) -> None:
        super().__init__(oracle)
        self._watch = watch

    def ask(self, x: Array) -> Answer:
        answer = super().ask(x)
        self._watch(self.paid, self.paid + self.left)
        return answer
