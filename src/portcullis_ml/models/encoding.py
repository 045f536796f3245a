"""What a thief makes of a table before fitting anything: numbers in [-1, 1], categories as indicators, one flat row.

It follows from the interface alone. Inputs that cannot vary are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Interface, Model

__all__ = ["Encoded", "Encoding", "RowEncoding"]


@dataclass(frozen=True)
class Encoding:
    """low, high (n_inputs,); categories (n_inputs,), 0 for a number; `drop_first` leaves each category's first
    value without an indicator, so that with an intercept the columns are independent."""

    input_shape: tuple[int, ...]
    low: Array
    high: Array
    categories: NDArray[np.int64]
    drop_first: bool = False

    @classmethod
    def of(cls, interface: Interface, *, drop_first: bool = False) -> Encoding:
        counts = [f.categories for f in interface.features] if interface.features else [0] * interface.n_inputs
        return cls(interface.input_shape, interface.low, interface.high, np.array(counts, np.int64), drop_first)

    @classmethod
    def flat(cls, interface: Interface) -> Encoding:
        """Numbers as they are, one flat row: what a model of rows needs to take images."""
        one = np.ones(interface.n_inputs)
        return cls(interface.input_shape, -one, one, np.zeros(interface.n_inputs, np.int64))

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """(n_inputs,) the numbers that can vary."""
        return np.asarray((self.categories == 0) & (self.high > self.low))

    @property
    def width(self) -> int:
        """Columns of an encoded row."""
        coded = self.categories[self.categories > 1]
        return int(self.numeric.sum() + (coded - self.drop_first).sum())

    def __call__(self, x: Array) -> Array:
        """(n, *input_shape), flat or not -> (n, width): numbers first, then the categories in order."""
        flat = np.asarray(x, np.float64).reshape(len(x), len(self.low))
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        columns = [(flat[:, self.numeric] - middle[self.numeric]) / half[self.numeric]]
        for j in np.flatnonzero(self.categories > 1):
            columns.append(flat[:, [j]] == np.arange(self.drop_first, self.categories[j]))
        return np.concatenate(columns, axis=1)

    def decode(self, z: Array) -> Array:
        """(n, width) -> (n, *input_shape) for an encoding without categories; constant inputs get their value."""
        flat = np.tile((self.low + self.high) / 2, (len(z), 1))
        flat[:, self.numeric] += z * ((self.high - self.low) / 2)[self.numeric]
        return flat.reshape(len(z), *self.input_shape)

    def unscale(self, w: Array, b: Array) -> tuple[Array, Array]:
        """w (c, width), b (c,) on encoded rows -> w (c, n_inputs), b (c,) on inputs; without categories."""
        raw = np.zeros((len(w), len(self.low)))
        raw[:, self.numeric] = w / ((self.high - self.low) / 2)[self.numeric]
        return raw, b - raw @ ((self.low + self.high) / 2)


class RowEncoding(Protocol):
    """Any way of encoding rows."""

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    def __call__(self, x: Array, /) -> Array:
        """(n, *input_shape) -> (n, width)."""


@dataclass(eq=False)
class Encoded:
    """A model of encoded rows, as a model of the inputs."""

    encoding: RowEncoding
    inner: Model

    def __post_init__(self) -> None:
        self.input_shape: tuple[int, ...] = self.encoding.input_shape
        self.n_classes = self.inner.n_classes

    def scores(self, x: Array) -> Array:
        return self.inner.scores(self.encoding(x))
