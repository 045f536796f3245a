"""Gap: whoever is answered right is called a member.

Yeom, Giacomelli, Fredrikson, Jha. "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting",
IEEE CSF 2018. The plainest attack: its advantage is the gap between the accuracy on members and on others.

Threat model   answers: any. data: the candidates' true classes.
Query cost     one query for each candidate.

It is the yardstick of attacks that see labels only: what is not better has found a model that overfits, and no more.
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

__all__ = ["Gap"]


@dataclass(frozen=True, kw_only=True)
class Gap(PrivacyAttack):
    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "gap"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
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
            membership[rows] = shares(answer, interface.n_classes).argmax(axis=1) == y[rows]
        return Leakage(membership=membership)
