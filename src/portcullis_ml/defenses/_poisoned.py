"""What defenses share that change the probabilities of an answer, and with them perhaps its label."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import WITHHELD, Answer, Array, Interface, Request

__all__ = ["Poisoned", "as_distributions", "moved", "needs_classes", "replaced", "whole_rows"]

TINY = 1e-12


class Poisoned(Defense[None]):
    """Replaces whole probability vectors by others. The label becomes the most likely class of what is shown; where
    labels alone are shown, nothing is done, so put it before a stage that hides scores."""

    def bind(self, interface: Interface) -> Self:
        needs_classes(self.name, interface)
        return self

    @abstractmethod
    def poisoned(self, x: Array, y: Array, noise: Noise) -> Array:
        """(n, c) what is shown in place of the probabilities y (n, c) of rows x; a function of each row by itself."""

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        whole = whole_rows(self.name, answer)
        if answer.scores is None or not whole.any():
            return answer
        return replaced(answer, whole, self.poisoned(request.x[whole], answer.scores[whole], noise))


def needs_classes(name: str, interface: Interface) -> None:
    """NotApplicable, in the stage's name, where answers have no classes."""
    if interface.task == "regression":
        raise NotApplicable(f"{name} needs an API that predicts classes; this one does regression. Leave it out.")


def whole_rows(name: str, answer: Answer) -> NDArray[np.bool_]:
    """(n,) which rows of an answer have a label and every score. NotApplicable, in the stage's name, for regression."""
    if answer.labels is None:
        raise NotApplicable(f"{name} needs an API that predicts classes; this one does regression.")
    if answer.scores is None:
        return np.zeros(len(answer), bool)
    return np.asarray(np.isfinite(answer.scores).all(axis=1) & (answer.labels != WITHHELD))


def replaced(answer: Answer, rows: NDArray[np.bool_], shown: Array) -> Answer:
    """The answer with other distributions in these rows, and their most likely classes as labels."""
    assert answer.scores is not None  # `whole_rows` found none otherwise
    assert answer.labels is not None
    scores, labels = answer.scores.copy(), answer.labels.copy()
    scores[rows] = shown
    top, was = shown.max(axis=1), labels[rows]
    kept = shown[np.arange(len(shown)), was] >= top - TINY  # a tie changes no label
    labels[rows] = np.where(kept, was, shown.argmax(axis=1))
    return Answer(labels, scores, answer.explanation)


def as_distributions(values: Array) -> Array:
    """(n, c) numbers of 0 or more, divided by their sums; rows of zeros become uniform."""
    total = values.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > TINY, values / np.maximum(total, TINY), 1 / values.shape[1]))


def moved(y: Array, towards: Array, eps: float) -> Array:
    """(n, c) y moved towards other distributions, as far as a distance of eps in L1 allows."""
    distance = np.abs(y - towards).sum(axis=1, keepdims=True)
    share = np.minimum(1.0, eps / np.maximum(distance, TINY))
    return np.asarray((1 - share) * y + share * towards)
