"""The search for conferrable examples: near a natural row, what copies of a victim and no independent models answer.

S and R are the mean probabilities that copies and reference models give a target class. A question is worth S (1 - R).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.types import Array, Differentiable, Interface, Labels, Model

__all__ = ["searched", "starts", "worth_of"]

STEPS = 20  # of the search
LEVELS = 255  # pictures move in steps of 8-bit pixels
LEAST = 1e-3  # keeps 1 - R away from 0


def starts(copies: Sequence[Model], references: Sequence[Model], natural: Array, each: int) -> tuple[Labels, Labels]:
    """(m,) rows to start from and (m,) their targets: for every class the rows, not of that class by the reference
    models, where S (1 - R) is greatest already."""
    s, r = (np.mean([m.scores(natural) for m in models], axis=0) for models in (copies, references))
    worth = s * (1 - r)
    worth[np.arange(len(natural)), r.argmax(axis=1)] = -1
    order = np.argsort(-worth, axis=0, kind="stable")[:each]
    at, targets = order.T.reshape(-1), np.repeat(np.arange(s.shape[1]), len(order))
    other = worth[at, targets] >= 0
    return at[other], targets[other]


def searched(
    copies: Sequence[Differentiable],
    references: Sequence[Differentiable],
    start: Array,
    targets: Labels,
    interface: Interface,
    eps: float,
) -> Array:
    """(m, *input_shape) within eps of the starts: steps along the sign of the gradient of log S + log (1 - R)."""
    low, high = (np.broadcast_to(b.reshape(start.shape[1:]), start.shape) for b in (interface.low, interface.high))
    codes = np.array([f.categorical for f in interface.features or ()] or [False])
    free = (low < high) & ~codes  # a category cannot be moved part of the way
    if not free.any():
        raise NotApplicable("conferrable moves numbers a little; this table has categories only.")
    width = np.where(free, high - low, 0.0)
    floor, ceiling = np.maximum(start - eps * width, low), np.minimum(start + eps * width, high)
    floor, ceiling = np.minimum(floor, start), np.maximum(ceiling, start)  # a row outside the bounds stays where it is
    x = start.copy()
    for _ in range(STEPS):
        gradient = np.zeros_like(x)
        for model, weight in _pulls(copies, references, x, targets):
            weights = np.zeros((len(x), model.n_classes))
            weights[np.arange(len(x)), targets] = weight
            gradient += width * model.input_gradient(x, weights, of="log_probs")
        x = np.clip(x + 2.5 * eps / STEPS * width * np.sign(gradient), floor, ceiling)
    if interface.features is None and start.ndim > 2:
        moved = np.divide(x - start, width, out=np.zeros_like(x), where=width > 0)
        x = start + width * np.trunc(LEVELS * moved + 1e-9 * np.sign(moved)) / LEVELS
    return x


def _pulls(
    copies: Sequence[Differentiable], references: Sequence[Differentiable], x: Array, targets: Labels
) -> Iterator[tuple[Differentiable, Array]]:
    """Each model with (m,) how much its log-probability of the target counts in the gradient of log S + log (1 - R)."""
    s, r = (np.array([_of(m, x, targets) for m in models]) for models in (copies, references))
    yield from zip(copies, s / (s.sum(axis=0) + 1e-12), strict=True)
    yield from zip(references, -r / ((1 - r).sum(axis=0) + LEAST), strict=True)


def worth_of(copies: Sequence[Model], references: Sequence[Model], x: Array, targets: Labels) -> Array:
    """(m,) S (1 - R) of the targets."""
    s, r = (np.mean([_of(m, x, targets) for m in models], axis=0) for models in (copies, references))
    return np.asarray(s * (1 - r))


def _of(model: Model, x: Array, targets: Labels) -> Array:
    """(m,) the probability that a model gives each row's target."""
    return np.asarray(model.scores(x)[np.arange(len(x)), targets])
