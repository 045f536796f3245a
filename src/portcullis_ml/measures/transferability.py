"""Transferability: perturb inputs until they fool the copy, and count how many fool the victim.

Juuti, Szyller, Dmitrenko, Marchal, Asokan. "PRADA: Protecting against DNN Model Stealing Attacks",
arXiv:1805.02628v1 (the protocol); Papernot, McDaniel, Goodfellow, Jha, Celik, Swami. "Practical Black-Box
Attacks against Machine Learning", ASIA CCS 2017, section 5 (untargeted FGSM).

Threat model   the thief holds the copy and differentiates it; the victim only answers, with labels.
Query cost     one query for every crafted input, beside what the extraction cost: `TransferReport.queries`.

A few inputs of each class are pushed, on the copy, towards every other class; all results go to the victim,
also those that did not even fool the copy, and count as a success when the victim gives the target. The
untargeted goal counts any label but the original. Beside it stands the same number of inputs moved as far
by coin flips: that control is what the copy is worth beyond "anything that moves by eps does it".

The results that come from one input resemble each other, so intervals count inputs, not crafted rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Differentiable, Estimate, Labels, Model
from portcullis_ml.measures.statistics import clustered
from portcullis_ml.models.perturb import Bounds, noise_like, pgd

__all__ = ["GTSRB_GROUPS", "Transfer", "TransferReport", "by_source"]

PIECE = 2000  # crafted rows held in memory at a time


def _groups(*groups: tuple[int, ...]) -> tuple[int, ...]:
    """The group of each class, from the classes of each group."""
    return tuple(g for _, g in sorted((c, g) for g, classes in enumerate(groups) for c in classes))


# The eight kinds of German traffic signs. PRADA says that there are eight and names them; which of the 43 ids
# belongs to which was written down from the benchmark's list of signs, not copied from the paper.
GTSRB_GROUPS = _groups(
    (11, *range(18, 32)),  # warning
    (13,),  # yield
    (14,),  # stop
    (12,),  # priority road
    (*range(6), *range(7, 11), 15, 16),  # red circle
    tuple(range(33, 41)),  # blue circle
    (6, 32, 41, 42),  # grey circle: the end of something
    (17,),  # no entry
)


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """Shares of crafted inputs; `n` of each is the number of inputs that they were crafted from.

    queries          crafted rows that the victim answered: what the thief pays
    control_queries  noisy rows that the victim answered: what only the examiner asks
    """

    rate: Estimate  # the victim is fooled
    noise: Estimate  # the victim is fooled by coin flips of the same size
    white_box: Estimate  # the copy is fooled: an upper bound of what the crafting can do
    queries: int
    control_queries: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The protocol. Call it with a copy, the victim, and inputs with the victim's own labels for them."""

    eps: float = 0.25  # greatest change of any input, in the units of the bounds; of an audit, a share of its range
    steps: int = 40  # of projected gradient; FGSM takes one
    per_class: int = 10  # inputs of each class that are perturbed
    goal: Literal["targeted", "untargeted"] = "targeted"  # give that class, or any other class
    method: Literal["pgd", "fgsm"] = "pgd"
    groups: tuple[int, ...] | None = None  # the group of each class: a target's whole group counts (GTSRB_GROUPS)

    def __post_init__(self) -> None:
        check(self, "eps", "a finite number, at least 0", lambda v: 0 <= v < math.inf)
        check(self, "steps", "at least 1", lambda v: v >= 1)
        check(self, "per_class", "at least 1", lambda v: v >= 1)
        check(self, "goal", "targeted or untargeted", lambda v: v in ("targeted", "untargeted"))
        check(self, "method", "pgd or fgsm", lambda v: v in ("pgd", "fgsm"))

    def __call__(
        self,
        substitute: Differentiable,
        victim: Model,
        x: Array,
        labels_by_victim: Labels,
        *,
        bounds: Bounds,
        rng: np.random.Generator,
    ) -> TransferReport:
        """x (n, *input_shape) and what the victim says of it (n,). Groups change what a target's success is;
        an untargeted success is any change of class."""
        if len(x) != len(labels_by_victim):
            raise InputError(f"{len(x)} inputs need {len(x)} labels of the victim; got {len(labels_by_victim)}.")
        groups = self.groups_of(substitute.n_classes)
        chosen, notes = self.choose(labels_by_victim, substitute.n_classes, rng)
        source, aim = self.pairs(labels_by_victim[chosen], groups)
        fooled = np.zeros((3, len(source)), bool)
        for i in range(0, len(source), PIECE):
            part = slice(i, i + PIECE)
            start = x[chosen[source[part]]]
            crafted = self._craft(substitute, start, aim[part], bounds)
            noisy = noise_like(start, eps=self.eps, bounds=bounds, rng=rng)
            for outcome, model, rows in zip(
                fooled, (victim, victim, substitute), (crafted, noisy, crafted), strict=True
            ):
                outcome[part] = self.success(model.scores(rows).argmax(axis=1), aim[part], groups)
        rate, noise, white_box = (by_source(outcome, source, len(chosen)) for outcome in fooled)
        return TransferReport(
            rate=rate, noise=noise, white_box=white_box, queries=len(source), control_queries=len(source), notes=notes
        )

    def groups_of(self, n_classes: int) -> NDArray[np.int64]:
        """(n_classes,) the group of each class."""
        groups = np.arange(n_classes) if self.groups is None else np.asarray(self.groups)
        if len(groups) != n_classes:
            raise InputError(f"Transfer.groups must name a group for each of {n_classes} classes; got {len(groups)}.")
        return groups

    def choose(
        self, labels: Labels, n_classes: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Rows to perturb, `per_class` of every class where there are so many, and a note where there are not."""
        own = [np.flatnonzero(labels == c) for c in range(n_classes)]
        chosen = [rng.permutation(rows)[: self.per_class] for rows in own]
        short = [c for c, rows in enumerate(own) if len(rows) < self.per_class]
        note = f"Fewer than {self.per_class} inputs for {len(short)} of {n_classes} classes; all of theirs were used."
        return np.concatenate(chosen), (note,) if short else ()

    def pairs(self, labels: Labels, groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], Labels]:
        """Which chosen row each crafted one comes from, and the class it is pushed towards (or away from).

        A target in the input's own group would be a success without moving, and is left out.
        """
        if self.goal == "untargeted":
            return np.arange(len(labels)), labels
        source, target = np.nonzero(groups[labels][:, None] != groups[None, :])
        return source, target

    def _craft(self, substitute: Differentiable, start: Array, aim: Labels, bounds: Bounds) -> Array:
        steps, step = (1, self.eps) if self.method == "fgsm" else (self.steps, None)
        targeted = self.goal == "targeted"
        return pgd(substitute, start, aim, eps=self.eps, steps=steps, step=step, bounds=bounds, targeted=targeted)

    def success(self, given: Labels, aim: Labels, groups: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) which of the labels given (n,) are what these crafted rows aim at, or not what they flee from."""
        return np.asarray(groups[given] == groups[aim] if self.goal == "targeted" else given != aim)


def by_source(fooled: NDArray[np.bool_], source: NDArray[np.int64], sources: int) -> Estimate:
    """The share of crafted rows that fool; its interval counts the inputs that they come from."""
    successes = np.bincount(source[fooled], minlength=sources).astype(np.float64)
    return clustered(successes, np.bincount(source, minlength=sources).astype(np.float64), unit="inputs")
