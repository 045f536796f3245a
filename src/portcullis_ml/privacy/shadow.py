"""Shadow models with one attack classifier a class: learn from models of one's own how members are answered.

Shokri, Stronati, Song, Shmatikov. "Membership Inference Attacks Against Machine Learning Models", IEEE S&P 2017.

Threat model   answers: any; with labels it knows no more than which class is given. data: the candidates' true classes,
               and a learner like the victim's; a labelled pool where there is one. A known guard is rehearsed on the
               shadow models' answers.
Query cost     one query for each candidate.

Every shadow model answers about all rows; each answer is a record, with the true class and whether that model was
trained on the row. For every class a small network learns to tell both kinds of records, from the logarithms of all
probabilities. A class with few records is judged by a network for all classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.artifacts import Artifact
from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.privacy import Leakage, PrivacyAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Answer, Array, Interface, Rows
from portcullis_ml.models.shadows import Shadows
from portcullis_ml.privacy._shared import FLOOR, asked, classes_of, logits, shadows_for, shares, shown, truth_and_rest

__all__ = ["Shadow"]

FEW = 50  # records of a kind, below which a class has no classifier of its own


@dataclass(frozen=True, kw_only=True)
class Shadow(PrivacyAttack):
    models: int = 8  # shadow models, an even number
    hidden: int = 64  # units of an attack classifier
    steps: int = 40  # passes over a classifier's records
    records: int = 2_000  # of a class, at most
    most: int = 5_000  # rows of the pool that shadow models are trained on, at most
    shadows: Artifact | None = None  # a folder of shadow models trained before, on the same rows
    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "shadow"
    needs: ClassVar[Needs] = Needs(learner=True)

    def __post_init__(self) -> None:
        check(self, "models", "an even int of at least 2", lambda v: isinstance(v, int) and v >= 2 and v % 2 == 0)
        for name in ("hidden", "steps", "records", "batch"):
            check(self, name, "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)
        check(self, "most", "an int of at least 0", lambda v: isinstance(v, int) and v >= 0)

    def infer(
        self,
        harvest: Harvest,
        interface: Interface,
        knowledge: Knowledge,
        candidates: Rows,
        rng: np.random.Generator,
    ) -> Leakage:
        y = classes_of(candidates, self.name)
        membership = np.full(len(candidates), np.nan)
        if len(candidates) == 0:
            return Leakage(membership=membership)
        shadows, rows = shadows_for(self, candidates, knowledge, interface, rng)
        judges = self._judges(shadows, rows, interface, knowledge, rng)
        for part, answer in asked(harvest, candidates.x, self.batch):
            seen, found = _features(answer, y[part], interface), np.empty(len(answer))
            for c in np.unique(y[part]):
                of_class = y[part] == c
                judge = judges.get(int(c), judges[-1])
                found[of_class] = judge.predict_proba(seen[of_class])[:, 1]
            membership[part] = found
        notes = {"shadows": len(shadows.models), "classifiers": len(judges) - 1}
        return Leakage(membership=membership, notes=notes)

    def _judges(
        self, shadows: Shadows, rows: Rows, interface: Interface, knowledge: Knowledge, rng: np.random.Generator
    ) -> dict[int, Any]:
        """class -> a classifier of its records; -1 -> one of all classes."""
        assert rows.y is not None
        seen = np.concatenate([
            _features(shown(model, rows.x, interface, knowledge), rows.y, interface) for model in shadows.models
        ])  # fmt: skip
        true, member = np.tile(rows.y, len(shadows.models)), shadows.held.ravel()
        judges = {-1: self._fitted(seen, member, rng)}
        for c in range(interface.n_classes):
            own = true == c
            if min(member[own].sum(), (~member[own]).sum()) >= FEW:
                judges[c] = self._fitted(seen[own], member[own], rng)
        return judges

    def _fitted(self, seen: Array, member: NDArray[np.bool_], rng: np.random.Generator) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        chosen = rng.permutation(len(seen))[: self.records]
        network = MLPClassifier((self.hidden,), max_iter=self.steps, random_state=int(rng.integers(2**31)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is a setting
            return make_pipeline(StandardScaler(), network).fit(seen[chosen], member[chosen])


def _features(answer: Answer, y: NDArray[np.int64], interface: Interface) -> Array:
    """(n, n_classes + 1) the logarithms of all probabilities, and the logit of the true class."""
    p = shares(answer, interface.n_classes)
    logit = logits(truth_and_rest(answer, y, interface.n_classes), FLOOR)
    return np.column_stack([np.log(np.maximum(p, FLOOR)), logit])
