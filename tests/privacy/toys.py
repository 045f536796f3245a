"""Small set-ups for the privacy attacks: one for every name in the catalog."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.types import Array, Feature, Interface, Labels, Model, Rows
from portcullis_ml.models.kernel import KernelRegression
from portcullis_ml.models.softmax import SoftmaxRegression

__all__ = ["API", "KNOWING", "MEMBER", "SETUPS", "Memorizes", "Memory", "Setup", "candidates"]

API = Interface(input_shape=(3,), n_classes=4)
MEMBER = np.arange(60) % 2 == 0
X = np.random.default_rng(0).random((60, 3))
Y = np.random.default_rng(1).integers(4, size=60)


class Memory:
    """Sure of every row that it was given, and of nothing else."""

    input_shape = (3,)
    n_classes = 4

    def __init__(self, x: Array, y: Labels) -> None:
        self.known = {row.tobytes(): int(c) for row, c in zip(np.ascontiguousarray(x), y, strict=True)}

    def scores(self, x: Array) -> Array:
        scores = np.full((len(x), 4), 0.25)
        for i, row in enumerate(np.ascontiguousarray(x)):
            if (c := self.known.get(row.tobytes())) is not None:
                scores[i] = 0.01
                scores[i, c] = 0.97
        return scores


@dataclass(frozen=True)
class Memorizes:
    """A learner whose models remember their rows."""

    name = "memorizes"

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        return Memory(x, targets.argmax(axis=1))


def candidates() -> Rows:
    return Rows(X.copy(), Y.copy())


def overfitted() -> Memory:
    """What remembers the members."""
    return Memory(X[MEMBER], Y[MEMBER])


@dataclass(frozen=True)
class Setup:
    """The attack's settings as words, the model that it attacks, what the attacker holds besides the API."""

    words: str
    model: Model = field(default_factory=overfitted)
    knowledge: Knowledge = field(default_factory=Knowledge)
    queries: int = 60  # that it needs for all candidates
    interface: Interface = API
    rows: Rows | None = None  # the candidates, where they are not those of all


rng = np.random.default_rng(2)
KNOWING = Knowledge(pool=rng.random((40, 3)), pool_groups=rng.integers(4, size=40), learner=Memorizes())
TABLE = Interface(
    input_shape=(3,),
    n_classes=4,
    features=(
        Feature("height", 0.0, 1.0),
        Feature("color", values=("red", "green", "blue")),
        Feature("weight", 0.0, 1.0),
    ),
)
COLORED = X.copy()
COLORED[:, 1] = rng.integers(3, size=60)
KERNEL = KernelRegression(X[MEMBER][:5], np.ones((5, 4)), np.zeros(4), 0.5)
SETUPS = {
    "attribute_inference": Setup(
        "attribute_inference(column=color, batch=16)",
        Memory(COLORED[MEMBER], Y[MEMBER]),
        Knowledge(pool=COLORED[~MEMBER]),
        queries=180,
        interface=TABLE,
        rows=Rows(COLORED, Y),
    ),
    "gap": Setup("gap(batch=16)"),
    "label_only": Setup("label_only(batch=16, anchors=2, steps=3)", queries=60 + 60 * 6),
    "label_only_inversion": Setup(
        "label_only_inversion(samples=3, noises=(0.1, 0.2), hidden=8, latent=2, epochs=2, batch=16)",
        SoftmaxRegression(9 * np.eye(4, 3), np.array([0, 0, 0, 3.0]), input_shape=(3,)),
        Knowledge(pool=rng.random((40, 3))),
        queries=40 + 4 * 3 * 3,
    ),
    "lira": Setup("lira(batch=16, models=4)", knowledge=KNOWING),
    "loss_threshold": Setup("loss_threshold(batch=16)"),
    "mi_face": Setup(
        "mi_face(iterations=20)",
        SoftmaxRegression(4 * np.eye(4, 3), np.zeros(4), input_shape=(3,)),
        queries=4 * (1 + 20 * 4),
    ),
    "representers": Setup("representers", KERNEL, Knowledge(model=KERNEL), queries=0),
    "rmia": Setup("rmia(batch=16, models=4)", knowledge=KNOWING, queries=100),
    "shadow": Setup("shadow(batch=16, models=4, hidden=16, steps=300)", knowledge=KNOWING),
}
