"""Domain filter: a small network that tells the victim's own rows from rows of anywhere else.

Atli, Szyller, Juuti, Marchal, Asokan. "Extraction of Complex DNN Models: Real Threat or Boogeyman?", EDSMLS 2020,
the section on detecting foreign queries (a binary classifier, training data against a generic pool).

Threat model   the thief asks about natural rows that are not of the victim's domain.
Cost           one training; serving it is one pass of a network with two hidden layers of 128 units, without torch.

Outside rows are drawn until there are as many as own rows, so that a probability of one half is the fair line. A tenth
of either side is set aside, and the notes say how many of those rows the filter puts on the right side. A thief whose
rows are like the victim's own is not recognised, and rows that are like neither side may fall on either.
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
from portcullis_ml.models.dense import DenseModel, dense_arrays

__all__ = ["DomainFilter"]


@dataclass(frozen=True, kw_only=True)
class DomainFilter(Recipe):
    epochs: int = 20  # passes over the rows

    name: ClassVar[str] = "domain_filter"

    def __post_init__(self) -> None:
        check(self, "epochs", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def fit(
        self,
        given: Model,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Contents:
        """filter.safetensors: the arrays of a `models.dense.DenseModel` with the classes own (0) and outside (1)."""
        from portcullis_ml.models.torch import TorchLearner

        assert outside is not None  # `needs_outside` says so
        own, own_aside = _set_aside(rows.x, rng)
        other, other_aside = _set_aside(outside, rng)
        drawn = other[rng.choice(len(other), len(own), replace=len(other) < len(own))]
        x = np.concatenate([own, drawn])
        targets = np.eye(2)[np.repeat([0, 1], len(own))]
        learner = TorchLearner(network="table_mlp", epochs=self.epochs)
        arrays = dense_arrays(learner.fit(x, targets, rng=rng, progress=watch))
        model = DenseModel(arrays)
        held = {"own rows": (own_aside, 0), "outside rows": (other_aside, 1)}
        right = {name: int((model.scores(part).argmax(axis=1) == side).sum()) for name, (part, side) in held.items()}
        notes = {name: {"right": right[name], "of": len(part)} for name, (part, _) in held.items()}
        return Contents({"filter.safetensors": pack_arrays(arrays)}, {"set_aside": notes})


def _set_aside(x: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """x (n, ...) in two parts at random, the second a tenth of it and at least one row."""
    if len(x) < 2:
        raise InputError(f"domain_filter was expected to get 2 rows of either side at least; got {len(x)}. Give more.")
    order = rng.permutation(len(x))
    cut = max(len(x) // 10, 1)
    return x[order[cut:]], x[order[:cut]]
