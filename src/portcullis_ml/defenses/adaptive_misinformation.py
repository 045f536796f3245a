"""Adaptive misinformation: where the model is unsure, answer with a network that avoids the right class.

Kariyappa, Qureshi. "Defending Against Model Stealing Attacks with Adaptive Misinformation", CVPR 2020, the sections on
the detector of foreign questions, the misinformation function and the adaptive gate between the two.

Costs the honest client   the answer to every question whose greatest probability lies below `tau`: the accuracy that is
                          lost is the share of right answers among those, less the few that the network gets right.
Does not stop             a thief whose rows are like the victim's own: the model is sure of them, and answers. One who
                          knows it reads the network's answer backwards: the least likely class is often the right one,
                          and of two classes always the other is.

An answer is (1 - a) y + a m: y the answer so far, m the network's, and a = 1 / (1 + exp(nu (y_max - tau))). y_max is
the greatest probability of the *undefended* answer, whatever stages come before. Below a = 1e-9 the answer stays bit
for bit what it was; the network is asked about every row all the same, since quicker answers would say which rows are
unsure. The paper serves a victim trained to be unsure of foreign rows: `outlier_exposure + adaptive_misinformation`.
Rows like those that the victim was exposed to are then its best case; judge it by rows from another source.
Where labels alone are left of an answer nothing is done, so put it before a stage that hides scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from scipy.special import expit

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.recipes import PREPARED, Recipe
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Answer, Array, Interface, Request, Reveals
from portcullis_ml.defenses._networks import network_of
from portcullis_ml.defenses._poisoned import replaced, whole_rows
from portcullis_ml.models.blocks import BlockModel

__all__ = ["AdaptiveMisinformation", "gate"]

FILE = "misinformation.safetensors"
NEEDS = "adaptive_misinformation needs a model that gives probabilities, to see how sure it is; this one gives labels."
LEAST = 1e-9  # a share of misinformation below this is none


@dataclass(frozen=True, kw_only=True)
class AdaptiveMisinformation(Defense[None]):
    network: Artifact | Recipe = field(metadata={"recipe": "misinformation"})  # what `misinformation` has trained
    tau: float = 0.9  # a question is misinformed where the model's greatest probability is below; 0: none is
    nu: float = 1000.0  # how steep the gate is around tau; its width is about 5 / nu
    _model: BlockModel | None = field(default=None, init=False, compare=False, repr=False)  # the network, once bound

    name: ClassVar[str] = "adaptive_misinformation"
    heavy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "network", 'what misinformation has trained: "FOLDER"', lambda v: isinstance(v, PREPARED))
        check(self, "tau", "a number in [0, 1]", lambda v: 0 <= v <= 1)
        check(self, "nu", "a number above 0", lambda v: 0 < v < np.inf)

    def bind(self, interface: Interface) -> Self:
        if interface.task == "classification" and interface.reveals is Reveals.LABELS:
            raise NotApplicable(NEEDS)
        return bound(self, _model=network_of(self, "network", FILE, "misinformation", interface))

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        whole = whole_rows(self.name, answer)
        if clean.scores is None:
            raise NotApplicable(NEEDS)
        if self.tau == 0 or not len(request):
            return answer
        assert self._model is not None  # the guard binds its stages
        said = self._model.scores(request.x)
        share = gate(clean.scores.max(axis=1), self.tau, self.nu)
        rows = whole & (share >= LEAST)
        if not rows.any() or answer.scores is None:
            return answer
        a = share[rows, None]
        shown = replaced(answer, rows, (1 - a) * answer.scores[rows] + a * said[rows])
        if shown.explanation is None:
            return shown
        explanation = shown.explanation.copy()
        explanation[rows] = np.nan  # it would speak for the class that is avoided
        return Answer(shown.labels, shown.scores, explanation)


def gate(top: Array, tau: float, nu: float) -> Array:
    """(n,) shares of misinformation for greatest probabilities (n,): 1/2 at tau, towards 1 below it, 0 above."""
    return np.asarray(expit(nu * (tau - top)))
