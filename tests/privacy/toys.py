"""Small set-ups for the privacy attacks: one for every name in the catalog."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.types import Array, Interface, Model, Rows
from portcullis_ml.models.kernel import KernelRegression

__all__ = ["API", "MEMBER", "SETUPS", "Setup", "candidates"]

API = Interface(input_shape=(3,), n_classes=4)
MEMBER = np.arange(60) % 2 == 0
X = np.random.default_rng(0).random((60, 3))
Y = np.random.default_rng(1).integers(4, size=60)


class Overfitted:
    """Sure of every row that it was trained on, and of nothing else."""

    input_shape = (3,)
    n_classes = 4

    def scores(self, x: Array) -> Array:
        scores = np.full((len(x), 4), 0.25)
        known = {row.tobytes(): c for row, c in zip(X[MEMBER], Y[MEMBER], strict=True)}
        for i, row in enumerate(np.ascontiguousarray(x)):
            if (c := known.get(row.tobytes())) is not None:
                scores[i] = 0.01
                scores[i, c] = 0.97
        return scores


def candidates() -> Rows:
    return Rows(X.copy(), Y.copy())


@dataclass(frozen=True)
class Setup:
    """The attack's settings as words, the model that it attacks, what the attacker holds besides the API."""

    words: str
    model: Model = field(default_factory=Overfitted)
    knowledge: Knowledge = field(default_factory=Knowledge)
    queries: int = 60  # that it needs for all candidates


KERNEL = KernelRegression(X[MEMBER][:5], np.ones((5, 4)), np.zeros(4), 0.5)
SETUPS = {
    "loss_threshold": Setup("loss_threshold(batch=16)"),
    "representers": Setup("representers", KERNEL, Knowledge(model=KERNEL), queries=0),
}
