"""Class means: where the victim's last features of each class lie, to see how far from all of them a row falls.

Lee, Lee, Lee, Shin. "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
NeurIPS 2018, the section on the Mahalanobis distance (class means and one shared covariance).

Threat model   the thief asks about rows that are not of the victim's domain. Whoever asks with rows like the victim's
               own is not recognised.
Cost           nothing is trained. Serving it is one pass of the victim's own network, in PyTorch; the artifact holds
               that network: keep it as you keep the victim.

The score of a row is its squared distance to the nearest class mean in what the network's last layer is given, under
one covariance for all classes. This is the variant that needs no outside rows: the paper also takes other layers and a
step at the input, weighed on outside rows. Half of the own rows give means and covariance, the other half the line that
`share` of them cross. Classes are the true ones where they are known, else the victim's answers. A victim's features of
the rows that it was trained on are closer together: where --train holds those, more honest rows are flagged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Model, Rows
from portcullis_ml.models.artifacts import pack_arrays
from portcullis_ml.models.foreign import MahalanobisScore, Scale, network_bytes

__all__ = ["ClassMeans"]


@dataclass(frozen=True, kw_only=True)
class ClassMeans(Recipe):
    share: float = 0.05  # of the own rows set aside, that lie above one half; more catches more foreign rows too

    name: ClassVar[str] = "class_means"
    needs_outside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, "share", "in (0, 0.5)", lambda v: 0 < v < 0.5)

    def fit(
        self,
        given: Model,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Contents:
        """victim.safetensors; mahalanobis.safetensors: means (classes, r), whiten (features, r), scale (2,)."""
        victim = network_bytes(given, self.name)
        classes = given.scores(rows.x).argmax(axis=1) if rows.y is None else rows.y
        order = rng.permutation(len(rows.x))
        aside, kept = np.array_split(order, 2)
        if len(np.unique(classes[kept])) < 2:
            raise InputError("class_means was expected to get rows of 2 classes at least; got one class. Give others.")
        score = MahalanobisScore.fit(given, rows.x[kept], classes[kept])
        scale = Scale.of(score(rows.x[aside]), self.share)
        watch(1, 1)
        arrays = {
            "means": score.means,
            "whiten": score.whiten,
            "scale": np.array([scale.half, scale.spread]),
        }
        files = {"mahalanobis.safetensors": pack_arrays(arrays), "victim.safetensors": victim}
        notes = {"features": int(score.whiten.shape[0]), "directions_that_vary": int(score.whiten.shape[1])}
        return Contents(files, {**notes, "share_of_own_rows_flagged": self.share})
