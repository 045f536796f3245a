"""Regression: how near a copy's numbers are to those of its victim, and both to the true targets.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs", USENIX Security 2016,
steals regression trees and counts equal leaves; a copy that is not exact is measured here as regressions are.

Threat model   none: the examiner holds both models and the true targets; no attack can import a ValueExam.
Query cost     none: these are questions of the examiner, not of the thief.

R^2 is the share of the variance of the victim's answers that the copy explains: 1 for the same numbers, 0 for whoever
always answers their mean, below 0 for worse. Errors are in the units of the target: RMSE, and the mean absolute error.
A row that a copy does not answer counts as the mean. On uniform points R^2 is withheld where the victim answers all of
them alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Estimate, Interface, Model
from portcullis_ml.measures.agreement import on_uniform
from portcullis_ml.measures.statistics import bootstrap, mean_of

__all__ = ["ValueCloseness", "ValueExam", "mean_error", "r_squared", "root_mean_square"]

DRAWS = 200  # resamples behind an interval that has no formula
FAR = 1e100  # half ranges of the victim's answers: a copy that is further off is taken to be so far off
BELOW: tuple[float, float] = (-math.inf, 1.0)


def r_squared(f: Array, g: Array, *, rng: np.random.Generator) -> Estimate:
    """1 - mean((f - g)^2) / var(f) of numbers (n,), with a bootstrap over the rows; NaN where all f are equal."""
    f, g, _ = _scaled(f, g)
    squared = (f - g) ** 2

    def share(rows: NDArray[np.int64]) -> float:
        variance = float(f[rows].var())
        return round(1 - float(squared[rows].mean()) / variance, 12) + 0.0 if variance > 0 else math.nan

    return bootstrap(share, len(f), rng=rng, draws=DRAWS, within=BELOW)


def root_mean_square(f: Array, g: Array, *, rng: np.random.Generator) -> Estimate:
    """The root of mean((f - g)^2), in the units of f, with a bootstrap over the rows."""
    f, g, half = _scaled(f, g)
    squared = (f - g) ** 2
    return bootstrap(
        lambda rows: half * math.sqrt(squared[rows].mean()), len(f), rng=rng, draws=DRAWS, within=(0, math.inf)
    )


def mean_error(f: Array, g: Array) -> Estimate:
    """mean(abs(f - g)), in the units of f, with Student's t interval."""
    f, g, half = _scaled(f, g)
    e = mean_of(abs(f - g), within=(0.0, math.inf))
    return Estimate(half * e.value, half * e.low, half * e.high, e.n, unit=e.unit)


def _scaled(f: Array, g: Array) -> tuple[Array, Array, float]:
    """f (n,) from -1 to 1, g (n,) on the same scale, and how many units are 1. Squares of huge numbers stay finite."""
    if len(f) != len(g):
        raise InputError(f"Two arrays that are compared must have one row for each input; got {len(f)} and {len(g)}.")
    if not len(f):
        return f, g, 1.0
    middle, half = f.min() / 2 + f.max() / 2, float(f.max() / 2 - f.min() / 2)
    half = half if half > 0 else max(abs(float(middle)), 1.0)
    with np.errstate(over="ignore"):
        near = np.clip((g - middle) / half, -FAR, FAR)
    f = (f - middle) / half
    return f, np.where(np.isnan(near), f.mean(), near), half


@dataclass(frozen=True, kw_only=True)
class ValueCloseness:
    """How near a copy's numbers are. What needs true targets is None without them. Errors are in the target's units."""

    r2: Estimate  # of the victim's answers on the test rows
    rmse: Estimate
    mae: Estimate
    r2_uniform: Estimate  # on uniform points, NaN where it would mean nothing
    mae_uniform: Estimate
    r2_truth: Estimate | None  # of the true targets
    rmse_truth: Estimate | None
    mae_truth: Estimate | None
    victim_r2: Estimate | None  # the victim's own, of the true targets
    victim_rmse: Estimate | None
    victim_mae: Estimate | None
    notes: tuple[str, ...] = ()
    per_class: tuple[Estimate, ...] = ()  # there are no classes

    def measures(self) -> dict[str, Estimate]:
        """The single figures by name, as a record keeps them; what was not measured is left out."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Estimate)}

    def remarks(self) -> dict[str, list[Any]]:
        """What the figures do not show, as a record keeps it."""
        return {"grading": list(self.notes)} if self.notes else {}


@dataclass(frozen=True)
class ValueExam:
    """The victim's half of the comparison, worked out once for any number of copies.

    x       (n, *input_shape) held-out rows
    true    (n,) their true targets, or None
    victim  (n, 1) what the undefended victim says of them
    seed    from which the same uniform points are drawn again
    """

    x: Array
    true: Array | None
    victim: Array
    interface: Interface
    seed: int
    victim_uniform: Array

    @classmethod
    def of(
        cls,
        victim: Model,
        x: Array,
        true: Array | None = None,
        *,
        interface: Interface,
        rng: np.random.Generator,
        points: int = 10_000,
    ) -> ValueExam:
        """Ask the victim about x and about `points` uniform points of the interface."""
        if len(x) == 0:
            raise InputError("An exam needs at least one held-out row; got none. Give a larger test set.")
        seed = int(rng.integers(2**63))
        return cls(x, true, victim.scores(x), interface, seed, on_uniform(victim, interface, seed, points))

    def grade(self, copy: Model, *, rng: np.random.Generator) -> ValueCloseness:
        """Everything that can be said of one copy."""
        f, g = self.victim[:, 0], copy.scores(self.x)[:, 0]
        uniform = on_uniform(copy, self.interface, self.seed, len(self.victim_uniform))
        f_uniform, g_uniform, true = self.victim_uniform[:, 0], uniform[:, 0], self.true
        flat = len(f_uniform) > 0 and bool((f_uniform == f_uniform[0]).all())
        notes = ("The victim answers all uniform points alike: R^2 on them is withheld.",) if flat else ()
        return ValueCloseness(
            r2=r_squared(f, g, rng=rng),
            rmse=root_mean_square(f, g, rng=rng),
            mae=mean_error(f, g),
            r2_uniform=r_squared(f_uniform, g_uniform, rng=rng),
            mae_uniform=mean_error(f_uniform, g_uniform),
            r2_truth=None if true is None else r_squared(true, g, rng=rng),
            rmse_truth=None if true is None else root_mean_square(true, g, rng=rng),
            mae_truth=None if true is None else mean_error(true, g),
            victim_r2=None if true is None else r_squared(true, f, rng=rng),
            victim_rmse=None if true is None else root_mean_square(true, f, rng=rng),
            victim_mae=None if true is None else mean_error(true, f),
            notes=notes,
        )

    def along(self, copy: Model, *, rng: np.random.Generator) -> dict[str, Estimate]:
        """What is said of a copy on the way."""
        g = copy.scores(self.x)[:, 0]
        return {"r2": r_squared(self.victim[:, 0], g, rng=rng), "mae": mean_error(self.victim[:, 0], g)}
