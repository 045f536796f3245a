"""Incomplete queries: a pipeline that answers rows with inputs left out, as BigML and Amazon did in 2016.

A tree stops at the first split whose input is omitted, and answers what that node shows. For any other model an
omitted input contributes nothing: its indicators, bins or scaled value are 0. A row of NaN asks for the root, or for
the intercept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Feature, Model
from portcullis_ml.models.table import TableModel, places
from portcullis_ml.models.tree import TreeModel

__all__ = ["IncompleteTable", "answering_nodes", "sources"]


class IncompleteTable(TableModel):
    """A TableModel that takes NaN for "omitted". The pipeline's last step predicts; the others prepare columns.

    shows  what a tree's node gives away, see TreeModel
    """

    def __init__(
        self, estimator: Any, features: Sequence[Feature], *, shows: Literal["shares", "confidence"] = "shares"
    ) -> None:
        super().__init__(estimator, features)
        steps = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
        self._prepare, self._last = steps[:-1], steps[-1]
        self._source = _through(self._prepare, list(range(len(self.features))))
        self._filler = np.array([0.0 if f.categorical else (f.low + f.high) / 2 for f in self.features])
        self._tree = TreeModel.of(self._last, shows=shows) if hasattr(self._last, "tree_") else None

        if shows == "confidence" and self._tree is None:
            raise InputError(
                f"--answers leaves wants a decision tree at the end of the pipeline; this one ends in "
                f"{type(self._last).__name__}. Leave it out."
            )

    def scores(self, x: Array) -> Array:
        """(n, d) coded rows, NaN where omitted -> (n, n_classes), or (n, 1) for regression."""
        omitted = np.isnan(x)
        if self._tree is None and not omitted.any():
            return super().scores(x)
        rows = self._rows(np.where(omitted, self._filler, x))
        for step in self._prepare:
            rows = step.transform(rows)
        rows = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, np.float64)
        if self._tree is not None:
            return self._tree.scores(np.where(omitted[:, self._source], np.nan, rows))
        rows = np.where(omitted[:, self._source], 0.0, rows)
        if self.n_classes == 0:
            return np.asarray(self._last.predict(rows), np.float64).reshape(len(x), -1)
        return np.asarray(self._last.predict_proba(rows), np.float64)


def answering_nodes(model: Model, name: str, *, leaves: bool) -> IncompleteTable:
    """The same pipeline over a table, taking incomplete rows; with `leaves` a tree shows its nodes' confidence."""
    if not isinstance(model, TableModel):
        asked = "--answers leaves" if leaves else "--incomplete"
        raise InputError(f"{asked} wants a scikit-learn pipeline over the columns of a table; {name} is none.")
    return IncompleteTable(model.estimator, model.features, shows="confidence" if leaves else "shares")


def _through(steps: Sequence[Any], columns: list[int]) -> NDArray[np.int64]:
    """For every column that comes out of the steps, the input that it was made of."""
    for step in steps:
        columns = list(sources(step, columns))
    return np.array(columns, np.int64)


def sources(step: Any, columns: list[int]) -> Iterator[int]:
    """The input behind every column that a fitted transformer makes of these."""
    if step in (None, "passthrough"):
        yield from columns
    elif hasattr(step, "steps"):
        yield from _through([inner for _, inner in step.steps], columns).tolist()
    elif hasattr(step, "transformers_"):
        names = [str(n) for n in getattr(step, "feature_names_in_", ())]
        for _, inner, chosen in step.transformers_:
            own = [columns[j] for j in places(chosen, names, len(columns))]
            if not (isinstance(inner, str) and inner == "drop") and own:
                yield from sources(inner, own)
    else:
        widths = _widths(step, len(columns))
        for column, width in zip(columns, widths, strict=True):
            yield from [column] * width


def _widths(step: Any, n: int) -> list[int]:
    """How many columns a transformer makes of each of its n."""
    total = len(step.get_feature_names_out())
    widths = [1] * n
    if hasattr(step, "categories_"):
        dropped = getattr(step, "drop_idx_", None)
        gone = [0 if dropped is None or d is None else 1 for d in (dropped if dropped is not None else [None] * n)]
        widths = [len(c) - g for c, g in zip(step.categories_, gone, strict=True)]
    elif hasattr(step, "n_bins_") and step.encode != "ordinal":
        widths = [int(k) for k in step.n_bins_]
    if sum(widths) != total and total == n:
        widths = [1] * n  # an ordinal code
    if sum(widths) != total:
        raise InputError(
            f"Incomplete queries need columns that are made of one input each; {type(step).__name__} makes {total} of "
            f"{n}. Leave it out, or audit without --incomplete."
        )
    return widths
