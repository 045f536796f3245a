"""Marked questions drawn from a secret: abstract pictures for pictures, rows of extreme values for tables.

Every question has bytes of its own from the secret, so that those shown to a court say nothing of the others. Values
are whole multiples of 1/255 of the range, as those of 8-bit pictures are.
"""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.types import Array, Interface
from portcullis_ml.ownership._pairs import drawn

__all__ = ["questions"]

WAVES = 4  # plane waves that an abstract picture is made of
CYCLES = 3.0  # of a wave across the picture, at most
LEVELS = 255
MARGIN = 12  # levels from either end of a column's range
CHANNELS = 4  # at most so many: a longer axis is one of pixels


def questions(secret: bytes, n: int, interface: Interface) -> Array:
    """(n, *input_shape) questions within the interface's bounds."""
    rows = []
    for i in range(n):
        rng = np.random.default_rng(list(drawn(secret, "question", i)))
        if interface.features is None and len(interface.input_shape) > 1:
            low, high = interface.bounds
            rows.append(low + (high - low) * np.rint(LEVELS * abstract(interface.input_shape, rng)) / LEVELS)
        else:
            rows.append(_row(interface, rng))
    return np.array(rows)


def abstract(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """(*shape) a picture in [0, 1]: coloured stripes and spots that show nothing."""
    axis = 0 if len(shape) == 3 and (shape[0] <= CHANNELS or shape[2] > CHANNELS) else len(shape) - 1
    channels = shape[axis] if len(shape) == 3 else 1
    height, width = (side for i, side in enumerate(shape[:3]) if len(shape) == 2 or i != axis)
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]  # fmt: skip
    turns = rng.uniform(-CYCLES, CYCLES, (WAVES, 2))
    phases = rng.uniform(0, 2 * np.pi, (WAVES, 1, 1))
    waves = np.sin(2 * np.pi * (turns[:, :1, None] * y + turns[:, 1:, None] * x) + phases)
    mixed = np.einsum("cw,whv->chv", rng.normal(size=(channels, WAVES)), waves)
    picture = 0.5 + 0.5 * np.tanh(1.5 * mixed)
    return picture[0] if len(shape) == 2 else np.moveaxis(picture, 0, axis)


def _row(interface: Interface, rng: np.random.Generator) -> Array:
    """A row of extreme values: every number within 5% of its column's range from one end, every category at random.

    Single values are those of ordinary rows and all together of none, so the mark costs little where data are dense.
    """
    low, high = interface.low, interface.high
    step = rng.integers(MARGIN + 1, size=len(low))
    steps = np.where(rng.random(len(low)) < 0.5, step, LEVELS - step)
    row = low + (high - low) * steps / LEVELS
    for j, feature in enumerate(interface.features or ()):
        if feature.categorical:
            row[j] = rng.integers(feature.categories)
    return row.reshape(interface.input_shape)
