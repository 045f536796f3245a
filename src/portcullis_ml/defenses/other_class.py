"""Other class: answer with the second or third most likely class, as if a boundary had been crossed.

Juuti, Szyller, Marchal, Asokan. "PRADA: Protecting Against DNN Model Stealing Attacks", IEEE EuroS&P
2019, section 5 (what to do on an alarm).

Costs the honest client   every label, if the alarm was false; use it behind a `Watch` only.
Does not stop             a thief who notices that their copy knows better, or who learns the class left out.

Which of the two it is depends on the question and the guard's key: the same question gets the same
answer, so that repeats do not give the true class away. The scores of the served and the true class
change places, so the row remains a distribution whose greatest score is the served class's. An
explanation would speak for the true class, so none is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import WITHHELD, Answer, Array, Interface, Request
from portcullis_ml.defenses._poisoned import needs_classes

__all__ = ["OtherClass"]


@dataclass(frozen=True, kw_only=True)
class OtherClass(Defense[None]):
    name: ClassVar[str] = "other_class"
    same_for_all: ClassVar[bool] = True

    def bind(self, interface: Interface) -> Self:
        needs_classes(self.name, interface)
        return self

    def shown(self, interface: Interface) -> Interface:
        return interface.revealing(explains=False)

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        if answer.labels is None or clean.scores is None:
            raise NotApplicable("other_class needs a model that gives the probabilities of classes, to rank them.")
        ranked = np.argsort(-clean.scores, axis=1, kind="stable")  # ties: the lower class first, as the label has it
        rank = 1 + (noise.integers(request.x, 2) if ranked.shape[1] > 2 else np.zeros(len(ranked), np.int64))
        served = np.take_along_axis(ranked, rank[:, None], axis=1)[:, 0]
        served = np.where(answer.labels == WITHHELD, WITHHELD, served)
        scores = None if answer.scores is None else _exchange(answer.scores, answer.labels, served)
        hidden = None if answer.explanation is None else np.full_like(answer.explanation, np.nan)
        return Answer(served, scores, hidden)


def _exchange(scores: Array, was: np.ndarray, now: np.ndarray) -> Array:
    """(n, c) scores with those of two classes of each row in each other's place; withheld rows as they were."""
    exchanged = scores.copy()
    rows = np.flatnonzero(was != WITHHELD)
    exchanged[rows, now[rows]] = scores[rows, was[rows]]
    exchanged[rows, was[rows]] = scores[rows, now[rows]]
    return exchanged
