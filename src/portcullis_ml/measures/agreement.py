"""Agreement: how much of the victim the copy is.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs", USENIX
Security 2016, section 3.1 (R_test, R_unif and their total-variation forms); Juuti, Szyller, Marchal, Asokan.
"PRADA", arXiv:1805.02628v1 (macro-F agreement); Atli, Szyller, Juuti, Marchal, Asokan. "Extraction of Complex
DNN Models: Real Threat or Boogeyman?", 2020 (recovery for each class).

Threat model   none: the examiner holds both models and the true labels; no attack can import an Exam.
Query cost     none: these are questions of the examiner, not of the thief.

Agreement compares the copy with the victim, accuracy compares it with the truth; a copy can have one without
the other, so both are reported. Agreement on uniform points is withheld where the victim gives all of them
one label, because any constant would then be a perfect copy; the histograms say how near to that it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.types import Array, Estimate, Interface, Labels, Model
from portcullis_ml.measures.statistics import UNIT, clopper_pearson, from_draws, mean_of

__all__ = [
    "Closeness",
    "Exam",
    "agreement",
    "macro_f",
    "never_predicted",
    "on_uniform",
    "per_class_recovery",
    "recovery",
    "total_variation",
]

DRAWS = 1000  # resamples behind an interval that has no formula
PIECE = 1000  # uniform points held in memory at a time


def agreement(f: Labels, g: Labels) -> Estimate:
    """The share of rows on which two label arrays (n,) agree: 1 - R_test; task accuracy when f is the truth."""
    _same_rows(f, g)
    return clopper_pearson(int((f == g).sum()), len(f))


def total_variation(f: Array, g: Array) -> Estimate:
    """The mean over rows of half the L1 distance between two score arrays (n, n_classes): R^TV."""
    _same_rows(f, g)
    return mean_of(0.5 * abs(f - g).sum(axis=1), within=UNIT)


def macro_f(f: Labels, g: Labels, n_classes: int, *, rng: np.random.Generator, draws: int = DRAWS) -> Estimate:
    """The mean F score of g's labels with f's as truth, over the classes that f gives at least once.

    A class in which precision and recall are both 0 has F = 0. The interval is a bootstrap of the rows,
    drawn as confusion tables: a sample without a single error has an interval of no width.
    """
    _same_rows(f, g)
    if len(f) == 0:
        return Estimate(math.nan, *UNIT, 0, unit="rows")
    table = np.bincount(f * n_classes + g, minlength=n_classes**2)
    resampled = rng.multinomial(len(f), table / len(f), size=draws).reshape(draws, n_classes, n_classes)
    value = _macro_f(table.reshape(1, n_classes, n_classes))[0]
    return from_draws(float(value), _macro_f(resampled), len(f), within=UNIT)


def _macro_f(tables: NDArray[np.int64]) -> Array:
    """(k, c, c) confusion tables, f's label first -> (k,). F = 2 TP / (2 TP + FP + FN)."""
    hits = tables.diagonal(axis1=1, axis2=2)
    given, guessed = tables.sum(axis=2), tables.sum(axis=1)
    f = 2 * hits / np.maximum(given + guessed, 1)
    seen = given > 0
    return np.asarray((f * seen).sum(axis=1) / seen.sum(axis=1))


def never_predicted(labels: Labels, n_classes: int) -> tuple[int, ...]:
    """The classes that do not occur among the labels."""
    return tuple(np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0).tolist())


def recovery(true: Labels, f: Labels, g: Labels, *, rng: np.random.Generator, draws: int = DRAWS) -> Estimate:
    """accuracy(g) / accuracy(f) on the same rows; NaN where f is never right.

    Rows fall into four kinds (each model right or wrong). The interval draws their shares from the
    Dirichlet distribution with half a row added to each kind, so that three rows which both models get
    right do not pass for certainty.
    """
    _same_rows(true, f)
    _same_rows(true, g)
    kinds = np.bincount(2 * (f == true) + (g == true), minlength=4)
    f_right, g_right = int(kinds[2] + kinds[3]), int(kinds[1] + kinds[3])
    if f_right == 0:
        return Estimate(math.nan, 0.0, math.inf, len(true), unit="rows")
    shares = rng.dirichlet(kinds + 0.5, size=draws)
    ratios = (shares[:, 1] + shares[:, 3]) / (shares[:, 2] + shares[:, 3])
    return from_draws(g_right / f_right, ratios, len(true), within=(0.0, math.inf))


def per_class_recovery(
    true: Labels, f: Labels, g: Labels, n_classes: int, *, rng: np.random.Generator
) -> tuple[Estimate, ...]:
    """`recovery` on the rows of each true class; NaN for a class without rows or that f never gets right."""
    own = (true == c for c in range(n_classes))
    return tuple(recovery(true[rows], f[rows], g[rows], rng=rng) for rows in own)


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How near a copy is to its victim, on held-out rows and on uniform points.

    What needs true labels is None without them. `constant` is what the best constant copy would score in
    agreement; histograms count the victim's labels, class by class.
    """

    agreement: Estimate  # 1 - R_test
    macro_f_agreement: Estimate
    tv_natural: Estimate  # R^TV_test
    agreement_uniform: Estimate  # 1 - R_unif, NaN where it would mean nothing
    tv_uniform: Estimate  # R^TV_unif
    constant: Estimate
    constant_uniform: Estimate
    victim_accuracy: Estimate | None
    accuracy: Estimate | None
    normalised_accuracy: Estimate | None
    per_class: tuple[Estimate, ...]  # recovery of each class, empty without true labels
    histogram: tuple[int, ...]
    histogram_uniform: tuple[int, ...]
    never_predicted: tuple[int, ...]  # classes that the victim never gives on the held-out rows
    notes: tuple[str, ...]

    def measures(self) -> dict[str, Estimate]:
        """The single figures by name, as a record keeps them; what was not measured is left out."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Estimate)}

    def remarks(self) -> dict[str, list[Any]]:
        """What the figures do not show, as a record keeps it: notes, and classes about which they say nothing."""
        found: dict[str, list[Any]] = {"grading": list(self.notes), "never_predicted": list(self.never_predicted)}
        return {name: said for name, said in found.items() if said}


@dataclass(frozen=True)
class Exam:
    """The victim's half of the comparison, worked out once for any number of copies.

    x       (n, *input_shape) held-out rows: neither the victim nor a thief has trained on them
    true    (n,) their true labels, or None
    victim  (n, n_classes) what the undefended victim says of them
    seed    from which the same uniform points are drawn again, a piece at a time
    """

    x: Array
    true: Labels | None
    victim: Array
    interface: Interface
    seed: int
    victim_uniform: Array

    @classmethod
    def of(
        cls,
        victim: Model,
        x: Array,
        true: Labels | None = None,
        *,
        interface: Interface,
        rng: np.random.Generator,
        points: int = 10_000,
    ) -> Exam:
        """Ask the victim about x and about `points` uniform points of the interface."""
        if interface.task != "classification":
            raise NotApplicable(f"Agreement compares labels; this API does {interface.task}.")
        if len(x) == 0:
            raise InputError("An exam needs at least one held-out row; got none. Give a larger test set.")
        if true is not None:
            _same_rows(x, true)
        seed = int(rng.integers(2**63))
        return cls(x, true, victim.scores(x), interface, seed, on_uniform(victim, interface, seed, points))

    def grade(self, copy: Model, *, rng: np.random.Generator) -> Closeness:
        """Everything that can be said of one copy."""
        c = self.interface.n_classes
        scores = copy.scores(self.x)
        uniform = on_uniform(copy, self.interface, self.seed, len(self.victim_uniform))
        f, g = self.victim.argmax(axis=1), scores.argmax(axis=1)
        f_uniform, g_uniform = self.victim_uniform.argmax(axis=1), uniform.argmax(axis=1)
        counts, counts_uniform = (np.bincount(labels, minlength=c) for labels in (f, f_uniform))
        same, notes = self._on_uniform_points(f_uniform, g_uniform, counts_uniform)
        return Closeness(
            agreement=agreement(f, g),
            macro_f_agreement=macro_f(f, g, c, rng=rng),
            tv_natural=total_variation(self.victim, scores),
            agreement_uniform=same,
            tv_uniform=total_variation(self.victim_uniform, uniform),
            constant=clopper_pearson(int(counts.max()), len(f)),
            constant_uniform=clopper_pearson(int(counts_uniform.max()), len(f_uniform)),
            victim_accuracy=None if self.true is None else agreement(self.true, f),
            accuracy=None if self.true is None else agreement(self.true, g),
            normalised_accuracy=None if self.true is None else recovery(self.true, f, g, rng=rng),
            per_class=() if self.true is None else per_class_recovery(self.true, f, g, c, rng=rng),
            histogram=tuple(counts.tolist()),
            histogram_uniform=tuple(counts_uniform.tolist()),
            never_predicted=never_predicted(f, c),
            notes=notes,
        )

    def _on_uniform_points(self, f: Labels, g: Labels, counts: NDArray[np.int64]) -> tuple[Estimate, tuple[str, ...]]:
        if len(f) == 0 or counts.max() < len(f):
            return agreement(f, g), ()
        note = (
            f"The victim gives class {f[0]} to all {len(f)} uniform points, so that any constant would agree with it "
            "there: agreement on uniform points is withheld."
        )
        return Estimate(math.nan, *UNIT, len(f), unit="rows"), (note,)


def on_uniform(model: Model, interface: Interface, seed: int, points: int) -> Array:
    """(points, n_classes), or (points, 1) numbers: the same points for the same seed, never all of them in memory."""
    rng = np.random.default_rng(seed)
    pieces = [model.scores(interface.uniform(min(PIECE, points - i), rng)) for i in range(0, points, PIECE)]
    return np.concatenate(pieces) if pieces else np.empty((0, interface.columns))


def _same_rows(a: NDArray[Any], b: NDArray[Any]) -> None:
    if len(a) != len(b):
        raise InputError(f"Two arrays that are compared must have one row for each input; got {len(a)} and {len(b)}.")
