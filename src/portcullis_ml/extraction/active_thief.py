"""ActiveThief: ask the pool rows that teach the copy most, a few at a time.

Pal, Gupta, Shukla, Kanade, Shevade, Ganapathy. "ActiveThief: Model Extraction Using Active Learning and Unannotated
Public Data", AAAI 2020, sections 4 and 5.

Threat model   answers: any; labels are enough.  data: a pool of natural inputs from anywhere, unlabelled.
Query cost     the whole budget, `validation` of it for rows that are never trained on.

Rows asked at random first, then rounds of equal size: a copy is trained from scratch on what has been answered, looks
at the rest of the pool, and its owner asks what it says least about. `uncertainty` takes the rows of the greatest
entropy, `k_centre` those whose predictions lie farthest from the ones of rows asked already, `dfal` those that DeepFool
moves to another class in the shortest way, and `dfal_k_centre` spreads its choice among the nearest.

The copies of the rounds only choose rows, so a learner that has a rougher version of itself trains that for them; the
last copy is trained by the learner itself. DeepFool needs gradients: for a copy that has none, and for tables with
categories, the lead of its most probable class stands in for the distance, and the notes say so. The authors set 20%
of the budget aside to stop training by; our learners set rows of theirs aside by themselves, so by default none are
asked for that. With `validation` the copy of the best round is returned, by its macro F1 on those rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Differentiable, Interface, Learner, Model
from portcullis_ml.extraction._rounds import Rounds, largest
from portcullis_ml.extraction._selection import deepfool_distance, entropy, k_centre, margin

__all__ = ["ActiveThief"]

STRATEGIES = ("uncertainty", "k_centre", "dfal", "dfal_k_centre")


@dataclass(frozen=True, kw_only=True)
class ActiveThief(ExtractionAttack):
    strategy: Literal["uncertainty", "k_centre", "dfal", "dfal_k_centre"] = "k_centre"  # which rows are asked next
    rounds: int = 10  # after the first, random one
    first: float = 0.125  # share of the budget, less validation, that the random start takes (the authors' 10 of 80)
    validation: float = 0.0  # share of the budget for rows that only compare the copies of the rounds (theirs: 0.2)
    candidates: int | None = None  # rows among which dfal_k_centre spreads its choice; None: as many as the budget
    look: int = 2000  # rows at most that DeepFool is run on in a round: those where the copy's lead is smallest

    name: ClassVar[str] = "active_thief"
    needs: ClassVar[Needs] = Needs(pool=True, learner=True, numeric=False)

    def __post_init__(self) -> None:
        check(self, "strategy", f"one of {', '.join(STRATEGIES)}", lambda v: v in STRATEGIES)
        check(self, "rounds", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "first", "in (0, 1)", lambda v: 0 < v < 1)
        check(self, "validation", "in [0, 1)", lambda v: 0 <= v < 1)
        check(self, "candidates", "an int, at least 1, or None", lambda v: v is None or (isinstance(v, int) and v >= 1))
        check(self, "look", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.pool is not None
        assert knowledge.learner is not None  # `needs` says so
        thief = _Thief(self, harvest, interface, knowledge.pool, knowledge.learner, rng)
        budget = min(harvest.left, len(knowledge.pool))
        rounds = thief.rounds
        rounds.ask_aside(round(self.validation * budget))
        budget -= rounds.aside
        ends = np.linspace(self.first * budget, budget, self.rounds + 1).round().astype(int)
        rounds.ask(rounds.waiting[: max(ends[0], 1)])
        for end in ends[1:]:
            if harvest.open and len(rounds.waiting) and end > rounds.trained_on:
                copy = thief.copy(rough=True)
                rounds.ask(thief.choose(copy, min(end - rounds.trained_on, len(rounds.waiting))))
        return thief.best()


class _Thief:
    """The rounds, and the copies made of what they bring."""

    def __init__(
        self,
        plan: ActiveThief,
        harvest: Harvest,
        interface: Interface,
        pool: Array,
        learner: Learner,
        rng: np.random.Generator,
    ) -> None:
        self._plan, self._harvest, self._interface = plan, harvest, interface
        self._learner, self._rng = learner, rng
        self._copies: list[Model] = []
        self.rounds = Rounds(harvest, pool, rng)
        harvest.notes["strategy"] = plan.strategy

    def copy(self, *, rough: bool) -> Model:
        """A model trained from scratch on all rows but those for validation."""
        learner = getattr(self._learner, "rough", lambda: self._learner)() if rough else self._learner
        x, targets = self.rounds.answered()
        copy: Model = learner.fit(x, targets, rng=self._rng)
        self._copies.append(copy)
        return self._harvest.keep(copy)

    def best(self) -> Model:
        """The copy of all rows, or that of an earlier round where it does better on the rows for validation."""
        self.copy(rough=False)
        return self.rounds.best(self._copies)

    def choose(self, copy: Model, k: int) -> NDArray[np.int64]:
        """k of the waiting rows."""
        waiting, p = self.rounds.waiting, self.rounds.scores(copy)
        if self._plan.strategy == "uncertainty":
            return waiting[largest(entropy(p), k)]
        if self._plan.strategy == "k_centre":
            return waiting[k_centre(p, copy.scores(self._harvest.x), k)]
        near = largest(-self._distance(copy, p, k), k if self._plan.strategy == "dfal" else self._spread_over(k))
        if self._plan.strategy == "dfal":
            return waiting[near]
        return waiting[near[k_centre(p[near], copy.scores(self._harvest.x), k)]]

    def _spread_over(self, k: int) -> int:
        """Rows from which k-centre picks k."""
        return max(k, self._plan.candidates or len(self._harvest) + self._harvest.left)

    def _distance(self, copy: Model, p: Array, k: int) -> Array:
        """(waiting,) how near each row is to another class, the nearest lowest; rows not looked at come last."""
        lead = margin(p)
        words = any(f.categorical for f in self._interface.features or ())
        if words or not isinstance(copy, Differentiable):
            self._harvest.notes["distance"] = "the lead of the most probable class: no gradients"
            return lead
        looked = largest(-lead, max(k, self._plan.look))
        shape = self._interface.input_shape
        low, high = self._interface.low.reshape(shape), self._interface.high.reshape(shape)
        found = 1e9 + lead
        found[looked] = deepfool_distance(copy, self.rounds.pool[self.rounds.waiting[looked]], low, high)
        return found
