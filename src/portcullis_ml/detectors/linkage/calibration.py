"""`near` and `flat` from honest clients, and how many of them the test would have linked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array, Floats
from portcullis_ml.detectors.linkage.linkage import Linkage

__all__ = ["calibrated"]

LEAST = 100  # rows of a client, below which it says nothing of a quantile


def calibrated(linkage: Linkage, clients: Mapping[str, Floats]) -> Linkage:
    """The test with `near` and `flat` at half of `rate` for the client who comes nearest to others.

    clients  of each honest client the rows (n, ...) that they asked; every one of them is taken to be alone
    """
    held = {name: x for name, x in clients.items() if len(x) >= LEAST}
    if len(held) < 2:
        raise InputError(
            f"Honest clients: at least two with {LEAST} rows each were expected; got {len(held)}. Give more of them."
        )
    most = max(len(x) for x in held.values())
    wide = replace(linkage, near=1.0, flat=1.0, cap=most, total=sum(map(len, held.values())))
    state = wide.start()
    for name, x in held.items():
        wide.add(state, name, x, 0.0)
    slots = [np.array(account.slots) for account in state.accounts]
    return replace(linkage, near=_least(state.distance, slots, linkage.rate), flat=_flat(state.flat, slots, linkage))


def _least(values: Array, slots: list[Array], rate: float) -> float:
    """The smallest, over clients, of the values that half of `rate` of a client's rows stay below."""
    return float(min(np.quantile(values[s], rate / 2, method="lower") for s in slots))


def _flat(values: Array, slots: list[Array], linkage: Linkage) -> float:
    return max(1.0, _least(values, slots, linkage.rate))
