"""Scores for a wrong label that look like those of a right one: they are made of an earlier answer with that label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import Answer, Array, Floats

__all__ = ["as_given", "lookalike"]

CHANGED = 0.25  # standard deviation of what is added to the logarithms of an earlier answer's scores


def as_given(answer: Answer, clean: Answer) -> NDArray[np.bool_]:
    """(n,) rows of which all scores are still shown as the model gave them."""
    if answer.scores is None or clean.scores is None:
        return np.zeros(len(answer), bool)
    return np.asarray((answer.scores == clean.scores).all(axis=1))


def lookalike(label: int, was: int, scores: Array, honest: Array, noise: Noise, x: Floats) -> Array:
    """(c,) scores for a wrong label, of a question x (1, ...) that was answered with label `was` and `scores` (c,).

    They are those of one of the `honest` answers (m, c) with the wrong label, which the question chooses, a little
    changed, so that no two answers are equal; where there is none, the row's own with those of two classes exchanged.
    """
    like = honest[honest.argmax(axis=1) == label] if len(honest) else honest
    if not len(like):
        exchanged = scores.copy()
        exchanged[label], exchanged[was] = scores[was], scores[label]
        return exchanged
    drawn = noise.normal(np.asarray(x, np.float64), len(scores) + 1)[0]
    found: Array = like[int(abs(drawn[-1]) * 2**16) % len(like)]
    if not found.all():  # coarse scores, as those of trees: equal ones are common
        return found
    changed = np.exp(np.log(found) + CHANGED * drawn[:-1])
    changed /= changed.sum()
    top = int(changed.argmax())
    changed[label], changed[top] = changed[top], changed[label]
    single = bool((found.astype(np.float32) == found).all())  # the model computes in 32 bits
    return np.asarray(changed.astype(np.float32), np.float64) if single else np.asarray(changed)
