"""Top k: show the scores of the k most likely classes and withhold the others.

Orekondy, Schiele, Fritz. "Knockoff Nets: Stealing Functionality of Black-Box Models", CVPR 2019,
section 6 (truncated answers); commercial vision APIs have long answered so.

Costs the honest client   the scores of unlikely classes; labels never change, what is shown is exact.
Does not stop             retraining on labels or on the scores that are left; the loss grows with the classes.

The scores shown are not made to sum to one: that would give away nothing less and mislead the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Interface, Request, Reveals, keep_top
from portcullis_ml.defenses._poisoned import needs_classes

__all__ = ["TopK"]


@dataclass(frozen=True, kw_only=True)
class TopK(Defense[None]):
    k: int = 3  # classes whose scores are shown, the served label among them

    name: ClassVar[str] = "top_k"
    keeps_labels: ClassVar[bool] = True
    same_for_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "k", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def bind(self, interface: Interface) -> Self:
        needs_classes(self.name, interface)
        return self

    def shown(self, interface: Interface) -> Interface:
        if interface.reveals == Reveals.LABELS or self.k >= interface.n_classes:
            return interface
        k = min(self.k, interface.k) if interface.reveals == Reveals.TOP_K else self.k
        return interface.revealing(reveals=Reveals.TOP_K, k=k)

    def release(self, request: Request, answer: Answer, clean: Answer, state: None, noise: Noise) -> Answer:
        if answer.labels is None:
            raise NotApplicable("top_k needs an API that predicts classes; this one does regression. Leave it out.")
        if answer.scores is None:
            return answer
        return Answer(answer.labels, keep_top(answer.scores, answer.labels, self.k), answer.explanation)
