"""Outlier exposure: train the victim to be unsure about rows that are not of its domain.

Hendrycks, Mazeika, Dietterich. "Deep Anomaly Detection with Outlier Exposure", ICLR 2019, section 3 and equation 1,
with the weight of 0.5 that section 4.3 takes for images; Kariyappa, Qureshi. "Defending Against Model Stealing Attacks
with Adaptive Misinformation", CVPR 2020, serve a victim trained in this way.

Threat model   the thief asks about natural rows that are not of the victim's domain, and learns little from answers
               that are near to uniform. Whoever asks with rows like the victim's own is not hindered.
Cost           a training with more rows; the accuracy that it costs is part of what honest clients lose.

The loss is the cross-entropy on the victim's rows, plus `weight` times the cross-entropy to the uniform distribution
on outside rows. Both are means, so drawing `weight` times as many outside rows as there are own rows gives that sum
with any learner that takes soft targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.recipes import Hardening
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Learner, Model, Rows
from portcullis_ml.hardening._given import several_classes
from portcullis_ml.models.victims import fit_watched

__all__ = ["OutlierExposure"]


@dataclass(frozen=True, kw_only=True)
class OutlierExposure(Hardening):
    weight: float = 0.5  # of the loss on outside rows; more makes foreign rows' answers flatter, own rows' less exact

    name: ClassVar[str] = "outlier_exposure"

    def __post_init__(self) -> None:
        check(self, "weight", "a number above 0 and at most 10", lambda v: 0 < v <= 10)

    def fit(
        self,
        given: Learner,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Model:
        """A model that `given` trains, with as many classes as the labels say."""
        assert outside is not None  # `needs_outside` and `needs_labels` say so
        classes = several_classes(self.name, rows)
        if getattr(given, "targets", "soft") == "labels":
            raise NotApplicable("outlier_exposure needs a learner that takes soft targets; this one takes labels.")
        n = max(round(self.weight * len(rows.x)), 1)
        drawn = outside[rng.choice(len(outside), n, replace=len(outside) < n)]
        x = np.concatenate([rows.x, drawn])
        targets = np.concatenate([np.eye(classes)[rows.y], np.full((n, classes), 1 / classes)])
        return fit_watched(given, x, targets, rng=rng, watch=watch)
