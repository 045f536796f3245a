"""Blind walks as lists of questions: a row, and the row moved a fixed way along fixed random directions.

Whoever asks only whether each question is answered with the row's class needs nothing else to know how far a walk goes
before the class changes, up to the distance between two questions. Nothing depends on an answer, so that a walk can be
committed to before anybody is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.types import Array, Interface, Model, Rows

__all__ = ["KINDS", "directions", "moved", "sizes"]

KINDS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "linf": lambda rng, n: rng.uniform(-1, 1, n),
    "l2": lambda rng, n: rng.normal(size=n),
    "l1": lambda rng, n: rng.laplace(size=n),
}
GRID = np.geomspace(0.002, 2.0, 31)  # sizes that are tried on the victim, in shares of an input's range


def directions(interface: Interface, rng: np.random.Generator) -> Array:
    """(3, *input_shape) a direction of each kind, in units of an input's range. Categories stay as they are."""
    ranges = interface.high - interface.low
    for j, feature in enumerate(interface.features or ()):
        ranges[j] = 0.0 if feature.categorical else ranges[j]
    return np.array([(draw(rng, len(ranges)) * ranges).reshape(interface.input_shape) for draw in KINDS.values()])


def moved(x: Array, direction: Array, size: float, interface: Interface) -> Array:
    """Rows (*input_shape), or (n, *input_shape), moved so far along a direction, within the interface's bounds."""
    low, high = (bound.reshape(interface.input_shape) for bound in (interface.low, interface.high))
    return np.clip(x + size * direction, np.minimum(low, x), np.maximum(high, x))


def sizes(
    victim: Model, rows: Rows, interface: Interface, shares: Sequence[float], rng: np.random.Generator
) -> dict[str, list[float]]:
    """For each kind, how far a walk goes until the victim has kept only such shares of its right answers.

    rows   that the victim answers, with their classes; those that it gets wrong play no part
    """
    right = victim.scores(rows.x).argmax(axis=1) == rows.y
    if not right.any():
        raise NotApplicable(f"A walk starts at a right answer, and the victim has none on {len(rows)} rows.")
    x, y = rows.x[right], rows.y[right] if rows.y is not None else None
    ways = np.array([directions(interface, rng) for _ in x])
    found = {}
    for i, kind in enumerate(KINDS):
        kept = np.array([(victim.scores(moved(x, ways[:, i], s, interface)).argmax(axis=1) == y).mean() for s in GRID])
        kept = np.minimum.accumulate(kept)
        if kept[-1] > min(shares):
            raise NotApplicable(
                f"Noise was expected to change the victim's answers; {kept[-1]:.0%} stay whatever their numbers are. "
                "dataset_inference needs inputs that can be moved: numbers, not categories."
            )
        found[kind] = [float(np.interp(-share, -kept, GRID)) for share in shares]
    return found
