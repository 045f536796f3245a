"""How good explanations are: what is left of a class's score where only what they point at is shown.

Chattopadhay, Sarkar, Howlader, Balasubramanian. "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep
Convolutional Networks", WACV 2018, the section on average drop; Lee, Han, Lee, IJCAI 2022, whose talk has no
positive part and asks for the top p% of the attributed places.

Threat model   none: it compares explanations with the model that they are of.
Query cost     none; the model is the owner's.

Average drop is the mean of (y - y') / y, y being a class's score on the row and y' that on the row with every place but
the top share set to `fill`. A small map is laid over the picture by repeating its nearest place. With `positive` a row
whose score rises counts as 0, as in the class activation papers; without it counts below 0, as in the talk. The
rank correlation says how much of the order of the places another explanation of the same rows has kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array, Estimate, Labels, Model
from portcullis_ml.measures.statistics import mean_of
from portcullis_ml.models.networks import channels_first, image_shape

__all__ = ["average_drop", "order_kept", "shown_alone"]


def average_drop(
    model: Model,
    x: Array,
    classes: Labels,
    explanations: Array,
    *,
    share: float = 0.5,
    fill: float = 0.0,
    positive: bool = False,
) -> Estimate:
    """The average drop over rows x (n, *input_shape), classes (n,) and explanations, maps (n, h, w) or shaped as x.

    share is the part of the places that stays; at least one place does.
    """
    if len(x) == 0 or len(explanations) != len(x) or len(classes) != len(x):
        sizes = (len(x), len(classes), len(explanations))
        raise InputError(f"Average drop needs a class and an explanation for each of some rows; got {sizes}.")
    rows = np.arange(len(x))
    before = model.scores(x)[rows, classes]
    after = model.scores(shown_alone(x, explanations, share=share, fill=fill))[rows, classes]
    drops = (before - after) / np.maximum(before, 1e-12)
    return mean_of(np.maximum(drops, 0.0) if positive else drops)


def shown_alone(x: Array, explanations: Array, *, share: float, fill: float = 0.0) -> Array:
    """x (n, *input_shape) with all but the top share of the places that explanations point at set to `fill`."""
    if not 0 < share <= 1:
        raise ParameterError("share", "a number above 0 and at most 1", share)
    kept = _top(explanations, share)
    shape = x.shape[1:]
    if kept.shape[1:] != shape:
        if kept.ndim != 3 or len(shape) not in (2, 3):
            raise InputError(f"Explanations of {shape} rows must have that shape or be maps (h, w); got {kept.shape}.")
        height, breadth, _ = image_shape(shape)
        down = np.arange(height) * kept.shape[1] // height
        along = np.arange(breadth) * kept.shape[2] // breadth
        kept = kept[:, down][:, :, along]
        if len(shape) == 3:
            kept = kept[:, None] if channels_first(shape) else kept[..., None]
    return np.where(kept, x, fill)


def order_kept(before: Array, after: Array) -> Estimate:
    """The mean Spearman correlation of two explanations (n, ...) of the same rows; rows that are constant in either
    count as 0."""
    from scipy.stats import rankdata

    ranks = [rankdata(part.reshape(len(part), -1), axis=1) for part in (before, after)]
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return mean_of((a * b).sum(axis=1) / np.where(size > 0, size, np.inf), within=(-1.0, 1.0))


def _top(explanations: Array, share: float) -> NDArray[np.bool_]:
    """(n, ...) the top share of each explanation's places; of equal ones the first."""
    flat = explanations.reshape(len(explanations), -1)
    stay = max(1, round(share * flat.shape[1]))
    order = np.argsort(-flat, axis=1, kind="stable")[:, :stay]
    kept = np.zeros(flat.shape, bool)
    np.put_along_axis(kept, order, True, axis=1)
    return kept.reshape(explanations.shape)
