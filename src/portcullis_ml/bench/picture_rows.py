"""Pictures of a pool on the scale and in the layout of the test rows, and what to do where they are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from portcullis_ml.bench.rows import LabelledRows
from portcullis_ml.core.errors import InputError

__all__ = ["layout_hint", "scaled_as"]

DEPTHS = {255: "8 bits", 65535: "16 bits"}  # the greatest whole number of a pixel


def scaled_as(pool: LabelledRows, test: LabelledRows) -> LabelledRows:
    """The pool's pictures in the range of the test rows, which `said` then says. InputError where that is not known."""
    least, greatest = float(test.x.min()), float(test.x.max())
    low, high = float(pool.x.min()), float(pool.x.max())
    unit, own_unit = 0 <= least and greatest <= 1, 0 <= low and high <= 1
    if unit == own_unit:
        return pool
    if unit:
        return _brought_down(pool, low, high)
    if 0 <= least and greatest <= 255:
        return _telling(replace(pool, x=pool.x * 255), "The pool's pictures go from 0 to 255, as the test rows do.")
    if not pool.files:
        doubt = f"The pool's pictures go from 0 to 1, the test rows from {least:.3g} to {greatest:.3g}"
        return _telling(pool, f"{doubt}: if those were normalised, normalise the pool likewise.")
    raise InputError(
        f"Pictures of a pool go from 0 to 1; the test rows go from {least:.3g} to {greatest:.3g}, so somebody "
        "normalised them. Give test rows as pixels, and a victim that normalises them itself; or the pool as .npz, "
        "normalised like the test rows."
    )


def _brought_down(pool: LabelledRows, low: float, high: float) -> LabelledRows:
    """Pixels of 8 or 16 bits as numbers from 0 to 1."""
    whole = low >= 0 and bool((pool.x == np.rint(pool.x)).all())
    top = next((top for top in DEPTHS if high <= top), None)
    if not whole or top is None:
        raise InputError(
            f"The pool's pictures go from {low:.3g} to {high:.3g}, the test rows from 0 to 1. Give the pool on the "
            "scale of the test rows; where the victim normalises its inputs itself, normalise neither."
        )
    said = f"The pool's pictures, pixels of {DEPTHS[top]}, were brought to 0 to 1, as the test rows are."
    return _telling(replace(pool, x=pool.x / top), said)


def _telling(pool: LabelledRows, said: str) -> LabelledRows:
    return replace(pool, said=" ".join(filter(None, [pool.said, said])))


def layout_hint(have: tuple[int, ...], want: tuple[int, ...]) -> str:
    """What to do with rows of shape `have` for a model that takes `want`."""
    if len(have) == len(want) == 3 and have == (want[2], *want[:2]):
        return "The channels come first in the rows: give x.transpose(0, 2, 3, 1)."
    if len(have) == len(want) == 3 and have == (*want[1:], want[0]):
        return "The channels come last in the rows: give x.transpose(0, 3, 1, 2)."
    if len(want) == 3 and len(have) == 2 and have in (want[:2], want[1:]):
        axis = 3 if have == want[:2] else 1
        return f"The rows are gray: give numpy.repeat(numpy.expand_dims(x, {axis}), {want[axis - 1]}, axis={axis})."
    return "Reshape them."
