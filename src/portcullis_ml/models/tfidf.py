"""The thief's learner for texts: weighted words or characters (TF-IDF), and a linear model on them.

What comes out is a scikit-learn pipeline that takes strings: a copy is saved as `.skops` and loads again as a victim.
Several ways to weigh a text and to read the answers are tried on rows that are set aside; the best is fitted to all.
Scores are learned as log-ratios of probabilities (ridge regression), labels by logistic regression.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import bound, check
from portcullis_ml.core.types import Array, Interface, Labels, Model
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.texts import SHAPE, TextInterface, TextModel, Texts

__all__ = ["TfidfLearner"]

FEW = 20  # rows with fewer than these are not split
ASIDE = 0.3  # of the rows choose
LONG = 3_000_000  # characters in all, above which sequences of characters take too long
TINY = 1e-12  # a probability is at least this
LEAST = 1e-4  # added to every probability when ways are compared
VECTORS: dict[str, dict[str, Any]] = {
    "words": {"sublinear_tf": True},
    "pairs": {"sublinear_tf": True, "ngram_range": (1, 2)},
    "characters": {"sublinear_tf": True, "analyzer": "char_wb", "ngram_range": (2, 4), "max_features": 100_000},
}
HEADS = {"ratios": 0.1, "smooth ratios": 1.0, "labels": 10.0}  # ridge penalties, and C of logistic regression


@dataclass(frozen=True, kw_only=True)
class TfidfLearner:
    """Fits a pipeline of TF-IDF and a linear model to texts; always a new model, a function of (x, targets, rng)."""

    vectors: tuple[str, ...] = (
        "words",
        "pairs",
        "characters",
    )  # what a text is made of; rows set aside choose

    numeric: ClassVar[bool] = False  # it learns texts
    title: ClassVar[str] = "tfidf"
    suffix: ClassVar[str] = ".skops"
    interface: TextInterface | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check(self, "vectors", f"some of {', '.join(VECTORS)}", lambda v: len(v) > 0 and set(v) <= set(VECTORS))

    def knowing(self, interface: Interface) -> TfidfLearner:
        """The same learner, told which texts the rows stand for."""
        if not isinstance(interface, TextInterface):
            raise InputError("The learner tfidf learns texts; these rows are numbers. Leave --learner out.")
        return bound(self, interface=interface)

    def rough(self) -> TfidfLearner:
        """One way only, fitted at once: for copies that only say what to ask next."""
        return bound(replace(self, vectors=self.vectors[:1]), interface=self.interface)

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> Model:
        """x (n, 3) rows that stand for texts, targets (n, c); rows whose target is all zero are left out."""
        if self.interface is None:
            raise InputError("The learner tfidf must know the texts of its rows. Use it through an audit.")
        known = targets.sum(axis=1) > 0
        p = targets[known] / targets[known].sum(axis=1, keepdims=True)
        if not len(p):
            raise InputError("At least one answered row was expected; every answer was withheld.")
        if (p == p[0]).all():
            return ConstantModel(SHAPE, p[0].copy())
        texts, seed = self.interface.texts.of(x[known]), int(rng.integers(2**31))
        ways = self._ways(texts, p)
        name, scores = _chosen(ways, texts, p, seed, rng)
        for way in (name, *ways):
            if (estimator := _fitted(way, texts, p, seed)) is not None:
                about = {"fitted": {way: 1.0}, "rows": len(p), "set_aside": scores}
                return _copy(estimator, self.interface.texts, p.shape[1], self.interface.words, about)
        return ConstantModel(SHAPE, p.mean(axis=0))  # no text holds a word

    def _ways(self, texts: list[str], p: Array) -> list[str]:
        long = sum(map(len, texts)) > LONG
        vectors = [v for v in self.vectors if not (long and v == "characters")] or ["words"]
        heads = ["labels"] if (p.max(axis=1) == 1).all() else list(HEADS)
        return [f"{vector}, {head}" for vector in vectors for head in (heads if len(self.vectors) > 1 else heads[:1])]


def _copy(estimator: Any, texts: Texts, n_classes: int, words: tuple[str, ...] | None, chosen: Any) -> TextModel:
    """The pipeline as a model; its classes become words where the API shows words."""
    seen = np.asarray(estimator.classes_, np.int64)
    if words is not None:
        estimator.steps[-1][1].classes_ = np.array(words)[seen]

    def ask(rows: list[str]) -> Array:
        scores = np.zeros((len(rows), n_classes))
        scores[:, seen] = estimator.predict_proba(rows)
        return scores

    model = TextModel(ask, texts, n_classes, classes=words, estimator=estimator)
    model.chosen = chosen  # type: ignore[attr-defined]  # what the report says of it
    return model


def _chosen(
    ways: list[str], texts: list[str], p: Array, seed: int, rng: np.random.Generator
) -> tuple[str, dict[str, list[float]]]:
    """The way that is nearest to the answers set aside, and {way: [agreement, cross-entropy]}."""
    if len(texts) < FEW or len(ways) == 1:
        return ways[0], {}
    order = rng.permutation(len(texts))
    aside, train = np.split(order, [round(ASIDE * len(texts))])
    found = {}
    for name in ways:
        estimator = _fitted(name, [texts[i] for i in train], p[train], seed)
        if estimator is not None:
            scores = np.full((len(aside), p.shape[1]), LEAST)
            scores[:, estimator.classes_] += estimator.predict_proba([texts[i] for i in aside])
            found[name] = _score(scores, p[aside])
    hard = bool((p.max(axis=1) == 1).all())
    best = max(found, key=lambda name: (found[name][0] if hard else 0, -found[name][1]), default=ways[0])
    return best, found


def _score(scores: Array, p: Array) -> list[float]:
    logs = np.log(scores / scores.sum(axis=1, keepdims=True))
    agreement = (scores.argmax(axis=1) == p.argmax(axis=1)).mean()
    return [round(float(agreement), 4), round(float(-(p * logs).sum(axis=1).mean()), 4)]


def _fitted(name: str, texts: list[str], p: Array, seed: int) -> Any:
    """A pipeline whose classes_ are columns of p; None where no text holds a word, or one class is left."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import Pipeline

    vector, head = name.split(", ")
    vectors = TfidfVectorizer(**VECTORS[vector])
    try:
        z = vectors.fit_transform(texts)
    except ValueError:  # an empty vocabulary
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that does not converge shows in its score
        model = _logistic(z, p.argmax(axis=1), seed) if head == "labels" else _of_ratios(z, p, HEADS[head])
    return None if model is None else Pipeline([("texts", vectors), ("model", model)])


def _logistic(z: Any, labels: Labels, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        return None
    return LogisticRegression(C=HEADS["labels"], max_iter=300, random_state=seed).fit(z, labels)


def _of_ratios(z: Any, p: Array, penalty: float) -> Any:
    """A logistic regression with the weights of a ridge regression on log-probabilities."""
    from sklearn.linear_model import LogisticRegression, Ridge

    least = max(float(p[p > 0].min()) / 2, TINY)  # what is shown as 0 lies below all that is shown
    logs = log_softmax(np.log(np.maximum(p, least)), axis=1)
    ridge = Ridge(alpha=penalty, solver="sparse_cg").fit(z, logs - logs.mean(axis=1, keepdims=True))
    w, b = np.asarray(ridge.coef_), np.asarray(ridge.intercept_)
    if len(b) == 2:  # scikit-learn keeps one row of weights for two classes
        w, b = w[1:] - w[:1], b[1:] - b[:1]
    model = LogisticRegression()
    model.classes_ = np.arange(p.shape[1])
    model.coef_, model.intercept_, model.n_features_in_ = w, b, z.shape[1]
    model.n_iter_ = np.array([1], np.int32)
    return model
