"""The shape of a privacy attack: what a model's answers give away about the rows that it was trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from portcullis_ml.core.attack import Attack, Harvest, Knowledge, Watch
from portcullis_ml.core.oracle import Oracle
from portcullis_ml.core.types import Array, Estimate, Interface, Rows

__all__ = ["Leakage", "PrivacyAttack"]


@dataclass(frozen=True)
class Leakage:
    """What an attack says of the training set.

    membership  (n,) for every candidate, greater means more likely trained on; None for an attack that rebuilds rows
    recovered   (m, *input_shape) rows that it rebuilt, or None
    measures    what it measured of itself; whoever knows the truth adds to them
    queries, stopped and notes are those of `extraction.Extraction`
    """

    membership: Array | None = None
    recovered: Array | None = None
    queries: int = 0
    stopped: str = "done"
    measures: Mapping[str, Estimate] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PrivacyAttack(Attack, ABC):
    """A privacy attack: settings are fields, the algorithm is `infer`. It never learns who the members are."""

    @abstractmethod
    def infer(
        self, harvest: Harvest, interface: Interface, knowledge: Knowledge, candidates: Rows, rng: np.random.Generator
    ) -> Leakage:
        """Ask through `harvest`; `candidates` may have been trained on, one that was not answered for gets NaN."""

    @final
    def __call__(
        self,
        oracle: Oracle,
        knowledge: Knowledge,
        candidates: Rows,
        *,
        rng: np.random.Generator,
        watch: Watch | None = None,
    ) -> Leakage:
        """Run the attack. Raises NotApplicable before the first query when `needs` are not met."""
        harvest = self._begin(oracle, knowledge, watch)
        leakage = self.infer(harvest, oracle.interface, knowledge, candidates, rng)
        return replace(leakage, queries=harvest.paid, stopped=harvest.ended, notes={**leakage.notes, **harvest.notes})
