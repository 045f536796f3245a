"""A learner that chooses what to fit by answers that it sets aside: what a professional would do with a table.

Several families are fitted to a part of the rows and compared on the rest: agreement of the labels first, then
cross-entropy. The winner, or the mean of the two or three best where that does better on the rest, is fitted to all
rows. The rows that were set aside were paid for like the others, so nothing is learned for free.

With scores, families are regressions on log-ratios of probabilities; where the answers are labels, or scores so
coarse that many are 0 and 1, they are classifiers too. Few rows get few families, and fewer than 20 get one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax, softmax

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.families import FAMILIES, Fitted, fit_family
from portcullis_ml.models.quantiles import QuantileEncoding

__all__ = ["AutoLearner", "AutoModel"]

FEW = 20  # rows with fewer than these are not split
SMALL = 200  # fewer rows than these are fitted by cheap families only
FOLDED = 1200  # up to so many rows are set aside in three parts, each once
ASIDE = 0.25  # of more rows than that
COMPARED = 2000  # rows at most that take part in choosing
DENSE = 2000  # rows at most for a kernel, whose time grows with their cube
WIDE = 400  # encoded columns above which boosting and kernels take too long
HARD = 0.3  # of the rows: where more are certain, classifiers are tried beside regressions
NETWORKS = 3  # fitted to all rows and averaged, where a network was chosen
BLENDS = 3  # families at most in a blend


class AutoModel:
    """The mean of the logits of fitted families; `chosen` says which, and how each did on the rows set aside."""

    def __init__(
        self, shape: tuple[int, ...], n_classes: int, encoding: QuantileEncoding, parts: Sequence[Fitted], chosen: Any
    ) -> None:
        self.input_shape = shape
        self.n_classes = n_classes
        self.chosen: dict[str, Any] = chosen
        self._encoding = encoding
        self._parts = list(parts)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities."""
        if len(x) == 0:
            return np.empty((0, self.n_classes))
        z = self._encoding(x)
        return np.asarray(softmax(_mean([part(z) for part in self._parts]), axis=1))


@dataclass(frozen=True, kw_only=True)
class AutoLearner:
    """Chooses among families by rows set aside; always a new model, a function of (x, targets, rng)."""

    families: tuple[str, ...] = ()  # to choose among; none named: those that suit the number of rows

    interface: Interface | None = field(default=None, init=False, compare=False)  # tells categories from numbers
    title: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        known = ", ".join(FAMILIES)
        check(self, "families", f"a tuple of {known}", lambda v: isinstance(v, tuple) and set(v) <= set(FAMILIES))

    def knowing(self, interface: Interface) -> AutoLearner:
        """The same learner, told what the columns are."""
        return bound(self, interface=interface)

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        """x (n, *input_shape), targets (n, n_classes) distributions; rows whose target is all zero are left out."""
        x, p = np.asarray(x, np.float64), np.asarray(targets, np.float64)
        if p.ndim != 2 or len(p) != len(x) or not (p > 0).any():
            raise InputError(
                f"Targets were expected to be ({len(x)}, n_classes), at least one of them known; got {p.shape}."
            )
        known = p.sum(axis=1) > 0
        x, p, seed = x[known], p[known], int(rng.integers(2**31))
        if (p == p[0]).all():
            return ConstantModel(x.shape[1:], p[0].copy())
        encoding = QuantileEncoding.of(x, self.interface)
        z = encoding(x)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a fit that does not converge shows in its score
            names, table = choose(self._candidates(z, p), z, p, rng, seed)
            parts = {name: fit for name in names if (fit := _tried(name, z, p, seed, z, networks=NETWORKS)[0])}
        if not parts:
            return ConstantModel(x.shape[1:], p.mean(axis=0) / p.mean(axis=0).sum())
        chosen = {"fitted": list(parts), "rows": len(z), "set_aside": table}
        return AutoModel(x.shape[1:], p.shape[1], encoding, list(parts.values()), chosen)

    def _candidates(self, z: Array, p: Array) -> list[str]:
        """Families by name, the one to fall back on first; "... labels" where the answers are certain."""
        names = self.families or ("linear", "boosted", "network", "forest", "kernel")
        if len(z) < SMALL and not self.families:
            names = ("linear", "boosted", "network")
        slow = {"boosted", "kernel"} if z.shape[1] > WIDE else {"kernel"} if len(z) > DENSE else set()
        names = tuple(n for n in names if n not in slow) or ("linear",)
        certain = (p.max(axis=1) >= 1.0).mean()
        several = len(np.unique(p.argmax(axis=1))) > 1
        soft = [] if certain == 1.0 else list(names)
        hard = (
            names if certain > HARD else names[1:2]
        )  # boosted trees also where scores are shown: few seconds, often best
        return soft + [f"{n} labels" for n in hard if several]


def choose(
    names: Sequence[str], z: Array, p: Array, rng: np.random.Generator, seed: int
) -> tuple[list[str], dict[str, Any]]:
    """The families to fit to every row, and {family or blend: [agreement, cross-entropy]} on the rows set aside."""
    if len(z) < FEW or len(names) == 1:
        return list(names[:1]), {}
    rows = rng.permutation(len(z))[:COMPARED]
    logits: dict[str, list[Array]] = {name: [] for name in names}
    asides = []
    for train, aside in _splits(rows):
        asides.append(aside)
        for name in list(logits):
            _, found = _tried(name, z[train], p[train], seed, z[aside])
            if found is None:
                del logits[name]  # it failed or gave NaN: it is out
            else:
                logits[name].append(found)
    if not logits:
        return list(names[:1]), {}
    truth = p[np.concatenate(asides)]
    stacked = {name: np.concatenate(parts) for name, parts in logits.items()}
    table = {name: _score(found, truth) for name, found in stacked.items()}
    order = _ranked(table, truth)
    for k in range(2, min(BLENDS, len(order)) + 1):
        table[" + ".join(order[:k])] = _score(_mean([stacked[name] for name in order[:k]]), truth)
    return _ranked(table, truth)[0].split(" + "), table


def _splits(rows: Labels) -> Iterator[tuple[Labels, Labels]]:
    """(rows to fit, rows set aside), once or three times."""
    if len(rows) > FOLDED:
        n = round(ASIDE * len(rows))
        yield rows[n:], rows[:n]
        return
    for k in range(3):
        yield np.concatenate([rows[j::3] for j in range(3) if j != k]), rows[k::3]


def _tried(
    name: str, z: Array, p: Array, seed: int, aside: Array, *, networks: int = 1
) -> tuple[Fitted | None, Array | None]:
    """The fitted family and its logits for the rows set aside; None where it cannot be fitted or gives NaN."""
    try:
        fitted = fit_family(name, z, p, seed, networks=networks)
        found = fitted(aside)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):  # one class in a part, a singular matrix
        return None, None
    return (fitted, found) if np.isfinite(found).all() else (None, None)


def _mean(logits: Sequence[Array]) -> Array:
    return np.asarray(np.mean([log_softmax(part, axis=1) for part in logits], axis=0))


def _score(logits: Array, p: Array) -> list[float]:
    """[agreement, cross-entropy] to four digits."""
    agreement = (logits.argmax(axis=1) == p.argmax(axis=1)).mean()
    entropy = -(p * log_softmax(logits, axis=1)).sum(axis=1).mean()
    return [round(float(agreement), 4), round(float(entropy), 4)]


def _ranked(table: dict[str, list[float]], truth: Array) -> list[str]:
    """The best first: by agreement, then by cross-entropy.

    Where probabilities are shown, agreements within one standard error of the best are taken for equal: a few hundred
    labels tell families apart less surely than as many probabilities do.
    """
    best = max(agreement for agreement, _ in table.values())
    error = np.sqrt(best * (1 - best) / len(truth)) if (truth.max(axis=1) >= 1.0).mean() <= HARD else 0.0
    return sorted(table, key=lambda name: (max(best - table[name][0] - error, 0.0), table[name][1]))
