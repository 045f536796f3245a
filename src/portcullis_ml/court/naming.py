"""Naming: how many marked answers of a source are too many for a model that owes it nothing, where there are many keys.

The null of a key is the greatest of what theory says and the 95% upper bounds of what models answer that owe this key
nothing: innocent ones, and those of the other licensees. Where the answers of keys were drawn uniformly, all keys are
alike for such a model, and its share is that of all of them.

Holm. "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array, Labels
from portcullis_ml.ownership._counted import Counted, at_most, chance_of, suffices

__all__ = ["Finding", "References", "Source", "holm"]

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """Whom a key was made for, and the pairs of it that are asked: x (n, *input_shape), labels (n,)."""

    name: str
    scheme: Counted[Any]
    x: Array
    labels: Labels
    n_classes: int

    @property
    def alike(self) -> bool:
        """Whether a model that owes them nothing answers all keys of this scheme as marked with the same chance."""
        return self.scheme.least == 0

    def matches(self, given: Labels) -> int:
        """How many of these answers, to the questions at the head of x, are as marked."""
        return int((given == self.labels[: len(given)]).sum())


@dataclass(frozen=True)
class Finding:
    """What answers say of one source. `adjusted` is the p-value after Holm's correction for the number of keys."""

    name: str
    matches: int
    n: int
    null_chance: float
    p_value: float
    adjusted: float
    lacking: str = ""


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given. To reject those below a level errs at all with at most that chance."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = highest
    return adjusted


@dataclass(frozen=True)
class References:
    """What models answer of which it is known whose they are: matches (models, sources), owners (None for nobody's)."""

    sources: Sequence[Source]
    matches: Counts
    owners: Sequence[str | None]

    def findings(self, found: Counts, n: Counts, without: int | None = None) -> tuple[Finding, ...]:
        """What so many matches of n answers, (sources,) each, say of every source.

        without   a reference model that has no part in the null, so that it can be judged by it
        """
        rows, p_values = [], []
        for j, source in enumerate(self.sources):
            others = [k for k, who in enumerate(self.owners) if who != source.name and k != without]
            chance = max([source.scheme.chance(source.n_classes), *(self._bound(k, j) for k in others)])
            too_few = len(others) + (without is not None) < source.scheme.least
            p_values.append(1.0 if too_few else chance_of(int(found[j]), int(n[j]), chance))
            lacking = self._lacking(source, int(n[j]), chance)
            if too_few:
                needs = f"{source.scheme.name} needs {source.scheme.least} innocent models to compare with"
                lacking = f"{needs}, and {len(others)} were given."
            rows.append((source.name, int(found[j]), int(n[j]), chance, p_values[-1], lacking))
        adjusted = holm(p_values)
        return tuple(Finding(*row[:5], value, row[5]) for row, value in zip(rows, adjusted, strict=True))

    def judged(self, k: int, level: float) -> set[str]:
        """Whom a reference model is taken to come from, by the null of the others."""
        n = np.array([len(s.x) for s in self.sources])
        return {f.name for f in self.findings(self.matches[k], n, k) if f.adjusted < level}

    def _bound(self, k: int, j: int) -> float:
        """The upper bound of the share of marked answers that model k gives of the key j, which it owes nothing."""
        of = [j]
        if self.sources[j].alike:
            kind = self.sources[j].scheme.name
            of = [i for i, s in enumerate(self.sources) if s.scheme.name == kind and s.name != self.owners[k]]
        return at_most(int(self.matches[k, of].sum()), sum(len(self.sources[i].x) for i in of))

    def _lacking(self, source: Source, n: int, chance: float) -> str:
        """Why answers cannot tell, and how many would suffice; "" where they can."""
        kept, keys = source.scheme.kept, len(self.sources)
        enough = suffices(chance, kept, source.scheme.level / keys)
        if enough is None:
            return (
                f"A model that owes {source.name} nothing may match {chance:.0%} of {n} answers: so many tell nothing. "
                "Ask more pairs of each key."
            )
        if n >= enough:
            return ""
        return (
            f"{n} answers of {source.name} are too few among {keys} keys: {enough} would suffice for a copy that "
            f"gives {kept:.0%} of them as marked."
        )
