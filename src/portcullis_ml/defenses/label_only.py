"""Label only: answer with the predicted class and withhold every score.

Tramèr, Zhang, Juels, Reiter, Ristenpart. "Stealing Machine Learning Models via Prediction APIs",
USENIX Security 2016, section 6.

Costs the honest client   all confidences and explanations; labels never change.
Does not stop             retraining on labels (Copycat, Knockoff, Jacobian augmentation): slower, and the
                          more classes the slower, but rarely held off.

The scores stay in the answer as NaN, so that rows answered before an alarm and after it fit in one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import Answer, Array, Interface, Request, Reveals
from portcullis_ml.defenses._poisoned import needs_classes

__all__ = ["LabelOnly"]


@dataclass(frozen=True, kw_only=True)
class LabelOnly(Defense[None]):
    name: ClassVar[str] = "label_only"
    keeps_labels: ClassVar[bool] = True
    same_for_all: ClassVar[bool] = True

    def bind(self, interface: Interface) -> Self:
        needs_classes(self.name, interface)
        return self

    def shown(self, interface: Interface) -> Interface:
        return interface.revealing(reveals=Reveals.LABELS, explains=False)

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        if answer.labels is None:
            raise NotApplicable("label_only needs an API that predicts classes; this one does regression.")
        return Answer(answer.labels, _blank(answer.scores), _blank(answer.explanation))


def _blank(values: Array | None) -> Array | None:
    return None if values is None else np.full_like(values, np.nan)
