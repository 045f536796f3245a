"""Kernel regression: a copy whose representers are the victim's training points.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 4.1.3 ("Training Data Leakage for Kernel Logistic Regression").

Threat model   answers: full probabilities.  data: none.  victim: logistic regression with an RBF kernel, over numbers.
Query cost     the whole budget, in one batch; s d + s c + c unknowns for s representers, c equations a query.

A kernel model answers softmax(sum_r a_r exp(-gamma |x - x_r|^2) + b), and the x_r are points that it was trained on.
Nothing about them is secret from somebody who fits the same expression: representers, weights and intercept are
unknowns alike, and descend together. More representers than the victim has do no harm, their weights go to zero;
fewer give an average training point for every class. Where gamma is not known either, short fits over powers of ten
are compared on answers held back, and the best one goes on with gamma as one unknown more. The descent may end in a
local minimum; the loss, which goes to 0 for the victim itself, tells the attacker so.

Not in the paper: a loss that stays above 0 tells of another family, or of rounding. A tenth of the answers (200 at
most) is set aside, and then a surrogate is fitted to the others (`_fallback.py`). What predicts those set aside better
is the copy: `notes["copy"]` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import AttackFailed
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Model, Reveals
from portcullis_ml.extraction._fallback import better_copy, share_aside
from portcullis_ml.models.encoding import Encoded, Encoding
from portcullis_ml.models.kernel import KernelRegression, fit_kernel

__all__ = ["Kernel"]

GAMMAS = 10.0 ** np.arange(-4, 2)
TRIAL = 0.1  # of the iterations, for every gamma and every start that is tried
HELD_BACK = 0.1  # of the answers, to compare them on
TRIAL_ROWS = 1000  # answers at most that a trial is fitted to
EXPLAINED = 1e-6  # a loss up to this explains the answers, and no surrogate is tried


@dataclass(frozen=True, kw_only=True)
class Kernel(ExtractionAttack):
    representers: int = 20  # how many points to look for; too many are harmless
    gamma: float | None = None  # of the RBF kernel, for inputs as the API takes them; None finds it
    iterations: int = 4000  # of the fit at most
    restarts: int = 5  # random starts; the one that is best after a short fit goes on

    name: ClassVar[str] = "kernel"
    needs: ClassVar[Needs] = Needs(answers=Reveals.PROBS)

    def __post_init__(self) -> None:
        check(self, "representers", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "gamma", "a number above 0, or None", lambda v: v is None or 0 < v < np.inf)
        check(self, "iterations", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "restarts", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        for feature in interface.features or ():
            if feature.categorical:
                raise AttackFailed(
                    f"kernel looks for training points among numbers; column {feature.name!r} is a category. "
                    "Offer the API's encoded columns, or try retraining."
                )
        harvest.ask(interface.uniform(harvest.left, rng))
        aside = np.arange(share_aside(len(harvest)))
        answer = harvest.answer
        fitted = answer.answered & (np.arange(len(harvest)) >= len(aside))
        x = harvest.x[fitted].reshape(-1, interface.n_inputs)
        targets = answer.take(fitted).soft(interface.n_classes)
        free = self.gamma is None
        gamma = self._best_gamma(x, targets, interface, rng) if self.gamma is None else self.gamma
        starts = [self._random(gamma, targets.shape[1], interface, rng) for _ in range(self.restarts)]
        tried = [fit_kernel(x, targets, start, learn_gamma=free, iterations=self._short()) for start in starts]
        start = min(tried, key=lambda found: found[1])[0]
        model, loss = fit_kernel(x, targets, start, learn_gamma=free, iterations=self.iterations)
        unknowns = model.representers.size + model.weights.size + model.b.size
        harvest.notes |= {"gamma": model.gamma, "loss": loss, "unknowns": unknowns, "equations": targets.size}
        # One label everywhere is common far from the data, and says that agreement on such points means nothing.
        harvest.notes["classes_seen"] = len(np.unique(targets.argmax(axis=1))) / interface.n_classes
        harvest.notes["copy"] = "kernel"
        copy = model if len(interface.input_shape) == 1 else Encoded(Encoding.flat(interface), model)
        return copy if loss <= EXPLAINED else better_copy("kernel", copy, harvest, interface, aside, rng)

    def _random(self, gamma: float, classes: int, interface: Interface, rng: np.random.Generator) -> KernelRegression:
        """Representers drawn like uniform queries, never from data, with small random weights."""
        centres = interface.uniform(self.representers, rng).reshape(self.representers, -1)
        return KernelRegression(centres, rng.normal(0, 0.1, (self.representers, classes)), np.zeros(classes), gamma)

    def _short(self) -> int:
        return max(1, round(TRIAL * self.iterations))

    def _best_gamma(self, x: Array, targets: Array, interface: Interface, rng: np.random.Generator) -> float:
        """The power of ten whose short fit is nearest to the answers held back."""
        held = max(1, round(HELD_BACK * len(x)))
        trials = []
        for gamma in GAMMAS:
            start = self._random(float(gamma), targets.shape[1], interface, rng)
            rows = slice(held, held + TRIAL_ROWS) if len(x) > held else slice(None)
            model, _ = fit_kernel(x[rows], targets[rows], start, iterations=self._short())
            trials.append((float(np.abs(model.scores(x[:held]) - targets[:held]).sum()), float(gamma)))
        return min(trials)[1]
