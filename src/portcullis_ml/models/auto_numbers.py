"""A learner for answers that are numbers: it weighs families of regressions by answers that it sets aside.

As `auto.py` does for classes. Several families are fitted to a part of the rows and predict the rest, where weights of
at least 0 are found whose sum of predictions is nearest to the answers. A blend of at most three families is fitted to
all rows, or one family where that does as well. Answers are scaled to -1 to 1 first: their unit does not matter.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Array, Interface, Model
from portcullis_ml.models.auto import FEW, NETWORKS, SMALL, WIDE, encoding_of, splits
from portcullis_ml.models.boosters import installed, needed
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.families import FAMILIES, SINGLE, Fitted, fit_values
from portcullis_ml.models.quantiles import QuantileEncoding

__all__ = ["NumbersLearner", "NumbersModel"]

COMPARED = 1500  # rows at most that take part in choosing
BLENDED = 3  # families at most in a blend
SMALLEST = 0.05  # of the sum of the weights: families below it are left out
GAIN = 0.9  # a blend must bring the squared error below this share of the best family's
EXACT = 1e-12  # of the answers' variance: a family so near to them is exact, and no blend is better
ROUGH = ("boosted",)
USABLE = tuple(name for name in FAMILIES if FAMILIES[name].regressor is not None and name != "words")


class NumbersModel:
    """A weighted sum of fitted regressions; `chosen` says which, and how each did on the rows set aside."""

    def __init__(
        self,
        shape: tuple[int, ...],
        encoding: QuantileEncoding,
        parts: Sequence[tuple[Fitted, float]],
        scale: tuple[float, float],
        chosen: Any,
    ) -> None:
        self.input_shape = shape
        self.n_classes = 0
        self.chosen: dict[str, Any] = chosen
        self._encoding = encoding
        self._parts = list(parts)
        self._scale = scale

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, 1) values."""
        if len(x) == 0:
            return np.empty((0, 1))
        z, (middle, half) = self._encoding(x), self._scale
        return np.asarray(middle + half * sum(weight * part(z) for part, weight in self._parts))


@dataclass(frozen=True, kw_only=True)
class NumbersLearner:
    """Chooses among families of regressions by rows set aside; always a new model, a function of (x, targets, rng)."""

    families: tuple[str, ...] = ()  # to choose among; none named: those that suit the number of rows

    interface: Interface | None = field(default=None, init=False, compare=False)  # tells categories from numbers
    title: ClassVar[str] = "auto_numbers"
    numbers: ClassVar[bool] = True  # it learns from the answers of a regression

    def __post_init__(self) -> None:
        known = ", ".join(USABLE)
        check(self, "families", f"a tuple of {known}", lambda v: isinstance(v, tuple) and set(v) <= set(USABLE))

    def knowing(self, interface: Interface) -> NumbersLearner:
        """The same learner, told what the columns are."""
        return bound(self, interface=interface)

    def rough(self) -> NumbersLearner:
        """One family, fitted at once: for copies that only say what to ask next."""
        rough = replace(self, families=ROUGH)
        return rough if self.interface is None else rough.knowing(self.interface)

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        """x (n, *input_shape), targets (n, 1) numbers; rows whose target is NaN are left out."""
        needed(self.families)
        x, y = np.asarray(x, np.float64), np.asarray(targets, np.float64)
        known = ~np.isnan(y.reshape(len(y), -1)).any(axis=1)
        if y.shape != (len(x), 1) or not known.any():
            raise InputError(f"Targets were expected to be ({len(x)}, 1) numbers, some of them known; got {y.shape}.")
        x, y, seed = x[known], y[known], int(rng.integers(2**31))
        low, high = float(y.min()), float(y.max())
        middle, half = low / 2 + high / 2, high / 2 - low / 2  # halved first: their difference may not be finite
        if half == 0:
            return ConstantModel(x.shape[1:], y[0].copy())
        encoding, _ = encoding_of(x, self.interface)
        z = encoding(x)
        groups = encoding.groups if z.shape[1] <= WIDE else np.zeros(z.shape[1], np.int64)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a fit that does not converge shows in its score
            rows = _Rows(z, (y - middle) / half, groups, seed)
            weights, table = rows.choose(self._candidates(z), rng)
            fits = {name: rows.fit(name, slice(None), z, networks=NETWORKS)[0] for name in weights}
        parts = {name: (fit, weights[name]) for name, fit in fits.items() if fit is not None}
        if not parts:
            return ConstantModel(x.shape[1:], y.mean(axis=0))
        chosen: dict[str, Any] = {"fitted": {name: round(weight, 3) for name, (_, weight) in parts.items()}}
        chosen |= {"rows": len(z), "set_aside": table}
        return NumbersModel(x.shape[1:], encoding, list(parts.values()), (middle, half), chosen)

    def _candidates(self, z: Array) -> list[str]:
        """Families by name, the one to fall back on first."""
        names = self.families or ("linear", "boosted", "network", "kernel", "forest", *installed()[:1])
        if len(z) < SMALL and not self.families:
            names = names[:4]
        if z.shape[1] > WIDE:
            names = tuple(n for n in names if n not in (*SINGLE, "forest")) or ("linear",)
        return list(names)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Encoded rows z (n, width), answers y (n, 1) from -1 to 1, and what families are fitted with."""

    z: Array
    y: Array
    groups: NDArray[np.int64]
    seed: int

    def choose(self, names: Sequence[str], rng: np.random.Generator) -> tuple[dict[str, float], dict[str, float]]:
        """Weights of the families to fit to every row, and {family or blend: R^2} on the rows set aside."""
        fall_back = {names[0]: 1.0}
        if len(self.z) < FEW or len(names) == 1:
            return fall_back, {}
        order = rng.permutation(len(self.z))[:COMPARED]
        values: dict[str, list[Array]] = {name: [] for name in names}
        asides = []
        for train, aside in splits(order):
            asides.append(aside)
            for name in list(values):
                _, found = self.fit(name, train, self.z[aside])
                if found is None:
                    del values[name]  # it failed or gave NaN: it is out
                else:
                    values[name].append(found[:, 0])
        if not values:
            return fall_back, {}
        return _weigh({n: np.concatenate(parts) for n, parts in values.items()}, self.y[np.concatenate(asides), 0])

    def fit(
        self, name: str, train: NDArray[np.int64] | slice, aside: Array, *, networks: int = 1
    ) -> tuple[Fitted | None, Array | None]:
        """The fitted family and its values for the rows set aside; None where it cannot be fitted or gives NaN."""
        try:
            fitted = fit_values(name, self.z[train], self.y[train], self.seed, groups=self.groups, networks=networks)
            found = fitted(aside)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            return None, None
        return (fitted, found) if np.isfinite(found).all() else (None, None)


def _weigh(values: Mapping[str, Array], truth: Array) -> tuple[dict[str, float], dict[str, float]]:
    """The best family alone, or a blend that is clearly nearer to the answers; and every R^2."""
    variance = max(float(truth.var()), 1e-300)
    errors = {name: float(((found - truth) ** 2).mean()) for name, found in values.items()}
    best = min(errors, key=lambda name: errors[name])
    chosen, weights = {best: 1.0}, _blend(values, truth)
    total = sum(weights.values())
    kept = [n for n in sorted(weights, key=lambda n: -weights[n])[:BLENDED] if weights[n] >= SMALLEST * total > 0]
    if len(kept) > 1:
        blend, name = _blend({name: values[name] for name in kept}, truth), " + ".join(kept)
        errors[name] = float(((sum(w * values[n] for n, w in blend.items()) - truth) ** 2).mean())
        if errors[name] < GAIN * errors[best] - EXACT * variance:
            chosen = {n: weight for n, weight in blend.items() if weight > 0}
    return chosen, {name: round(1 - error / variance, 4) for name, error in errors.items()}


def _blend(values: Mapping[str, Array], truth: Array) -> dict[str, float]:
    """Weights of at least 0 whose sum of predictions is nearest to the answers."""
    found, _ = nnls(np.column_stack(list(values.values())), truth)
    return dict(zip(values, map(float, found), strict=True))
