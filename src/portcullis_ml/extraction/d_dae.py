"""D-DAE: learn how a defense changes answers, undo that, and train on what is left.

Chen et al. "D-DAE: Defense-Penetrating Model Extraction Attacks", IEEE Symposium on Security and Privacy 2023, the
section on recovering answers; answers drawn around those of a copy in place of shadow models, after the variant of Tang
et al., "ModelGuard", USENIX Security 2024.

Threat model   answers: probabilities, changed by a defense whose settings the thief has been told (not its key).
               data: a pool where there is one, else uniform questions.
Query cost     that of the attack that it wraps: every question is asked once, and rehearsals are free.

The attack `of` collects a transfer set. A copy that is trained on its labels stands for the victim: its answers, and
distributions near them, are put through a guard of the known settings under a key of the thief's own, which gives pairs
of what is shown and what is true. From these the thief goes back in one of three ways:

network    a small network learns the way back
lookup     the mean true answer of the pairs whose shown answer is near (within 0.01 in L1), or else of the nearest pair
subtract   where a defense moves each answer towards one class (prediction poisoning, random vertices), pairs say how
           much that class gains; it is taken off again, from the class that leaves an answer nearest to the copy's

`best` tries all three on pairs that were set aside. If less than half of the distance from the truth is left there, a
new copy is trained on recovered answers, and all of that is done once more with the new copy. What remains of a
defense that draws new noise for every question is its mean. Where there is no guard nothing is undone.

The published detector, which finds out by itself which defense is in place, is left out: it is trained on answers
behind every candidate defense, and a thief can rehearse only the one that they have been told of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.extraction._undoing import looked_up, subtracted
from portcullis_ml.extraction._wrapped import collect

__all__ = ["DDae"]

SHARP = 8.0  # of the Dirichlet distribution around a copy's answer, for every class
LEAST = 1e-3  # of its parameters
SHARPEST = 16.0  # the power to which a copy's probabilities are raised at most
ASIDE = 0.2  # of the pairs
WAYS = ("network", "lookup", "subtract")
USEFUL = 0.5  # of the distance from the truth: where more is left, answers are taken as they came
UNITS = (
    "label_preserving_noise", "noise", "prediction_poisoning", "private_answers", "random_vertex", "reverse_sigmoid",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DDae(ExtractionAttack):
    of: ExtractionAttack | None = None  # the attack that is wrapped; None asks about the pool, or about uniform rows
    pairs: int = 20_000  # of shown and true answers, from which the way back is learned
    way: Literal["best", "network", "lookup", "subtract"] = "best"  # how answers are recovered from the pairs
    rounds: int = 2  # copies that stand for the victim, one after another
    epochs: int = 20  # passes over the pairs

    name: ClassVar[str] = "d_dae"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS, learner=True, defense=UNITS)

    def __post_init__(self) -> None:
        check(self, "way", f"one of best, {', '.join(WAYS)}", lambda v: v in ("best", *WAYS))
        check(self, "of", "an extraction attack, or None", lambda v: v is None or isinstance(v, ExtractionAttack))
        check(self, "pairs", "an int of at least 100", lambda v: isinstance(v, int) and v >= 100)
        check(self, "rounds", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "epochs", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.learner is not None  # `needs` says so
        copy = collect(self.of, harvest, interface, knowledge, rng)
        answer = harvest.answer
        whole = answer.answered & np.isfinite(answer.soft(interface.n_classes)).all(axis=1)
        x, shown = harvest.x[whole], answer.soft(interface.n_classes)[whole]
        copy = knowledge.learner.fit(x, shown, rng=rng) if copy is None else copy
        if knowledge.rehearse is None:
            return copy
        labels = np.eye(interface.n_classes)[shown.argmax(axis=1)]
        standing = knowledge.learner.fit(x, labels, rng=rng)  # as sure of itself as victims are
        harvest.notes |= {"distance_left": [], "ways": []}
        for _ in range(self.rounds):
            recovered, left, way = self._recovered(standing, x, shown, knowledge, rng)
            harvest.notes["distance_left"].append(round(left, 3))
            harvest.notes["ways"].append(way)
            if left > USEFUL:
                break
            copy = standing = harvest.keep(knowledge.learner.fit(x, recovered, rng=rng))
        return copy

    def _recovered(
        self, copy: Model, x: Array, shown: Array, knowledge: Knowledge, rng: np.random.Generator
    ) -> tuple[Array, float, str]:
        """(n, c) the answers with the defense undone, how much of their distance from the truth is left on pairs that
        were set aside, and the way."""
        assert knowledge.rehearse is not None  # the caller looked
        order, held, aside = rng.permutation(len(x)), math.ceil(ASIDE * len(x)), round(ASIDE * self.pairs)
        drawn = [rng.integers(held, size=aside), rng.integers(held % len(x), len(x), size=self.pairs - aside)]
        rows = x[order[np.concatenate(drawn)]]  # no row's pairs are on both sides
        guess = copy.scores(rows)
        true = _plausible(guess, rng)
        put = knowledge.rehearse(rows, true).soft(true.shape[1])
        asked, guesses = np.concatenate([put[:aside], shown]), np.concatenate([guess[:aside], copy.scores(x)])
        was = np.abs(put[:aside] - true[:aside]).sum()
        tried = []
        for way in WAYS if self.way == "best" else (self.way,):
            found = self._undone(way, asked, guesses, put[aside:], true[aside:], rng)
            left = np.abs(found[:aside] - true[:aside]).sum() / max(was, 1e-9)
            tried.append((float(left), way, found[aside:]))
        left, way, recovered = min(tried, key=lambda t: t[0])
        return recovered, left, way

    def _undone(
        self, way: str, asked: Array, guesses: Array, put: Array, true: Array, rng: np.random.Generator
    ) -> Array:
        """(n, c) the answers `asked` as this way recovers them from rehearsed pairs of answers."""
        if way == "lookup":
            return looked_up(asked, put, true)
        if way == "subtract":
            return subtracted(asked, guesses, float(np.median((put - true).max(axis=1))))
        from portcullis_ml.models.recovery import learn_recovery

        return learn_recovery(put, true, asked, epochs=self.epochs, rng=rng)


def _plausible(guess: Array, rng: np.random.Generator) -> Array:
    """(n, c) answers that the victim may have given where a copy guesses these: the guess itself, distributions around
    it, and sharper ones, since a copy that learned from changed answers is less sure than the victim."""
    n, width = guess.shape
    around = rng.gamma(np.maximum(SHARP * width * guess, LEAST)) + 1e-12
    sharper = np.power(np.maximum(guess, 1e-12), np.exp(rng.uniform(0, np.log(SHARPEST), (n, 1))))
    kind = rng.integers(3, size=(n, 1))
    mixed = np.where(kind == 0, guess, np.where(kind == 1, around, sharper))
    return np.asarray(mixed / mixed.sum(axis=1, keepdims=True))
