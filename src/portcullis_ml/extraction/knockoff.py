"""Knockoff: ask about natural images from anywhere, and train on whatever comes back.

Orekondy, Schiele, Fritz. "Knockoff Nets: Stealing Functionality of Black-Box Models", CVPR 2019, section 4.1
(the random strategy).

Threat model   answers: probabilities (labels work, less well).  data: a pool of natural inputs; it need not
               resemble the victim's domain, and nobody has labelled it.
Query cost     one per pool row. When the pool is used up, rows repeat.

The victim's answers to unrelated pictures still say how it sees: a copy that agrees with it on thousands of them,
probabilities included, agrees with it on its own task. Nothing is chosen by what came back, so the stream looks like
any customer with many pictures, and a detector of synthetic queries has nothing to see. The copy is trained once, from
scratch, on the whole transfer set: no epoch is picked by looking at the victim's test set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Model

__all__ = ["Knockoff", "ask_pool"]


@dataclass(frozen=True, kw_only=True)
class Knockoff(ExtractionAttack):
    selection: Literal["random"] = "random"  # which pool row comes next: any that has not been asked
    batch: int = 256  # rows sent at a time; a guard that closes the door does so inside one

    name: ClassVar[str] = "knockoff"
    needs: ClassVar[Needs] = Needs(pool=True, learner=True)

    def __post_init__(self) -> None:
        check(self, "selection", "'random'", lambda v: v == "random")
        check(self, "batch", "an int, at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.pool is not None
        assert knowledge.learner is not None  # `needs` says so
        ask_pool(harvest, knowledge.pool, self.batch, rng)
        return knowledge.learner.fit(harvest.x, harvest.targets(), rng=rng)


def ask_pool(harvest: Harvest, pool: Array, batch: int, rng: np.random.Generator) -> None:
    """Ask about pool rows in random order until the budget or the guard ends it, and note how many were repeats."""
    order = without_replacement(len(pool), batch, rng)
    while harvest.open:
        harvest.ask(pool[next(order)])
    harvest.notes["repeated_rows"] = max(0, len(harvest) - len(pool))


def without_replacement(n: int, batch: int, rng: np.random.Generator) -> Iterator[Labels]:
    """Indices below n, `batch` at a time and for ever: all of them once in random order, then all of them again."""
    waiting = np.empty(0, np.int64)
    while True:
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(n)])
        yield waiting[:batch]
        waiting = waiting[batch:]
