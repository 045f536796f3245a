"""What attacks share that wrap another attack: letting it ask, or asking as anyone would where none is wrapped."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.types import Interface, Model
from portcullis_ml.extraction.knockoff import ask_pool

__all__ = ["collect"]

BATCH = 256  # pool rows sent at a time


def collect(
    of: ExtractionAttack | None, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator
) -> Model | None:
    """Ask until the budget or the guard ends it; the copy that the wrapped attack makes, if there is one.

    Where nothing is wrapped, the questions are the pool's rows, or uniform points where there is no pool. Raises
    NotApplicable, before anything is asked, where the wrapped attack lacks something.
    """
    if of is None:
        if knowledge.pool is not None and len(knowledge.pool):
            ask_pool(harvest, knowledge.pool, BATCH, rng)
        else:
            harvest.ask(interface.uniform(harvest.left, rng))
        return None
    if reason := of.needs.lacking(interface, knowledge, of.name):
        raise NotApplicable(reason)
    return of.steal(harvest, interface, knowledge, rng)
