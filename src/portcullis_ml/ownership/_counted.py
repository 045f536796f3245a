"""From counted matches to evidence: the null, its p-value, and how many answers would suffice.

A scheme that asks marked questions and counts answers inherits `Counted`. The null says with which chance an innocent
model answers a marked question as marked: the scheme's theory (1 of c classes where answers were drawn uniformly), or
the upper bound of what the innocent model answered that matches most, where that is more. Each innocent model is put
to the same examination, judged by the others.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from portcullis_ml.core.ownership import Evidence, K
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Labels
from portcullis_ml.ownership._pairs import Paired

__all__ = ["Counted", "at_least", "at_most", "bits", "chance_of", "suffices", "suffices_beside"]

SURE = 0.95  # confidence of the upper bound of a share of matches
MOST = 20_000  # answers beyond which nobody asks


def chance_of(matches: int, n: int, chance: float) -> float:
    """The probability of so many matches or more in n answers that match with this chance each; 1 for no answers."""
    from scipy.stats import binom

    return float(binom.sf(matches - 1, n, chance)) if n else 1.0


def at_most(matches: int, n: int) -> float:
    """The one-sided 95% upper bound (Clopper and Pearson) of the share that `matches` of n estimates."""
    from scipy.special import betaincinv

    return float(betaincinv(matches + 1, n - matches, SURE)) if matches < n else 1.0


def at_least(matches: int, n: int) -> float:
    """The one-sided 95% lower bound of the share that `matches` of n estimates."""
    return 1.0 - at_most(n - matches, n)


@lru_cache(maxsize=1024)
def suffices(chance: float, share: float, level: float) -> int | None:
    """The least number of answers of which `share` matches would have a p-value below `level`; None if none has."""
    from scipy.stats import binom

    for n in (np.arange(1, 129), np.arange(129, MOST + 1)) if share > chance else ():
        found = np.flatnonzero(binom.sf(np.ceil(share * n - 1e-9) - 1, n, chance) < level)
        if len(found):
            return int(n[found[0]])
    return None


@lru_cache(maxsize=1024)
def suffices_beside(innocent: float, share: float, level: float) -> int | None:
    """As `suffices`, where the null is the 95% upper bound of what an innocent model matches, if it goes on matching
    this share: more answers then make the null smaller too."""
    from scipy.special import betaincinv
    from scipy.stats import binom

    if share <= innocent:
        return None
    n = np.arange(1, MOST + 1)
    matches = np.minimum(np.ceil(innocent * n - 1e-9), n - 1)  # all n of them would leave no chance to tell
    chance = betaincinv(matches + 1, n - matches, SURE)
    found = np.flatnonzero(binom.sf(np.ceil(share * n - 1e-9) - 1, n, chance) < level)
    return int(n[found[0]]) if len(found) else None


@dataclass(frozen=True, kw_only=True)
class Counted(Paired[K]):
    kept: float = 0.8  # share of the marked questions that a copy is taken to answer as marked: how many suffice

    def __post_init__(self) -> None:
        check(self, "kept", "in (0, 1]", lambda v: 0 < v <= 1)

    @abstractmethod
    def chance(self, n_classes: int) -> float:
        """The chance, by theory, that an innocent model answers a marked question as marked; 0 where none is known."""

    def counted(self, labels: Labels, answer: Answer, n_classes: int) -> Evidence:
        """The evidence in these answers to the marked questions at the head of `labels` (n,), by theory alone."""
        given = answer.labels if answer.labels is not None else np.empty(0, np.int64)
        matches, chance = int((given == labels[: len(given)]).sum()), self.chance(n_classes)
        found = Evidence(matches, len(given), "", 1.0, level=self.level, assumed=self.assumed, notes={"chance": chance})
        return self._under(found, chance, "by theory", 0)

    def weigh(self, found: Evidence, innocent: Sequence[Evidence], learnt: Sequence[bool] = ()) -> Evidence:
        """The evidence under the greater of both nulls, and how many innocent models the others would convict.

        The one that matches most decides, so models that learnt the owner's rows and others need not be kept apart.
        """
        asked = [e for e in innocent if e.n]
        if not asked:
            return found
        bounds = [at_most(e.matches, e.n) for e in asked]
        theory, order = found.notes["chance"], np.argsort(bounds)
        highest, second = bounds[order[-1]], bounds[order[-2]] if len(bounds) > 1 else 0.0
        others = [max(theory, second if i == order[-1] else highest) for i in range(len(asked))]
        accused = sum(chance_of(e.matches, e.n, q) < self.level for e, q in zip(asked, others, strict=True))
        said = "by theory"
        if highest > theory:
            said = f"the 95% upper bound of the one that matches most of {len(asked)} innocent models"
        notes = {
            "innocent_shares": [e.matches / e.n for e in asked],
            "estimated_chance": highest,
            "false_claims_at_most": at_most(accused, len(asked)),
        }
        found = replace(found, accused=accused, tried=len(asked), notes={**found.notes, **notes})
        resembles = "The innocent models answer the marked questions as any other would."
        found = replace(found, assumed=(*self.assuming(learnt), resembles))
        return self._under(found, max(theory, highest), said, len(asked))

    def _under(self, found: Evidence, chance: float, said: str, tried: int) -> Evidence:
        """The evidence under one null."""
        null = f"an innocent model answers a marked question as marked with chance {chance:.3g} ({said})"
        if tried < self.least:
            lacking = f"{self.name} needs {self.least} innocent models to compare with, and {tried} were given."
            return replace(found, null="unknown without innocent models", p_value=1.0, lacking=lacking)
        p_value, enough = chance_of(found.matches, found.n, chance), self._enough(found, chance)
        lacking = "" if p_value < self.level else self._too_few(found, chance, enough)
        notes = {**found.notes, "null_chance": chance, "answers_that_suffice": enough, "bits": bits(p_value)}
        if found.n:
            notes |= self._to_convict(found, chance)
        return replace(found, null=null, p_value=p_value, lacking=lacking, notes=notes)

    def _enough(self, found: Evidence, chance: float) -> int | None:
        """How many answers would suffice for a copy. A null that innocent models give shrinks as they answer more."""
        if chance > found.notes["chance"]:
            return suffices_beside(max(found.notes["innocent_shares"]), self.kept, self.level)
        return suffices(chance, self.kept, self.level)

    def _too_few(self, found: Evidence, chance: float, enough: int | None) -> str:
        """Why so many answers cannot tell, and how many would suffice; "" where they can."""
        few = f"{found.n} answers are too few for p < {self.level:g}"
        most = max(found.notes.get("innocent_shares", [chance]))
        if enough is not None:
            beside = f", if innocent models go on matching {most:.0%} at most" if chance > found.notes["chance"] else ""
            would = f"{few}: {enough} would suffice for a copy that answers {self.kept:.0%} of them as marked{beside}."
            return would if found.n < enough else ""
        least = suffices_beside(0.0, self.kept, self.level)
        if least is not None and found.n < least:
            return f"{few}: an innocent model matches {most:.0%} of them, and at least {least} are needed to tell."
        return (
            f"An innocent model may match {chance:.0%} of these answers and a copy {self.kept:.0%}: no number of such "
            "answers tells."
        )

    def _to_convict(self, found: Evidence, chance: float) -> dict[str, int | None]:
        """After how many questions a suspect that matches as often as this one is convicted: by its share of matches,
        and by the lower bound of that share. None where no number would do."""
        return {
            "queries_to_convict": suffices(chance, found.matches / found.n, self.level),
            "queries_to_convict_at_most": suffices(chance, at_least(found.matches, found.n), self.level),
        }


def bits(p_value: float) -> float:
    """-log2 of a p-value, as schemes state their confidence; at most 1,074 for one that underflows."""
    return round(-math.log2(max(p_value, 5e-324)), 1)
