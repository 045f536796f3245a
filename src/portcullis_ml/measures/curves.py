"""Learning curves: a copy's fidelity against the queries paid, and after how many a target is reached.

Viering, Loog. "The Shape of Learning Curves: A Review", IEEE TPAMI 2023 (the power law with an asymptote, section 4.1).

    power_law   fidelity = top - drop * queries ** -rate, at most 1 and never falling: three parameters, least squares
    monotone    isotonic regression on the logarithm of the queries, straight lines between: nothing beyond what was run

Both are fitted to single runs, each with its bit for every test row. The interval comes from a bootstrap: test rows are
drawn anew, the same for all runs, and so are the residuals of the runs about the curve, widened for the parameters
that were fitted. A residual holds what differs between seeds, and how badly the form fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Array, Estimate
from portcullis_ml.measures.statistics import from_draws

__all__ = ["FORMS", "Form", "Runs", "fidelity_at", "queries_to"]

Form = Literal["power_law", "monotone"]
FORMS = get_args(Form)
RATES = np.geomspace(0.05, 3.0, 60)  # exponents of the power law that are tried
PARAMETERS = {"power_law": 3, "monotone": 2}
LEAST = 3  # different numbers of queries without which no curve is fitted
Reached = Callable[
    [Array, Array, float], Array
]  # log queries (n,), fidelity (draws, n), target -> (draws,) log queries


@dataclass(frozen=True)
class Runs:
    """Thefts by one attack, each at a budget of its own.

    queries   (n,) paid by each run
    right     (n, rows) whether its copy agrees on each test row
    weights   (rows,) what a row counts, with a mean of 1
    """

    queries: Array
    right: NDArray[np.bool_]
    weights: Array

    def fidelity(self) -> Array:
        """(n,) agreement of each run."""
        return np.asarray(self.right @ self.weights / len(self.weights))


def queries_to(
    target: float, runs: Runs, *, form: Form = "power_law", rng: np.random.Generator, draws: int = 400
) -> Estimate:
    """After how many queries the target is expected, infinite where the curve never gets there; n counts runs.

    InputError where the runs have fewer than 3 different numbers of queries.
    """
    if not 0 < target < 1:
        raise ParameterError("target", "a fidelity above 0 and below 1, such as 0.8", target)
    if form not in FORMS:
        raise ParameterError("form", f"one of {', '.join(FORMS)}", form)
    if len(np.unique(runs.queries)) < LEAST:
        raise InputError(
            f"A curve needs runs with at least {LEAST} different numbers of queries; got "
            f"{len(np.unique(runs.queries))}. Allow more queries or more time."
        )
    logs, seen = np.log(runs.queries), runs.fidelity()
    reached = _on_power_law if form == "power_law" else _on_monotone
    value = float(np.exp(reached(logs, seen[None], target)[0]))
    moved = _resampled(runs, seen, fidelity_at(runs.queries, runs, form), PARAMETERS[form], draws, rng)
    found = np.exp(reached(logs, moved, target))
    return from_draws(value, found, len(seen), unit="runs")


def fidelity_at(queries: Array, runs: Runs, form: Form) -> Array:
    """(m,) the fitted curve at these queries; a monotone one is level outside of what was run."""
    logs, seen = np.log(runs.queries), runs.fidelity()
    if form == "monotone":
        order = np.argsort(logs, kind="stable")
        return np.asarray(np.interp(np.log(queries), logs[order], _rising(logs, seen[None])[0][order]))
    top, drop, rate = (part[0] for part in _power_law(logs, seen[None]))
    return np.asarray(top - drop * np.exp(-rate * np.log(queries)))


def _resampled(runs: Runs, seen: Array, fitted: Array, parameters: int, draws: int, rng: np.random.Generator) -> Array:
    """(draws, n) fidelities that might have been seen: other test rows, and other residuals."""
    n, rows = runs.right.shape
    share = rng.multinomial(rows, np.full(rows, 1 / rows), size=draws) * runs.weights
    by_rows = share @ runs.right.T / share.sum(axis=1, keepdims=True) - seen
    wider = math.sqrt(n / max(n - parameters, 1))
    return np.asarray(fitted + by_rows + wider * (seen - fitted)[rng.integers(n, size=(draws, n))])


def _power_law(logs: Array, seen: Array) -> tuple[Array, Array, Array]:
    """top, drop and rate (draws,) of the best curve for fidelities (draws, n): top at most 1, drop at least 0."""
    least = np.full(len(seen), math.inf)
    top, drop, rate = seen.mean(axis=1), np.zeros(len(seen)), np.ones(len(seen))
    for r in RATES:
        falling = np.exp(-r * logs)
        centred = falling - falling.mean()
        a = np.maximum(-(seen - seen.mean(axis=1, keepdims=True)) @ centred / (centred @ centred), 0.0)
        t = seen.mean(axis=1) + a * falling.mean()
        capped = np.maximum((1 - seen) @ falling / (falling @ falling), 0.0)
        t, a = np.where(t > 1, 1.0, t), np.where(t > 1, capped, a)
        error = ((seen - t[:, None] + a[:, None] * falling) ** 2).sum(axis=1)
        better = error < least
        least[better] = error[better]
        top[better], drop[better], rate[better] = t[better], a[better], r
    return top, drop, rate


def _on_power_law(logs: Array, seen: Array, target: float) -> Array:
    top, drop, rate = _power_law(logs, seen)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(drop / (top - target)) / rate
    return np.where(top > target, np.maximum(found, 0.0), math.inf)


def _rising(logs: Array, seen: Array) -> Array:
    """(draws, n) isotonic regression of each row on the logarithm of the queries, runs of equal queries pooled."""
    from sklearn.isotonic import IsotonicRegression

    return np.stack([IsotonicRegression().fit(logs, row).predict(logs) for row in seen])


def _on_monotone(logs: Array, seen: Array, target: float) -> Array:
    order = np.argsort(logs, kind="stable")
    at = logs[order]
    return np.array([_first(at, row[order], target) for row in _rising(logs, seen)])


def _first(at: Array, rising: Array, target: float) -> float:
    """Where a line through the points (at, rising) first reaches the target; infinite behind the last."""
    above = np.flatnonzero(rising >= target)
    if len(above) == 0:
        return math.inf
    i = int(above[0])
    if i == 0:
        return float(at[0])
    low, high = rising[i - 1], rising[i]
    return float(at[i - 1] + (at[i] - at[i - 1]) * (target - low) / (high - low))
