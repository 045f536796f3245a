"""What is trained on the owner's side before anything is served.

A `Recipe` trains what a defense needs (a filter, an auxiliary model) and gives an artifact's content; a `Hardening`
trains a victim that is harder to steal, and gives a model. Both are settings as data; an author writes `fit`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar, final

import numpy as np

from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.types import Array, Learner, Model, Rows

__all__ = ["PREPARED", "Hardening", "Recipe", "prepared"]

G = TypeVar("G", Model, Learner)
R = TypeVar("R")


class _Trained(ABC, Generic[G, R]):
    name: ClassVar[str] = ""
    needs_outside: ClassVar[bool] = True  # whether it cannot do without outside rows
    needs_labels: ClassVar[bool] = False  # whether it cannot do without the true classes of the victim's rows

    @abstractmethod
    def fit(
        self,
        given: G,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> R:
        """Train. `given` is a recipe's victim or a hardening's learner; the outside rows are never the thief's;
        watch(steps done, steps in all) moves a progress bar. The result is a function of all but that."""

    @final
    def __call__(
        self,
        given: G,
        rows: Rows | None,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None] = lambda done, steps: None,
    ) -> R:
        """As `fit`. NotApplicable or InputError say in one sentence which rows are missing or wrong."""
        name = self.name or type(self).__name__
        if rows is None or len(rows.x) == 0:
            raise NotApplicable(f"{name} is trained on the victim's own rows; there are none. Give --train FILE.")
        if self.needs_labels and rows.y is None:
            raise NotApplicable(f"{name} needs the true classes of the victim's rows; --train FILE holds none.")
        if self.needs_outside and (outside is None or len(outside) == 0):
            raise NotApplicable(f"{name} needs outside rows, unlike the victim's; there are none. Give --outside FILE.")
        if outside is not None and outside.shape[1:] != rows.x.shape[1:]:
            shapes = f"{rows.x.shape[1:]}; got {outside.shape[1:]}"
            raise InputError(f"Outside rows must have the shape of the victim's rows, {shapes}.")
        return self.fit(given, rows, outside, rng=rng, watch=watch)


class Recipe(_Trained[Model, Contents]):
    """Trains what a defense needs: fit(victim, rows, outside, ...) -> files (safetensors or ONNX) and notes."""


class Hardening(_Trained[Learner, Model]):
    """Trains a victim: fit(learner, rows, outside, ...) -> model. Its utility is measured beside the plain one's."""

    needs_labels: ClassVar[bool] = True


PREPARED = (Artifact, Recipe)  # what a setting may hold that names what a recipe trains


def prepared(unit: object, setting: str) -> Contents:
    """What a unit's setting was trained to be. InputError where the recipe itself still stands there."""
    value = getattr(unit, setting)
    if isinstance(value, Artifact):
        return value.read()
    recipe = getattr(value, "name", "") or type(value).__name__
    raise InputError(
        f"{type(unit).__name__}.{setting} must name what {recipe} has trained; it names the recipe. "
        f"Run `portcullis prepare {recipe} ...` and write its folder there."
    )
