"""Least likely: read answers of a misinformation network backwards, since the class that it avoids is the right one.

Kariyappa, Qureshi. "Defending Against Model Stealing Attacks with Adaptive Misinformation", CVPR 2020, the section on
the misinformation function: it is trained to give the right class no probability, so what it leaves out is evidence.

Threat model   answers: probabilities of `adaptive_misinformation`, whose `tau` the thief has been told.
               data: that of the attack that it wraps; by itself a pool where there is one, else uniform questions.
Query cost     that of the attack that it wraps: every question is asked once.

An answer whose greatest probability is below `tau` is certainly misinformed: the model itself would have been surer. A
first copy is trained on the least likely class of those, and on all others as they came. Then each half of the rows is
judged by a copy that was trained on the other half: how often the right class is the least likely, the second least
likely and so on is counted on the answers that are certainly misinformed; each of the others is weighed as either, and
a last copy is trained on the mean of what either would mean. Both copies are noted: the first is better where most
answers are misinformed, the last where few are. With two classes the least likely one is always the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Learner, Model, Reveals
from portcullis_ml.extraction._wrapped import collect

__all__ = ["LeastLikely", "misread"]

UNITS = ("adaptive_misinformation",)
FEW = 20  # rows that are certainly misinformed: with fewer, nothing is counted on them
DOUBT = 0.02  # of a copy's guess, spread over all classes
STEPS = 20  # of expectation and maximisation
SHARE = (0.02, 0.95)  # bounds of the share of misinformed answers


@dataclass(frozen=True, kw_only=True)
class LeastLikely(ExtractionAttack):
    of: ExtractionAttack | None = None  # the attack that is wrapped; None asks about the pool, or about uniform rows
    rounds: int = 1  # times that answers are weighed by copies; 0 reads those backwards that are certainly misinformed

    name: ClassVar[str] = "least_likely"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS, learner=True, defense=UNITS)

    def __post_init__(self) -> None:
        check(self, "of", "an extraction attack, or None", lambda v: v is None or isinstance(v, ExtractionAttack))
        check(self, "rounds", "an int of at least 0", lambda v: isinstance(v, int) and v >= 0)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.learner is not None  # `needs` says so
        copy = collect(self.of, harvest, interface, knowledge, rng)
        answer = harvest.answer
        whole = answer.answered & np.isfinite(answer.soft(interface.n_classes)).all(axis=1)
        x, shown = harvest.x[whole], answer.soft(interface.n_classes)[whole]
        tau = max((stage["tau"] for stage in knowledge.stages(*UNITS)), default=0.0)
        certain = shown.max(axis=1, initial=0.0) < tau
        if not len(x) or tau == 0:
            return knowledge.learner.fit(harvest.x, harvest.targets(), rng=rng) if copy is None else copy
        targets = np.where(certain[:, None], np.eye(interface.n_classes)[shown.argmin(axis=1)], shown)
        copy = harvest.keep(knowledge.learner.fit(x, targets, rng=rng))
        harvest.notes |= {"certainly_misinformed": float(certain.mean()), "misinformed": []}
        for _ in range(self.rounds):
            guess = _guesses(x, targets, knowledge.learner, rng)
            share, right = misread(shown, guess, certain)
            harvest.notes["misinformed"].append(round(float(share.mean()), 3))
            targets = share[:, None] * right + (1 - share[:, None]) * shown
            copy = harvest.keep(knowledge.learner.fit(x, targets, rng=rng))
        return copy


def _guesses(x: Array, targets: Array, learner: Learner, rng: np.random.Generator) -> Array:
    """(n, c) what a copy says of each row that was trained on the other half of the rows."""
    half = np.zeros(len(x), bool)
    half[rng.permutation(len(x))[: len(x) // 2]] = True
    guess = targets.copy()
    for part in (half, ~half):
        if part.any() and not part.all():
            guess[~part] = learner.fit(x[part], targets[part], rng=rng).scores(x[~part])
    return guess


def misread(shown: Array, guess: Array, certain: NDArray[np.bool_]) -> tuple[Array, Array]:
    """(n,) the probability that each answer `shown` (n, c) is misinformed, and (n, c) which class is right if it is.

    guess    (n, c) what a copy says of the rows; certain (n,) which answers are misinformed without doubt
    """
    c = shown.shape[1]
    order = np.argsort(shown, axis=1, kind="stable")
    ranked = np.take_along_axis((1 - DOUBT) * guess + DOUBT / c, order, axis=1)  # from the least likely class on
    rank = np.array([0.5, *([0.5 / max(c - 2, 1)] * (c - 2)), 0.0]) if c > 2 else np.array([1.0, 0.0])
    for _ in range(STEPS if certain.sum() >= FEW else 0):
        found = ranked[certain] * rank
        rank = (found / found.sum(axis=1, keepdims=True)).mean(axis=0)
    prior, share = float(np.clip(certain.mean(), *SHARE)), certain.astype(float)
    backwards, forwards = ranked @ rank, ranked[:, -1]
    for _ in range(STEPS):
        share = np.where(certain, 1.0, prior * backwards / (prior * backwards + (1 - prior) * forwards))
        prior = float(np.clip(share.mean(), *SHARE))
    right = np.empty_like(shown)
    np.put_along_axis(right, order, ranked * rank, axis=1)
    return share, right / right.sum(axis=1, keepdims=True)
