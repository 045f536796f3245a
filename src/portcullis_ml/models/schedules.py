"""How the learning rate goes while a network is trained: constant, along a cosine, or through one cycle.

The cosine falls from the greatest rate to 0 (Loshchilov and Hutter, ICLR 2017, without restarts). One cycle rises from
0 over the first quarter of the steps, then falls the same way (Smith and Topin, "Super-Convergence", arXiv 1708.07120).
"""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["SCHEDULES", "Schedule", "rate_at"]

Schedule = Literal["constant", "cosine", "one_cycle"]
SCHEDULES = ("constant", "cosine", "one_cycle")
RISING = 0.25  # of the steps of one cycle


def rate_at(schedule: Schedule, done: float) -> float:
    """The learning rate, as a share of the greatest one, when this share of the steps is done."""
    if schedule == "constant":
        return 1.0
    rising = RISING if schedule == "one_cycle" else 0.0
    if done < rising:
        return done / rising
    return 0.5 + 0.5 * math.cos(math.pi * (done - rising) / (1 - rising))
