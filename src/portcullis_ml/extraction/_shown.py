"""What can be read off an answer that shows some scores and hides others."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.types import Answer, Array

__all__ = ["spread"]


def spread(answer: Answer, n_classes: int) -> Array:
    """(n, n_classes) distributions: shown scores as they are, what they leave to 1 shared evenly among the hidden.

    No hidden score is above the least that is shown, or it would have been shown instead. With two classes, one score
    tells the other. Where no score is shown, or all are, this is `Answer.soft`.
    """
    soft = answer.soft(n_classes)
    if answer.scores is None:
        return soft
    hidden = np.isnan(answer.scores)
    partly = hidden.any(axis=1) & ~hidden.all(axis=1)
    shown = np.where(hidden, 0.0, np.clip(answer.scores, 0.0, None))
    rest = np.clip(1.0 - shown.sum(axis=1), 0.0, None) / np.maximum(hidden.sum(axis=1), 1)
    least = np.where(hidden, np.inf, shown).min(axis=1)
    filled = np.where(hidden, np.minimum(rest, least)[:, None], shown)
    total = filled.sum(axis=1)
    usable = partly & (total > 0)
    soft[usable] = filled[usable] / total[usable, None]
    return soft
