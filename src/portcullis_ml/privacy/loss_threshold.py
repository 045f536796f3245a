"""Loss threshold: a model is surer of rows that it was trained on.

Yeom, Giacomelli, Fredrikson, Jha. "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting",
IEEE CSF 2018, section 3 (the membership adversary that thresholds the loss).

Threat model   answers: any; labels say only whether a row is answered right. data: the candidates' true classes.
Query cost     one query for each candidate.

The suspicion is minus the cross-entropy of the candidate's true class. Where to put the threshold is left to whoever
judges: the measures read the whole curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Interface, Rows
from portcullis_ml.privacy._shared import asked, classes_of, shares

__all__ = ["LossThreshold"]


@dataclass(frozen=True, kw_only=True)
class LossThreshold(PrivacyAttack):
    floor: float = 1e-12  # a probability shown as 0 has no logarithm
    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "loss_threshold"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        check(self, "floor", "in (0, 1)", lambda v: 0 < v < 1)
        check(self, "batch", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        y = classes_of(candidates, self.name)
        membership = np.full(len(candidates), np.nan)
        for rows, answer in asked(harvest, candidates.x, self.batch):
            share = np.take_along_axis(shares(answer, interface.n_classes), y[rows, None], axis=1)[:, 0]
            membership[rows] = np.log(np.maximum(share, self.floor))
        return Leakage(membership=membership)
