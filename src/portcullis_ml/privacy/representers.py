"""Representers: a copied kernel model holds training rows; read them out of it.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 4.1.3.

Threat model   the model itself, as whoever has stolen a kernel model holds it; no data.
Query cost     none.

A kernel model is a sum over rows that it was trained on. Those with hardly any weight were not found by the attack
that made the copy, and say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Interface, Rows
from portcullis_ml.models.encoding import Encoded
from portcullis_ml.models.kernel import KernelRegression

__all__ = ["Representers"]


@dataclass(frozen=True, kw_only=True)
class Representers(PrivacyAttack):
    least: float = 0.01  # of the greatest weight: a representer with less is left out

    name: ClassVar[str] = "representers"
    needs: ClassVar[Needs] = Needs(model=True)

    def __post_init__(self) -> None:
        check(self, "least", "in [0, 1]", lambda v: 0 <= v <= 1)

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        model = knowledge.model
        kernel = model.inner if isinstance(model, Encoded) else model
        if not isinstance(kernel, KernelRegression):
            raise NotApplicable(f"representers reads kernel models; this is a {type(kernel).__name__}.")
        strength = np.abs(kernel.weights).max(axis=1)
        order = np.argsort(-strength)
        order = order[strength[order] >= self.least * strength.max()]
        return Leakage(recovered=kernel.representers[order])
