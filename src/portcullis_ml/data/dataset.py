"""One data set in memory: rows, labels, and what is known of its columns and classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Feature, Interface, Labels

__all__ = ["Dataset"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Rows with their true labels, in the order of the source.

    x, x_test            (n, *input_shape) float64
    y, y_test            (n,) int64, or float64 for regression
    classes              the names of the labels; empty for regression
    bounds               least and greatest value of an input, where there are no features
    features             the columns of a table
    groups, groups_test  (n,) what belongs together (frames of one object), or None
    dropped              rows of the source left out because a value was missing
    lacking              columns of the source that lack values, those that lack most first
    columns              names of all the source's columns, where it is a table
    target               the name of the label column, where it is a table that has one
    split                whether the source itself says which rows are for testing
    """

    name: str
    x: Array
    y: NDArray[np.int64] | Array
    x_test: Array
    y_test: NDArray[np.int64] | Array
    classes: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    features: tuple[Feature, ...] | None = None
    groups: Labels | None = None
    groups_test: Labels | None = None
    dropped: int = 0
    lacking: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    target: str = ""
    split: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def interface(self) -> Interface:
        """The interface of an API that serves a model of this data, showing everything."""
        return Interface(
            input_shape=self.input_shape,
            n_classes=self.n_classes,
            task="classification" if self.classes else "regression",
            bounds=self.bounds,
            features=self.features,
        )

    def __str__(self) -> str:
        lost = f", {self.dropped} rows with missing values dropped" if self.dropped else ""
        rows = f"{len(self.x)} + {len(self.x_test)} rows of {self.input_shape}"
        return f"{self.name}: {rows}, {self.n_classes} classes{lost}"
