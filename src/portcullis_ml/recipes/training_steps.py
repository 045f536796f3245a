"""Training steps: eleven sub-models kept from one training, and how hard the owner's own rows are for them.

Sadeghzadeh et al. "HODA: Hardness-Oriented Detection of Model Extraction Attacks", submitted to ICLR 2022, the
sections on the hardness of samples and on the normal histogram.

Threat model   the thief's questions are harder or easier than honest ones, taken over many.
Cost           one training; serving it is eleven passes of a network with two hidden layers of 128 units.

The sub-models are taken after the first epoch and after every tenth of `epochs`. The paper takes them from the
victim's own training; here a network of the house is trained on the owner's rows with their true classes, or with the
victim's answers where none are known, so that it works for any victim. Two fifths of the rows are set aside: their
hardnesses make the benign histogram, and 40,000 users who each ask `window` of them give the greatest distance from it
that is benign. No attack is needed for that, and none is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Model, Rows
from portcullis_ml.models.artifacts import pack_arrays
from portcullis_ml.models.dense import dense_arrays
from portcullis_ml.models.hardness import STEPS, SubModels, distances, histogram

__all__ = ["TrainingSteps"]

USERS = 40_000  # benign users that are drawn
ASIDE = 0.4  # of the rows


@dataclass(frozen=True, kw_only=True)
class TrainingSteps(Recipe):
    window: int = 100  # questions in one histogram; more makes the verdict surer and later
    epochs: int = 50  # passes over the rows, a multiple of 10

    name: ClassVar[str] = "training_steps"
    needs_outside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, "window", "an int of at least 10", lambda v: isinstance(v, int) and v >= 10)
        check(self, "epochs", "a multiple of 10, at least 20", lambda v: v in range(20, 10_001, 10))

    def fit(
        self,
        given: Model,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Contents:
        """steps.safetensors: the arrays of `models.hardness.SubModels`; benign (11,), greatest (1,) and window (1,)."""
        if given.n_classes < 2:
            raise NotApplicable("training_steps needs a victim that predicts classes; this one does regression.")
        order = rng.permutation(len(rows.x))
        aside, kept = np.split(order, [int(ASIDE * len(order))])
        if len(aside) < self.window:
            raise InputError(
                f"training_steps was expected to get {int(np.ceil(self.window / ASIDE))} rows at least, two fifths of "
                f"which fill a window of {self.window}; got {len(order)}. Give more, or a smaller window."
            )
        right = given.scores(rows.x[kept]).argmax(axis=1) if rows.y is None else rows.y[kept]
        arrays = self._sub_models(rows.x[kept], np.eye(given.n_classes)[right], rng, watch)
        counts = histogram(SubModels(arrays).hardness(rows.x[aside]))
        drawn = rng.multivariate_hypergeometric(counts, self.window, size=USERS)
        benign = counts / counts.sum()
        greatest = float(distances(drawn, benign).max())
        arrays |= {"benign": benign, "greatest": np.array([greatest]), "window": np.array([self.window])}
        notes = {"benign_histogram": [round(float(v), 4) for v in benign], "of": len(aside)}
        notes |= {"window": self.window, "greatest_distance": greatest}
        return Contents({"steps.safetensors": pack_arrays(arrays)}, notes)

    def _sub_models(
        self, x: Array, targets: Array, rng: np.random.Generator, watch: Callable[[int, int], None]
    ) -> dict[str, NDArray[np.generic]]:
        from portcullis_ml.models.torch import TorchLearner, TorchModel

        after = [1, *range(self.epochs // 10, self.epochs + 1, self.epochs // 10)]
        arrays: dict[str, NDArray[np.generic]] = {}
        model: TorchModel | None = None
        done = 0
        for step, until in enumerate(after):
            learner = TorchLearner(network="table_mlp", epochs=until - done)
            model = learner.fit(x, targets, rng=rng, start=model)
            watch(until, self.epochs)
            arrays |= {f"{step}.{name}": a for name, a in dense_arrays(model).items()}
            done = until
        assert len(after) == STEPS
        return arrays
