"""D-DAE: learn how a defense changes answers, undo that, and train on what is left.

Chen et al. "D-DAE: Defense-Penetrating Model Extraction Attacks", IEEE Symposium on Security and Privacy 2023, the
section on recovering answers; answers drawn around those of a copy in place of shadow models, after the variant of Tang
et al., "ModelGuard", USENIX Security 2024.

Threat model   answers: probabilities, changed by a defense whose settings the thief has been told (not its key).
               data: a pool where there is one, else uniform questions.
Query cost     that of the attack that it wraps: every question is asked once, and rehearsals are free.

The attack `of` collects a transfer set. A copy that is trained on its labels stands for the victim: its answers, and
distributions near them, are put through a guard of the known settings under a key of the thief's own, which gives pairs
of what is shown and what is true. A small network learns the way back; it is used if it brings answers nearer to the
truth on pairs that were set aside, then a new copy is trained on recovered answers, and all of that once more with the
new copy. What remains of a defense that draws new noise for every question is its mean. Where there is no guard nothing
is undone.

The published detector, which finds out by itself which defense is in place, is not needed by a thief who has been told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.extraction._wrapped import collect

__all__ = ["DDae"]

SHARP = 8.0  # of the Dirichlet distribution around a copy's answer, for every class
LEAST = 1e-3  # of its parameters
SHARPEST = 16.0  # the power to which a copy's probabilities are raised at most
ASIDE = 0.2  # of the pairs
UNITS = ("noise", "prediction_poisoning", "private_answers", "random_vertex", "reverse_sigmoid", "rounding")


@dataclass(frozen=True, kw_only=True)
class DDae(ExtractionAttack):
    of: ExtractionAttack | None = None  # the attack that is wrapped; None asks about the pool, or about uniform rows
    pairs: int = 20_000  # of shown and true answers, from which the way back is learned
    rounds: int = 2  # copies that stand for the victim, one after another
    epochs: int = 20  # passes over the pairs

    name: ClassVar[str] = "d_dae"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS, learner=True, defense=UNITS)

    def __post_init__(self) -> None:
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
        copy = copy or knowledge.learner.fit(x, shown, rng=rng)
        if knowledge.rehearse is None:
            return copy
        nearer: list[float] = []
        labels = np.eye(interface.n_classes)[shown.argmax(axis=1)]
        standing = knowledge.learner.fit(x, labels, rng=rng)  # as sure of itself as victims are
        for _ in range(self.rounds):
            recovered, ratio = self._recovered(standing, x, shown, knowledge, rng)
            nearer.append(round(ratio, 3))
            if ratio >= 1:
                break
            copy = standing = harvest.keep(knowledge.learner.fit(x, recovered, rng=rng))
        harvest.notes["distance_left"] = (
            nearer  # of the recovered answers to the true ones, over that of the shown ones
        )
        return copy

    def _recovered(
        self, copy: Model, x: Array, shown: Array, knowledge: Knowledge, rng: np.random.Generator
    ) -> tuple[Array, float]:
        """(n, c) the answers with the defense undone, and how much of their distance from the truth is left, on pairs
        that were set aside."""
        from portcullis_ml.models.recovery import learn_recovery

        assert knowledge.rehearse is not None  # the caller looked
        rows = x[rng.integers(len(x), size=self.pairs)]
        true = _plausible(copy.scores(rows), rng)
        put = knowledge.rehearse(rows, true).soft(true.shape[1])
        return learn_recovery(put, true, shown, aside=ASIDE, epochs=self.epochs, rng=rng)


def _plausible(guess: Array, rng: np.random.Generator) -> Array:
    """(n, c) answers that the victim may have given where a copy guesses these: the guess itself, distributions around
    it, and sharper ones, since a copy that learned from changed answers is less sure than the victim."""
    n, width = guess.shape
    around = rng.gamma(np.maximum(SHARP * width * guess, LEAST)) + 1e-12
    sharper = np.power(np.maximum(guess, 1e-12), np.exp(rng.uniform(0, np.log(SHARPEST), (n, 1))))
    kind = rng.integers(3, size=(n, 1))
    mixed = np.where(kind == 0, guess, np.where(kind == 1, around, sharper))
    return np.asarray(mixed / mixed.sum(axis=1, keepdims=True))
