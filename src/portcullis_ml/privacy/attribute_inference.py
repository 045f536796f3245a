"""Attribute inference: guess a hidden column of a person's row from the other columns and the model's answers.

Fredrikson, Lantz, Jha, Lin, Page, Ristenpart. "Privacy in Pharmacogenetics: An End-to-End Case Study of Personalized
Warfarin Dosing", USENIX Security 2014; Yeom, Giacomelli, Fredrikson, Jha, IEEE CSF 2018, section 4.

Threat model   answers: any; labels say whether a value fits. data: all columns of a candidate but one, and their true
               class; a pool of rows of other people, from which the prior comes.
Query cost     for each candidate one query for each value that the hidden column may have.

Every value v is put in and the model asked: the score is P(v) times the probability of the true class. With
`prior=imputed`, P(v) is what a forest says that has seen the pool only; with `marginal` it is how frequent v is there.
Whoever knows the truth must compare with that forest alone: what it knows without the model is no leak of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Rows
from portcullis_ml.models.imputation import imputed
from portcullis_ml.privacy._shared import FLOOR, asked, classes_of, shares

__all__ = ["AttributeInference", "hidden_column"]


@dataclass(frozen=True, kw_only=True)
class AttributeInference(PrivacyAttack):
    column: str  # the name of the hidden column, a category
    prior: Literal["imputed", "marginal"] = "imputed"  # what is known of it from the pool
    batch: int = 1024  # rows sent at a time

    name: ClassVar[str] = "attribute_inference"
    needs: ClassVar[Needs] = Needs(features=True, pool=True)

    def __post_init__(self) -> None:
        check(self, "column", "a column's name", lambda v: isinstance(v, str) and v != "")
        check(self, "prior", "'imputed' or 'marginal'", lambda v: v in ("imputed", "marginal"))
        check(self, "batch", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        y, n = classes_of(candidates, self.name), len(candidates)
        column, values = hidden_column(interface, self.column)
        trials = np.repeat(candidates.x, values, axis=0)  # the hidden column is written over, and never read
        trials[:, column] = np.tile(np.arange(values), n)
        fits = np.full(n * values, np.nan)
        for part, answer in asked(harvest, trials, self.batch):
            p, of = shares(answer, interface.n_classes), np.repeat(y, values)[part]
            fits[part] = p[np.arange(len(p)), of]
        told = fits.reshape(n, values)
        whole = ~np.isnan(told).any(axis=1)  # a candidate with some values not answered is guessed by the prior alone
        score = np.log(self._prior(knowledge, candidates, column, values, rng))
        score[whole] += np.log(np.maximum(told[whole], FLOOR))
        recovered = candidates.x.copy()
        recovered[:, column] = score.argmax(axis=1) if n else recovered[:, column]
        return Leakage(
            recovered=recovered, notes={"column": self.column, "values": values, "asked_about": int(whole.sum())}
        )

    def _prior(
        self, knowledge: Knowledge, candidates: Rows, column: int, values: int, rng: np.random.Generator
    ) -> Array:
        assert knowledge.pool is not None
        groups = knowledge.pool_groups
        known = Rows(knowledge.pool, None if groups is None else np.asarray(groups, np.int64))
        if self.prior == "imputed":
            return imputed(known, candidates, column, values, rng=rng)
        counts = np.bincount(np.rint(known.x[:, column]).astype(np.int64), minlength=values)[:values] + 1.0
        return np.tile(counts / counts.sum(), (len(candidates), 1))


def hidden_column(interface: Interface, name: str) -> tuple[int, int]:
    """The place of the column of that name, and how many values it may have."""
    names = [feature.name for feature in interface.features or ()]
    if name not in names:
        raise ParameterError("attribute_inference.column", f"one of {', '.join(names)}", name)
    feature = (interface.features or ())[names.index(name)]
    if not feature.categorical:
        raise NotApplicable(f"attribute_inference guesses categories; {name} is a number. Name a column of words.")
    return names.index(name), feature.categories
