"""Robust membership inference (RMIA): is the victim surer of this row than of most others, each measured by what models
without a stake think of it?

Zarifzadeh, Liu, Shokri. "Low-Cost High-Power Membership Inference Attacks", ICML 2024.

Threat model   answers: top k or more. data: the candidates' true classes, a learner like the victim's, a labelled pool.
               A known guard is rehearsed on the reference models' answers.
Query cost     one query for each candidate, and one for each row of the population.

The suspicion of x is the share of population rows z with [p(x | victim) / p(x)] / [p(z | victim) / p(z)] > gamma, where
p(x) is the mean over reference models. *offline* knows those only that did not hold x, and takes
((1 + a) * mean + (1 - a)) / 2 for it. Made for few reference models. Without a labelled pool, the other candidates
stand for the population; members among them cost some power, and a note says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Labels, Reveals, Rows
from portcullis_ml.privacy._shared import FLOOR, asked, classes_of, shadows_for, shares, shown

__all__ = ["Rmia"]


@dataclass(frozen=True, kw_only=True)
class Rmia(PrivacyAttack):
    mode: Literal["online", "offline"] = "online"  # reference models of which half held the row, or none
    gamma: float = 2.0  # how much surer than of z counts, at least 1
    a: float = 0.3  # offline: how much surer models that held a row are thought to be; less means more
    models: int = 4  # reference models, an even number
    population: int = 1_000  # rows of the pool that candidates are compared with, at most
    most: int = 5_000  # rows of the pool that reference models are trained on, at most
    shadows: Artifact | None = None  # a folder of shadow models trained before, on the same rows
    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "rmia"
    needs: ClassVar[Needs] = Needs(answers=Reveals.TOP_K, learner=True)

    def __post_init__(self) -> None:
        check(self, "mode", "'online' or 'offline'", lambda v: v in ("online", "offline"))
        check(self, "gamma", "at least 1", lambda v: v >= 1)
        check(self, "a", "in [0, 1]", lambda v: 0 <= v <= 1)
        check(self, "models", "an even int of at least 2", lambda v: isinstance(v, int) and v >= 2 and v % 2 == 0)
        check(self, "population", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "most", "an int of at least 0", lambda v: isinstance(v, int) and v >= 0)
        check(self, "batch", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        n = len(classes_of(candidates, self.name))
        if n == 0:
            return Leakage(membership=np.empty(0))
        shadows, rows = shadows_for(self, candidates, knowledge, interface, rng)
        assert rows.y is not None
        others = n + rng.permutation(len(rows) - n)[: min(self.population, harvest.left // 5)]
        wanted = np.concatenate([others, np.arange(n)])  # the population first: without it nothing can be said
        ratio = np.full(len(wanted), np.nan)
        expected = self._expected(shadows.held[:, wanted], [
            _true(shown(model, rows.x[wanted], interface, knowledge), rows.y[wanted], interface)
            for model in shadows.models
        ])  # fmt: skip
        for part, answer in asked(harvest, rows.x[wanted], self.batch):
            ratio[part] = _true(answer, rows.y[wanted][part], interface) / expected[part]
        of_others, of_candidates = ratio[: len(others)], ratio[len(others) :]
        compared = of_others if len(others) else of_candidates
        notes = {
            "shadows": len(shadows.models),
            "population": len(compared),
            "population_is_the_candidates": not len(others),
        }
        return Leakage(membership=self._share(of_candidates, compared), notes=notes)

    def _expected(self, held: NDArray[np.bool_], theirs: list[Array]) -> Array:
        """(rows,) what a model without a stake thinks of the true class."""
        p = np.stack(theirs)
        if self.mode == "online":
            return np.asarray(p.mean(axis=0))
        out = np.where(held, 0, p).sum(axis=0) / (~held).sum(axis=0)
        return np.asarray(((1 + self.a) * out + (1 - self.a)) / 2)

    def _share(self, ratio: Array, compared: Array) -> Array:
        """(n,) the share of compared rows whose ratio is exceeded `gamma` times; NaN where nothing was answered."""
        known = np.sort(compared[~np.isnan(compared)])
        if len(known) == 0:
            return np.full(len(ratio), np.nan)
        share = np.searchsorted(known, ratio / self.gamma, side="left") / len(known)
        return np.where(np.isnan(ratio), np.nan, share)


def _true(answer: Answer, y: Labels, interface: Interface) -> Array:
    return np.maximum(shares(answer, interface.n_classes)[np.arange(len(y)), y], FLOOR)
