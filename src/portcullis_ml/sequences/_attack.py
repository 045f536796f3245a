"""The shape of an attack on a generative model of text: what it is given, how it asks, what it is billed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np

from portcullis_ml.core.privacy import Leakage
from portcullis_ml.models.sequences import Counted, SequenceModel

__all__ = ["SequenceAttack", "SequenceKnowledge"]


@dataclass(frozen=True, kw_only=True)
class SequenceKnowledge:
    """What the attacker has besides the model.

    references  other models of text with the same tokenizer, "small" and "medium": what they find likely is no secret
    prompts     text that is like the training text and was not trained on
    """

    references: Mapping[str, SequenceModel] = field(default_factory=dict)
    prompts: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class SequenceAttack(ABC):
    """Settings are fields, the algorithm is `infer`. It never learns what was trained on."""

    name: ClassVar[str] = ""

    @abstractmethod
    def infer(
        self, model: Counted, candidates: Sequence[str], knowledge: SequenceKnowledge, rng: np.random.Generator
    ) -> Leakage:
        """Ask the model; `candidates` are texts that may have been trained on."""

    @final
    def __call__(
        self,
        model: Any,
        candidates: Sequence[str] = (),
        *,
        references: Mapping[str, SequenceModel] | None = None,
        prompts: Sequence[str] = (),
        rng: np.random.Generator,
        budget: int | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Leakage:
        """Run the attack; see `SequenceKnowledge` for what it may be given, `Counted` for budget and watch.

        Its `queries` are next-token distributions; references are the attacker's own and free. InputError where the
        model gives no log-probabilities, BudgetExhausted where the attack needs more queries than that.
        """
        counted = Counted(model, budget, watch)
        knowledge = SequenceKnowledge(references=references or {}, prompts=prompts)
        leakage = self.infer(counted, candidates, knowledge, rng)
        return replace(leakage, queries=counted.queries)
