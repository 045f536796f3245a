"""A learner that weighs families by answers that it sets aside: what a professional would do with a table.

Several families are fitted to a part of the rows and predict the rest, where weights, at least 0, are found that make
the sum of their logits nearest to the answers (stacking: Wolpert, 1992). A blend of at most three families is fitted to
all rows, or one family where that does as well. The rows that were set aside were paid for like the others, so nothing
is learned for free.

With scores, families are regressions on log-ratios of probabilities; where the answers are labels, or scores so
coarse that many are 0 and 1, they are classifiers too. Few rows get few families, and fewer than 20 get one. Where
LightGBM or XGBoost is installed, its boosted trees are one family more (`boosters.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import entr, log_softmax, softmax

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.models.boosters import installed, needed
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.families import FAMILIES, SINGLE, Fitted, fit_family
from portcullis_ml.models.quantiles import QuantileEncoding

__all__ = ["FEW", "NETWORKS", "SMALL", "WIDE", "AutoLearner", "AutoModel", "encoding_of", "splits"]

FEW = 20  # rows with fewer than these are not split
SMALL = 200  # fewer rows than these are fitted by cheap families only
FOLDED = 600  # up to so many rows are set aside in three parts, each once
ASIDE = 0.3  # of more rows than that
COMPARED = 1500  # rows at most that take part in choosing
WIDE = 400  # encoded columns (of text, say) above which trees take too long and all columns have one scale and weight
SPARSE = 0.5  # zeros in most rows of text
HARD = 0.3  # of the rows: where more are certain, classifiers are tried beside regressions
NETWORKS = 3  # fitted to all rows and averaged, where a network was chosen
BLENDED = 3  # families at most in a blend
SMALLEST = 0.05  # of the sum of the weights: families below it are left out
GAIN = 0.9  # a blend must bring the divergence from the answers below this share of the best family's
EXACT = 1e-6  # a family so near to the answers is exact, and no blend is better
FLAT = 1e-4  # the penalty on squared weights, which makes them unique
ROUGH = ("boosted",)  # the family of copies that only say what to ask next
LEAST = 1e-3  # weight, so that a blend of families that know nothing still has an opinion


class AutoModel:
    """A weighted sum of the logits of fitted families; `chosen` says which, and how each did on the rows set aside."""

    def __init__(
        self,
        shape: tuple[int, ...],
        n_classes: int,
        encoding: QuantileEncoding,
        parts: Sequence[tuple[Fitted, float]],
        chosen: Any,
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
        return np.asarray(softmax(sum(weight * log_softmax(part(z), axis=1) for part, weight in self._parts), axis=1))


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

    def rough(self) -> AutoLearner:
        """One family, fitted at once: for copies that only say what to ask next."""
        rough = replace(self, families=ROUGH)
        return rough if self.interface is None else rough.knowing(self.interface)

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        """x (n, *input_shape), targets (n, n_classes) distributions; rows whose target is all zero are left out."""
        needed(self.families)
        x, p = np.asarray(x, np.float64), np.asarray(targets, np.float64)
        if p.ndim != 2 or len(p) != len(x) or not (p > 0).any():
            raise InputError(
                f"Targets were expected to be ({len(x)}, n_classes), at least one of them known; got {p.shape}."
            )
        known = p.sum(axis=1) > 0
        x, p, seed = x[known], p[known], int(rng.integers(2**31))
        if (p == p[0]).all():
            return ConstantModel(x.shape[1:], p[0].copy())
        encoding, words = encoding_of(x, self.interface)
        z = encoding(x)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a fit that does not converge shows in its score
            groups = encoding.groups if z.shape[1] <= WIDE else np.zeros(z.shape[1], np.int64)
            rows = _Rows(z, p, groups, seed)
            weights, table = rows.choose(self._candidates(z, p, words=words), rng)
            fits = {name: rows.fit(name, slice(None), z, networks=NETWORKS)[0] for name in weights}
        parts = {name: (fit, weights[name]) for name, fit in fits.items() if fit is not None}
        if not parts:
            return ConstantModel(x.shape[1:], p.mean(axis=0) / p.mean(axis=0).sum())
        chosen: dict[str, Any] = {"fitted": {name: round(weight, 3) for name, (_, weight) in parts.items()}}
        chosen |= {"rows": len(z), "set_aside": table}
        return AutoModel(x.shape[1:], p.shape[1], encoding, list(parts.values()), chosen)

    def _candidates(self, z: Array, p: Array, *, words: bool) -> list[str]:
        """Families by name, the one to fall back on first; "... labels" where the answers are certain."""
        names = self.families or ("linear", "boosted", "network", "kernel", "forest", *installed()[:1])
        if len(z) < SMALL and not self.families:
            names = names[:4]
        if z.shape[1] > WIDE:
            names = tuple(n for n in names if n not in (*SINGLE, "forest")) or ("linear",)
        if words and not self.families:
            names = ("words", "linear", "bayes", "network", "kernel")
        certain = (p.max(axis=1) >= 1.0).mean()
        several = len(np.unique(p.argmax(axis=1))) > 1
        smooth = [n for n in names if n == "kernel"]  # a regression that does well on labels, too
        soft = smooth if certain == 1.0 and several else [n for n in names if FAMILIES[n].regressor]
        return soft + [f"{n} labels" for n in names if several and certain > HARD]


def encoding_of(x: Array, interface: Interface | None) -> tuple[QuantileEncoding, bool]:
    """How rows (n, ...) are encoded, and whether they look like text: many numbers of which most are 0, none below.

    Ranks of frequent words would drown the words themselves, and ranges would make rare words count like frequent ones.
    """
    encoding = QuantileEncoding.of(x, interface)
    if encoding(x[:1]).shape[1] <= WIDE:
        return encoding, False
    words = x.ndim == 2 and not encoding.indicators and x.min() >= 0
    words = words and float(np.median((x == 0).mean(axis=1))) > SPARSE
    if words:
        zero = np.zeros(len(encoding.numbers))
        encoding = replace(encoding, middle=zero, half=zero + 1)
    return replace(encoding, ranked=()), words


@dataclass(frozen=True, eq=False)
class _Rows:
    """Encoded rows z (n, width), answers p (n, c), and what families are fitted with."""

    z: Array
    p: Array
    groups: NDArray[np.int64]
    seed: int

    def choose(self, names: Sequence[str], rng: np.random.Generator) -> tuple[dict[str, float], dict[str, Any]]:
        """Weights of the families to fit to every row, and {family or blend: [agreement, cross-entropy]} set aside."""
        fall_back = {names[0]: 1.0}
        if len(self.z) < FEW or len(names) == 1:
            return fall_back, {}
        order = rng.permutation(len(self.z))[:COMPARED]
        logits: dict[str, list[Array]] = {name: [] for name in names}
        asides = []
        for train, aside in splits(order):
            asides.append(aside)
            for name in list(logits):
                _, found = self.fit(name, train, self.z[aside])
                if found is None:
                    del logits[name]  # it failed or gave NaN: it is out
                else:
                    logits[name].append(log_softmax(found, axis=1))
        if not logits:
            return fall_back, {}
        return _weigh({name: np.concatenate(parts) for name, parts in logits.items()}, self.p[np.concatenate(asides)])

    def fit(
        self, name: str, train: Labels | slice, aside: Array, *, networks: int = 1
    ) -> tuple[Fitted | None, Array | None]:
        """The fitted family and its logits for the rows set aside; None where it cannot be fitted or gives NaN."""
        try:
            fitted = fit_family(name, self.z[train], self.p[train], self.seed, groups=self.groups, networks=networks)
            found = fitted(aside)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):  # one class in a part, a singular matrix
            return None, None
        return (fitted, found) if np.isfinite(found).all() else (None, None)


def splits(rows: Labels) -> Iterator[tuple[Labels, Labels]]:
    """(rows to fit, rows set aside), once or three times."""
    if len(rows) > FOLDED:
        n = round(ASIDE * len(rows))
        yield rows[n:], rows[:n]
        return
    for k in range(3):
        yield np.concatenate([rows[j::3] for j in range(3) if j != k]), rows[k::3]


def _weigh(logits: Mapping[str, Array], truth: Array) -> tuple[dict[str, float], dict[str, Any]]:
    """The weights of the best family alone, or of a blend that is clearly nearer to the answers; and the scores."""
    alone = {name: _weights({name: found}, truth) for name, found in logits.items()}
    found = {name: _score(_sum(weights, logits), truth) for name, weights in alone.items()}
    best = min(found, key=lambda name: found[name][1])
    chosen, weights = alone[best], _weights(logits, truth)
    total = sum(weights.values())
    kept = [n for n in sorted(weights, key=lambda n: -weights[n])[:BLENDED] if weights[n] >= SMALLEST * total]
    if len(kept) > 1:
        blend, name = _weights({name: logits[name] for name in kept}, truth), " + ".join(kept)
        found[name] = _score(_sum(blend, logits), truth)
        certain = float(entr(truth).sum(axis=1).mean())  # no prediction has a cross-entropy below this
        if found[name][1] - certain < GAIN * (found[best][1] - certain) - EXACT:
            chosen = blend
    return chosen, {name: [round(score, 4) for score in scores] for name, scores in found.items()}


def _weights(logits: Mapping[str, Array], truth: Array) -> dict[str, float]:
    """`LEAST` or more each: of the sum of logits that has the least cross-entropy to the answers, a convex problem."""
    stacked = np.stack(list(logits.values()))

    def loss(weights: Array) -> tuple[float, Array]:
        logs = log_softmax(np.tensordot(weights, stacked, 1), axis=1)
        gradient = (stacked * (np.exp(logs) - truth)).sum(axis=(1, 2)) / len(truth)
        entropy = -(truth * logs).sum() / len(truth)
        return float(entropy + FLAT * (weights**2).sum()), gradient + 2 * FLAT * weights

    start = np.full(len(stacked), 1 / len(stacked))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(LEAST, None)] * len(stacked)).x
    return {name: float(weight) for name, weight in zip(logits, found, strict=True)}


def _sum(weights: Mapping[str, float], logits: Mapping[str, Array]) -> Array:
    return np.asarray(sum(weight * logits[name] for name, weight in weights.items()))


def _score(logits: Array, p: Array) -> tuple[float, float]:
    """Agreement and cross-entropy."""
    agreement = (logits.argmax(axis=1) == p.argmax(axis=1)).mean()
    return float(agreement), float(-(p * log_softmax(logits, axis=1)).sum(axis=1).mean())
