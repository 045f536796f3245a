"""How far a distance computed in float32 may be off: what the search for the nearest row allows for rounding."""

from __future__ import annotations

__all__ = ["LOOSE", "STEP", "TINY", "slack"]

SLACK = 1e-4  # float32 rounding of a bound, relative to the squared norms: twice what a sum of 784 squares can lose
STEP = 256  # inputs that the compiled search adds up in float32, in whatever order; the sums of such in float64
LOOSE = 5e-4  # of a sketch summed like that, relative to a length; see `_sketches.Compiled`
TINY = 1e-18  # more than the root of all squares that fade below float32's normal numbers


def slack(d: int) -> float:
    """The slack for rows of d inputs: the rounding of a sum grows with its length."""
    return SLACK * max(1.0, d / 784)
