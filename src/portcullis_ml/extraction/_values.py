"""Numbers instead of classes: a linear regression solved exactly, and what a copy is held against where it is none.

A value is linear in the unknowns, w.x + b, so d + 1 points in general position determine a linear regression: one in
the middle of the inputs, and one step from it along every axis. Points that are held out say whether the victim is one.
"""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.extraction._grid import Ints
from portcullis_ml.models.auto_numbers import NumbersLearner
from portcullis_ml.models.encoding import Encoded, Encoding
from portcullis_ml.models.linear_values import LinearValues

__all__ = ["better_values", "numbers_surrogate", "solve_values"]

LINEAR = 1e-6  # a held-out answer further off than this, relative to the answers' range, is of no linear regression
SINGLE = 1e-4  # the same for answers in single precision
HELD_OUT = 5  # points at least that check a solution
FEWEST = 10  # rows set aside below which nothing can be compared
SHARE, MOST = 0.1, 200  # of what is left, and at most, that is set aside
LEARNED = 10_000  # rows at most that a surrogate is fitted to


def solve_values(
    harvest: Harvest, interface: Interface, pool: Array | None, held_out: int, rng: np.random.Generator
) -> Model:
    """The linear regression behind the answers, or what the rest of the budget makes of a victim that is none."""
    encoding = Encoding.of(interface, drop_first=True)
    harvest.ask(_axes(interface, encoding))
    bill = harvest.notes.setdefault("bill", {})
    bill["axes"] = harvest.paid
    before = len(harvest)
    harvest.ask(interface.uniform(min(max(held_out, HELD_OUT), harvest.left), rng))
    bill["held_out"] = harvest.paid - bill["axes"]
    x, y = harvest.x, _values(harvest)
    if len(y) < encoding.width + 1:
        raise AttackFailed("equation_solving was shut out before it had as many answers as unknowns.")
    copy = Encoded(encoding, LinearValues.fit(encoding(x[:before]), y[:before]))
    held = np.abs(copy.scores(x[before:])[:, 0] - y[before:])
    span = max(float(np.ptp(y)), float(np.finfo(float).tiny))
    linear = len(held) > 0 and bool((held <= span * (SINGLE if interface.precision == "float32" else LINEAR)).all())
    family = "linear" if linear else "not linear"
    harvest.notes |= {
        "linear": linear,
        "family": family,
        "residual": float((held / span).max(initial=0)),
        "copy": "w, b",
    }
    return copy if linear else _beyond(encoding, harvest, interface, pool, rng)


def _beyond(
    encoding: Encoding, harvest: Harvest, interface: Interface, pool: Array | None, rng: np.random.Generator
) -> Model:
    """Of a victim that is not linear, or whose answers are coarse or noisy: a linear fit to all answers or a surrogate,
    whichever predicts answers set aside better. Half of the questions are the pool's rows, where there are any."""
    n = harvest.left
    own = np.empty((0, *interface.input_shape)) if pool is None else pool[rng.permutation(len(pool))[: (n + 1) // 2]]
    asked = np.concatenate([own, interface.uniform(n - len(own), rng)])
    start = len(harvest)
    harvest.ask(asked[rng.permutation(len(asked))])
    harvest.notes["bill"]["points"] = n - harvest.left
    aside = np.arange(start, len(harvest))[: min(MOST, round(SHARE * (len(harvest) - start)))]
    rest = np.delete(np.arange(len(harvest)), aside)
    linear = Encoded(encoding, LinearValues.fit(encoding(harvest.x[rest]), _values(harvest)[rest]))
    return better_values("linear", linear, harvest, interface, aside, rng)


def better_values(
    name: str, copy: Model, harvest: Harvest, interface: Interface, aside: Ints, rng: np.random.Generator
) -> Model:
    """The copy, or a surrogate fitted to all rows of the harvest but those in `aside`, whichever is nearer to those."""
    harvest.notes["copy"] = name
    rest = np.delete(np.arange(len(harvest)), aside)
    aside = aside[harvest.answer.answered[aside]]
    if len(aside) < FEWEST or len(rest) < FEWEST:
        return copy
    surrogate = numbers_surrogate(harvest, interface, rng, rows=rest)
    x, y = harvest.x[aside], _values(harvest)[aside]
    errors = {n: _error(m, x, y) for n, m in ((name, copy), ("surrogate", surrogate))}
    harvest.notes["set_aside"] = {"rows": len(aside), **errors}
    if not errors["surrogate"] < errors[name]:
        return copy
    harvest.notes["copy"] = "surrogate"
    if chosen := getattr(surrogate, "chosen", None):
        harvest.notes["chosen"] = chosen
    return surrogate


def numbers_surrogate(
    harvest: Harvest, interface: Interface, rng: np.random.Generator, *, rows: Ints | None = None
) -> Model:
    """A surrogate fitted to these rows of the harvest, or to all, as far as they were answered and are whole."""
    known = harvest.answer.answered & ~np.isnan(harvest.x.reshape(len(harvest), -1)).any(axis=1)
    usable = np.flatnonzero(known) if rows is None else rows[known[rows]]
    if not len(usable):
        raise AttackFailed("Every row was withheld, so there is nothing to learn from. Try another account.")
    usable = rng.permutation(usable)[:LEARNED]
    return NumbersLearner().knowing(interface).fit(harvest.x[usable], harvest.targets()[usable], rng=rng)


def _axes(interface: Interface, encoding: Encoding) -> Array:
    """(width + 1, *input_shape) the middle of the inputs, and one step from it along every encoded column."""
    middle = np.where(encoding.categories > 0, 0.0, (interface.low + interface.high) / 2)
    rows = [middle]
    for j in np.flatnonzero(encoding.numeric):
        rows.append(np.where(np.arange(len(middle)) == j, interface.high, middle))
    for j in np.flatnonzero(encoding.categories > 1):
        rows += [np.where(np.arange(len(middle)) == j, v, middle) for v in range(1, encoding.categories[j])]
    return np.stack(rows).reshape(len(rows), *interface.input_shape)


def _values(harvest: Harvest) -> Array:
    return harvest.targets()[:, 0]


def _error(model: Model, x: Array, y: Array) -> float:
    """The mean absolute error, as a share of the answers' range; infinite where the model does not answer."""
    span = max(float(np.ptp(y)), float(np.finfo(float).tiny))
    error = float((np.abs(model.scores(x)[:, 0] - y) / span).mean())
    return error if np.isfinite(error) else float("inf")
