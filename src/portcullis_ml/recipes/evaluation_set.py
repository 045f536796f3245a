"""Evaluation set: rows of the owner's with the victim's labels, on which to measure what a client could have learned.

Kesarwani, Mukhoty, Arya, Mehta. "Model Extraction Warning in MLaaS Paradigm", ACSAC 2018, the section on the strategy
by information gain and that by coverage of the input space.

Threat model   none: it is made without knowing the thief.
Cost           at most one decision tree is fitted. The artifact holds rows of the owner's: keep it as you keep those.

Up to `rows` rows are drawn and labelled by the victim itself, since what a thief learns is the victim. Where the victim
is a decision tree, its leaves therefore separate these rows wholly, and its information gain is the entropy of their
labels. The artifact also holds a tree, whose leaves are what `coverage` counts and whose columns are what the monitor
looks at: the victim where it is one decision tree over numbers, else a tree fitted to the rows and their labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.recipes import Recipe
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Model, Rows
from portcullis_ml.models.artifacts import pack_arrays
from portcullis_ml.models.leaves import FILE, tree_arrays, tree_of

__all__ = ["EvaluationSet"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSet(Recipe):
    rows: int = 1000  # rows at most; more makes the status exacter and its computation slower

    name: ClassVar[str] = "evaluation_set"
    needs_outside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, "rows", "an int of at least 10", lambda v: isinstance(v, int) and v >= 10)

    def fit(
        self,
        given: Model,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Contents:
        """set.safetensors: x (n, *input_shape) in single precision, as trees compare, and labels (n,);
        tree.safetensors: what `models.leaves.tree_arrays` gives."""
        if given.n_classes < 2:
            raise NotApplicable("evaluation_set needs a victim that predicts classes; this one does regression.")
        x = rows.x[rng.permutation(len(rows.x))[: self.rows]]
        labels = given.scores(x).argmax(axis=1)
        counts = np.bincount(labels)
        if (counts > 0).sum() < 2:
            raise InputError(
                f"evaluation_set was expected to get rows of which the victim says 2 classes at least; it says "
                f"{labels[0]} of all {len(x)}. Give others."
            )
        watch(1, 1)
        notes = {"rows": len(x), "most_frequent_class": {"times": int(counts.max()), "of": len(x)}}
        arrays: dict[str, np.ndarray] = {"x": np.asarray(x, np.float32), "labels": np.asarray(labels, np.int64)}
        tree = tree_of(given, x, labels)
        files = {"set.safetensors": pack_arrays(arrays), FILE: pack_arrays(tree_arrays(tree))}
        return Contents(files, {**notes, "leaves": tree.leaves})
