"""The shape of an extraction attack: an author writes `steal`, all else is seen to once, in the final `__call__`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from portcullis_ml.core.attack import Attack, Harvest, Knowledge, Watch
from portcullis_ml.core.oracle import Oracle
from portcullis_ml.core.types import Answer, Array, Interface, Model

__all__ = ["Extraction", "ExtractionAttack"]


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


@dataclass(frozen=True, kw_only=True)
class ExtractionAttack(Attack, ABC):
    """An extraction attack: settings are fields, the algorithm is `steal`.

    `steal` asks through `harvest` and returns the copy. It touches nothing of the victim but the answers.
    """

    @abstractmethod
    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        """Return a copy of the model behind the harvest's oracle."""

    @final
    def __call__(
        self, oracle: Oracle, knowledge: Knowledge, *, rng: np.random.Generator, watch: Watch | None = None
    ) -> Extraction:
        """Run the attack until it is done or the budget or the guard ends it. Raises NotApplicable before the first
        query when `needs` are not met, AttackFailed when no copy could be made."""
        harvest = self._begin(oracle, knowledge, watch)
        model = self.steal(harvest, oracle.interface, knowledge, rng)
        if not harvest.history or harvest.history[-1][1] is not model:
            harvest.keep(model)
        return Extraction(
            model, harvest.x, harvest.answer, harvest.paid, tuple(harvest.history), harvest.ended, harvest.notes
        )
