"""The guard that an attacker knows, as they set it up themselves: another key, and nothing that its owner has trained.

What the owner's guard has trained (a filter, a network, sub-models) is known by its recipe and the recipe's settings;
it is trained anew, on rows that the attacker holds. A stage that cannot be trained so, for want of rows or because its
recipe is not known, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from portcullis_ml.bench.cell import Cell
from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Answer, Array, Interface, Model, Request, Rows
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.recipes import CATALOG as RECIPES

__all__ = ["Rehearsal"]

TRAINED_ON = 2_000  # rows at most on which a rehearsal trains


@dataclass(frozen=True)
class Rehearsal:
    """The guard of a cell in an attacker's own hands; `interface` is that of the undefended answers."""

    cell: Cell
    interface: Interface

    def __call__(self, x: Array, scores: Array) -> Answer:
        """What the guard, meeting a new client, makes of these true answers to rows x."""
        own = np.unique(np.linspace(0, len(x) - 1, min(len(x), TRAINED_ON)).astype(int))
        outside = self.interface.uniform(len(own), derive(self.cell.seed, "a thief's outside rows"))
        guard = self.train(_Nearest(x[own], scores[own]), x[own], outside)
        return guard.release(Request("rehearsal", x), Answer.of(scores, self.interface)).answer

    def train(self, copy: Model, own: Array, outside: Array) -> Guard:
        """The guard, with all that it has trained trained on own rows, as the copy answers them, and outside rows."""
        key = derive(self.cell.seed, "a thief's own key").bytes(32)
        with TemporaryDirectory() as folder:
            made = [self._stage(stage, Path(folder), copy, own, outside) for stage in self.cell.defense]
            return Guard(*(stage for stage in made if stage is not None), key=key, interface=self.interface)

    def _stage(self, stage: Any, folder: Path, copy: Model, own: Array, outside: Array) -> Defense[Any] | None:
        try:
            defense: Defense[Any] = DEFENSES.build(self._own(stage, folder, copy, own, outside))
            defense.bind(self.interface)
        except (InputError, NotApplicable, ParameterError):
            return None
        return defense

    def _own(self, part: Any, folder: Path, copy: Model, own: Array, outside: Array) -> Any:
        """A description in which the owner's artifacts have become the attacker's."""
        if isinstance(part, Mapping):
            return {name: self._own(value, folder, copy, own, outside) for name, value in part.items()}
        if isinstance(part, list | tuple):
            return [self._own(value, folder, copy, own, outside) for value in part]
        if not (isinstance(part, str) and "@sha256:" in part):
            return part
        about = Artifact.at(part).read().about
        if about.get("recipe") not in RECIPES:
            raise NotApplicable("Nobody knows with which recipe this was trained.")
        recipe = RECIPES.build(about["settings"])
        rng = derive(self.cell.seed, "a thief's own training", recipe.name)
        made = recipe(copy, Rows(own, copy.scores(own).argmax(axis=1)), outside, rng=rng)
        contents = made.files, {**made.about, "recipe": recipe.name, "settings": about["settings"]}
        return str(write_artifact(type(made)(*contents), folder / f"{recipe.name}-{len(list(folder.iterdir()))}"))


class _Nearest:
    """A stand-in for the victim: the answer to the nearest row that is known."""

    def __init__(self, x: Array, scores: Array) -> None:
        self.input_shape, self.n_classes = x.shape[1:], scores.shape[1]
        self._x, self._scores = x.reshape(len(x), -1), scores
        self._places = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(self._x))}

    def scores(self, x: Array) -> Array:
        flat = np.ascontiguousarray(x.reshape(len(x), -1))
        place = np.array([self._places.get(row.tobytes(), -1) for row in flat], np.int64)
        if len(new := np.flatnonzero(place < 0)):  # distances of thousands of pictures take long
            place[new] = cdist(flat[new], self._x).argmin(axis=1)
        return np.asarray(self._scores[place])
