"""What the detectors `odin` and `mahalanobis` share: the share of foreign rows in every so many questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.guard import Detector
from portcullis_ml.core.recipes import PREPARED, Recipe
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.detectors._shares import Doubts, shares
from portcullis_ml.models.blocks import Blocks
from portcullis_ml.models.foreign import FILES, foreign_score

__all__ = ["ForeignRows"]


@dataclass(frozen=True, kw_only=True)
class ForeignRows(Detector[Doubts]):
    """One of the two, by its `name`."""

    fitted: Artifact | Recipe
    threshold: float = 0.3
    above: float = 0.5
    window: int = 50
    _score: Blocks | None = field(default=None, init=False, compare=False, repr=False)  # once bound

    heavy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, "fitted", f'what {FILES[self.name][1]} has made: "FOLDER"', lambda v: isinstance(v, PREPARED))
        check(self, "threshold", "in (0, 1)", lambda v: 0 < v < 1)
        check(self, "above", "in (0, 1)", lambda v: 0 < v < 1)
        check(self, "window", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def bind(self, interface: Interface) -> Self:
        return bound(self, _score=foreign_score(self, "fitted", self.name, interface))

    def start(self) -> Doubts:
        return Doubts()

    def suspicion(self, state: Doubts) -> float:
        return state.suspicion

    def update(self, state: Doubts, request: Request, answer: Answer) -> Array:
        if answer.labels is None:
            raise NotApplicable(
                f"{self.name} needs an API that predicts classes; this one does regression. Leave it out."
            )
        assert self._score is not None  # the guard binds its stages
        return shares(state, ~(self._score(request.x) <= self.above), self.window)
