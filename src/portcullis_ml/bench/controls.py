"""Controls: baselines that the attacks of an audit are compared with.

no_api           asks nothing: always answers the class that the victim gives most often on the test rows. No thief
                 knows that class for sure, so this is the best that a constant can do
own_labels       asks nothing: trains on the pool with the pool's own labels, where there are any
random_queries   pays like the others, for uniform noise from the input space, and trains the same learner
plain_stranger   pays like the others, for uniform noise from the input space, and fits a stock scikit-learn model to
                 the answers, chosen by a fifth of them: ten lines that anybody could write. It shares no code with
                 the attacks, which it is a check of
shuffled         pays for the transfer set of a real attack, and trains on it with the answers permuted among
                 the rows: what is left is what the learner gets from the class shares alone
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import softmax

from portcullis_ml.core.attack import Harvest, Knowledge, Needs
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.models.constant import ConstantModel

__all__ = ["MEANING", "PlainStranger", "RandomQueries", "Shuffled", "most_frequent", "own_labels"]

MEANING = {
    "no_api": "asks nothing and always answers the victim's most frequent class",
    "own_labels": "asks nothing and trains on the pool with the pool's own labels",
    "random_queries": "pays for uniform noise and trains the same learner on the answers",
    "plain_stranger": "pays for uniform noise and fits a stock scikit-learn model, chosen by a fifth of the answers",
    "shuffled": "trains on a real attack's transfer set with the answers permuted",
}


def most_frequent(labels: Labels, interface: Interface) -> ConstantModel:
    """A model that always answers the class that is commonest among the labels."""
    counts = np.bincount(labels, minlength=interface.n_classes)
    return ConstantModel(interface.input_shape, np.eye(interface.n_classes)[counts.argmax()])


def own_labels(knowledge: Knowledge, labels: Labels | None, n_classes: int, rng: np.random.Generator) -> Model:
    """What the thief's own labelled data are worth without any API."""
    if knowledge.pool is None or labels is None:
        raise NotApplicable("own_labels needs a pool with labels of the victim's classes; this attacker has none.")
    if knowledge.learner is None:
        raise NotApplicable("own_labels needs a surrogate learner; this attacker has none.")
    return knowledge.learner.fit(knowledge.pool, np.eye(n_classes)[labels], rng=rng)


@dataclass(frozen=True, kw_only=True)
class RandomQueries(ExtractionAttack):
    """Ask about uniform points, train once."""

    batch: int = 256  # rows sent at a time

    name: ClassVar[str] = "portcullis_ml.bench.controls:RandomQueries"
    needs: ClassVar[Needs] = Needs(learner=True)

    def __post_init__(self) -> None:
        check(self, "batch", "an int of at least 1", lambda v: isinstance(v, int) and v >= 1)

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.learner is not None  # `needs` says so
        while harvest.open:
            harvest.ask(interface.uniform(min(self.batch, harvest.left), rng))
        return knowledge.learner.fit(harvest.x, harvest.targets(), rng=rng)


@dataclass(frozen=True, kw_only=True)
class Shuffled(ExtractionAttack):
    """Let another attack collect its transfer set, then train on it with the answers permuted."""

    of: Any  # the attack whose transfer set it is

    name: ClassVar[str] = "portcullis_ml.bench.controls:Shuffled"
    needs: ClassVar[Needs] = Needs(learner=True)

    def __post_init__(self) -> None:
        check(self, "of", "an extraction attack", lambda v: isinstance(v, ExtractionAttack))

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        assert knowledge.learner is not None  # `needs` says so
        if reason := self.of.needs.lacking(interface, knowledge, self.of.name):
            raise NotApplicable(reason)
        self.of.steal(harvest, interface, knowledge, rng)
        harvest.history.clear()  # copies noted on the way were trained on the true answers
        targets = harvest.targets()
        return knowledge.learner.fit(harvest.x, targets[rng.permutation(len(targets))], rng=rng)


@dataclass(frozen=True, kw_only=True)
class PlainStranger(ExtractionAttack):
    """Ask about uniform points, fit the stock models, keep the one that does best on a fifth of the answers."""

    name: ClassVar[str] = "portcullis_ml.bench.controls:PlainStranger"
    needs: ClassVar[Needs] = Needs()

    def steal(self, harvest: Harvest, interface: Interface, knowledge: Knowledge, rng: np.random.Generator) -> Model:
        harvest.ask(interface.uniform(harvest.left, rng))
        x, p, seed = harvest.x, harvest.targets(), int(rng.integers(2**31))
        x, p = x[p.sum(axis=1) > 0], p[p.sum(axis=1) > 0]
        train = max(1, len(x) * 4 // 5)
        right = {}
        for kind in ("boosted", "network"):
            labels = _Stock(kind, interface, seed).fit(x[:train], p[:train]).scores(x[train:]).argmax(axis=1)
            right[kind] = int((labels == p[train:].argmax(axis=1)).sum())
        kind = max(right, key=lambda k: right[k])
        harvest.notes["chosen"] = kind
        return _Stock(kind, interface, seed).fit(x, p)


class _Stock:
    """A stock regression on clipped log-ratios where scores are shown, a stock classifier where only labels are."""

    def __init__(self, kind: str, interface: Interface, seed: int) -> None:
        self.kind, self.interface, self.seed = kind, interface, seed
        self.input_shape, self.n_classes = interface.input_shape, interface.n_classes

    def fit(self, x: Array, p: Array) -> _Stock:
        hard = bool((p.max(axis=1) == 1).all())
        labels = p.argmax(axis=1)
        self._models: list[Any] = []
        self._constant = p.mean(axis=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if hard and len(np.unique(labels)) > 1:
                self._models = [self._stock(classifier=True).fit(x, labels)]
            elif not hard:
                logs = np.log(np.clip(p, 1e-6, 1))
                ratios = np.clip(logs - logs[:, :1], -8, 8)[:, 1:]
                self._models = [self._stock(classifier=False).fit(x, column) for column in ratios.T]
        return self

    def scores(self, x: Array) -> Array:
        if not self._models or len(x) == 0:
            return np.tile(self._constant, (len(x), 1))
        if hasattr(self._models[0], "classes_"):
            return np.asarray(np.eye(self.n_classes)[self._models[0].predict(x)])
        ratios = np.column_stack([np.zeros(len(x)), *(m.predict(x) for m in self._models)])
        return np.asarray(softmax(ratios, axis=1))

    def _stock(self, *, classifier: bool) -> Any:
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        if self.kind == "boosted":
            stock: Any = HistGradientBoostingClassifier if classifier else HistGradientBoostingRegressor
            model = stock(max_iter=300, learning_rate=0.08, max_leaf_nodes=8, random_state=self.seed)
        else:
            stock = MLPClassifier if classifier else MLPRegressor
            model = stock(hidden_layer_sizes=(64,), alpha=1e-3, max_iter=300, random_state=self.seed)
        codes = [j for j, f in enumerate(self.interface.features or ()) if f.categorical]
        words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        return make_pipeline(ColumnTransformer([("words", words, codes)], remainder=StandardScaler()), model)
