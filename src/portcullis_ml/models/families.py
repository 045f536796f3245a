"""What a professional would fit to a table's answers, one function a family: scikit-learn's, and others' boosted trees.

Each takes encoded rows z (n, width), the answers (n, c) as distributions and a seed, and returns a function from
encoded rows to logits (n, c'), of which a softmax makes probabilities. From scores, a family is a regression on the
log-ratios of the probabilities: far more is learned from "70%" than from "yes". From labels, it is a classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.core.types import Array
from portcullis_ml.models import boosters

__all__ = ["FAMILIES", "SINGLE", "Fitted", "fit_family", "fit_values", "log_ratios"]

Fitted = Callable[[Array], Array]

TINY = 1e-12  # no probability is taken to be less
SURE = 1e-3  # what a classifier's probability of 0 is taken for
TREES = 100
RAW = ("words", "bayes")  # families for counts of words, or weights of words, which are 0 or more
SINGLE = ("boosted", *boosters.PACKAGES)  # families that predict one column at a time


def log_ratios(p: Array) -> Array:
    """(n, c) log-probabilities less their mean over the classes; a zero counts as half the least that was shown.

    Answers rounded to d decimals hold zeros and multiples of 10^-d, so a zero is taken for half a unit.
    """
    hidden = p <= TINY
    least = p[~hidden].min(initial=1.0)
    floor = max(TINY, least / 2 if hidden.any() else least)
    logs = np.log(np.maximum(p, floor))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


@dataclass(frozen=True)
class Task:
    """What an estimator is made for: n rows, a seed, and which encoded columns are one column's (`GaussianProcess`)."""

    n: int
    seed: int
    groups: NDArray[np.int64]


def fit_family(
    name: str, z: Array, p: Array, seed: int, *, groups: NDArray[np.int64] | None = None, networks: int = 1
) -> Fitted:
    """The family of that name, fitted. "boosted labels" is the classifier where "boosted" is the regression.

    `networks` regressions from several seeds are averaged where the family is a network, whose luck differs. Without
    `groups` every encoded column stands for itself.
    """
    family, _, labels = name.partition(" ")
    alone = np.arange(z.shape[1]) if groups is None else groups
    scaler = _Scale.none(z.shape[1]) if family in RAW else _Scale.of(z, together=_together(alone))
    tasks = [Task(len(z), s, alone) for s in range(seed, seed + (networks if family == "network" else 1))]
    if labels:
        model = FAMILIES[family].classifier(tasks[0]).fit(scaler(z), p.argmax(axis=1))
        return _OfLabels(scaler, model, p.shape[1])
    if FAMILIES[family].regressor is None:
        raise ValueError(f"The family {family} learns from labels only; got probabilities.")
    y = log_ratios(p)
    y = y[:, 1:] - y[:, :1] if p.shape[1] == 2 else y
    return _OfScores(scaler, *_regressions(family, scaler(z), y, tasks))


def fit_values(name: str, z: Array, y: Array, seed: int, *, groups: NDArray[np.int64], networks: int = 1) -> Fitted:
    """The same from numbers y (n, 1): a function from encoded rows to numbers like them. They should not be huge."""
    scaler = _Scale.of(z, together=_together(groups))
    tasks = [Task(len(z), s, groups) for s in range(seed, seed + (networks if name == "network" else 1))]
    return _OfValues(scaler, *_regressions(name, scaler(z), y, tasks))


def _regressions(family: str, rows: Array, y: Array, tasks: list[Task]) -> tuple[list[list[Any]], Array, float]:
    """For every task the regressions on scaled rows whose predictions side by side are (y - middle) / spread, and the
    two."""
    regressor = FAMILIES[family].regressor
    assert regressor is not None  # the callers ask only families that have one
    middle, spread = y.mean(axis=0), max(float(y.std()), TINY)
    goal = (y - middle) / spread
    columns = goal.T if family in SINGLE else [goal if goal.shape[1] > 1 else goal[:, 0]]
    return [[regressor(task).fit(rows, column) for column in columns] for task in tasks], middle, spread


def _together(groups: NDArray[np.int64]) -> bool:
    """Whether all encoded columns are one group, as those of text are."""
    return len(groups) > 1 and not groups.any()


@dataclass(frozen=True)
class _Scale:
    """Every column to mean 0 and deviation 1, or all by one number: rare words must not count like frequent ones."""

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, z: Array, *, together: bool = False) -> _Scale:
        deviation = z.std(axis=0)
        if together:
            deviation = np.full(len(deviation), np.sqrt((deviation**2).mean()))
        return cls(z.mean(axis=0), np.where(deviation > TINY, deviation, 1.0))

    @classmethod
    def none(cls, width: int) -> _Scale:
        """Every column as it is."""
        return cls(np.zeros(width), np.ones(width))

    def __call__(self, z: Array) -> Array:
        return np.asarray((z - self.mean) / self.deviation)


@dataclass(frozen=True)
class _OfScores:
    scaler: _Scale
    models: list[list[Any]]  # for every seed, those whose predictions side by side are the columns
    middle: Array
    spread: float

    def values(self, z: Array) -> Array:
        """(n, k) what was regressed on."""
        rows = self.scaler(z)
        found = [np.concatenate([m.predict(rows).reshape(len(z), -1) for m in of], axis=1) for of in self.models]
        return np.asarray(self.middle + self.spread * np.mean(found, axis=0))

    def __call__(self, z: Array) -> Array:
        logits = self.values(z)
        return np.column_stack([-logits / 2, logits / 2]) if logits.shape[1] == 1 else logits


@dataclass(frozen=True)
class _OfValues(_OfScores):
    def __call__(self, z: Array) -> Array:
        return self.values(z)


@dataclass(frozen=True)
class _OfLabels:
    scaler: _Scale
    model: Any
    n_classes: int

    def __call__(self, z: Array) -> Array:
        rows, seen = self.scaler(z), self.model.classes_
        if hasattr(self.model, "predict_proba"):
            p = np.zeros((len(z), self.n_classes))
            p[:, seen] = self.model.predict_proba(rows)
            return np.asarray(np.log(np.maximum(p, SURE)))
        margins = np.asarray(self.model.decision_function(rows))
        logits = np.full((len(z), self.n_classes), margins.min() - 1)
        logits[:, seen] = np.column_stack([-margins, margins]) if margins.ndim == 1 else margins
        return logits


@dataclass(frozen=True)
class Family:
    """Makers of unfitted estimators; a family without a regressor learns from labels only."""

    regressor: Callable[[Task], Any] | None
    classifier: Callable[[Task], Any]


def _boosted(task: Task) -> dict[str, Any]:
    leaf = 5 if task.n >= 200 else 2
    return {
        "max_iter": 300, "learning_rate": 0.08, "max_leaf_nodes": 8, "min_samples_leaf": leaf, "max_bins": 128,
        "early_stopping": False, "random_state": task.seed,
    }  # fmt: skip


def _boosted_regression(task: Task) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(**_boosted(task))


def _boosted_labels(task: Task) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(**_boosted(task) | {"max_iter": 150})


def _steps(task: Task) -> int:
    """Iterations of a network's descent: fewer where rows are wide (text), whose steps cost more and fit sooner."""
    return max(40, min(300, 60_000 // max(1, len(task.groups))))


def _network_regression(task: Task) -> Any:
    from sklearn.neural_network import MLPRegressor

    return MLPRegressor(
        hidden_layer_sizes=(64,), alpha=10.0, solver="lbfgs", max_iter=_steps(task), random_state=task.seed
    )


def _network_labels(task: Task) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((64,), alpha=1.0, solver="lbfgs", max_iter=_steps(task), random_state=task.seed)


def _linear_regression(task: Task) -> Any:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(alphas=10.0 ** np.arange(-6, 5))  # by leaving out one row at a time, in closed form


def _linear_labels(task: Task) -> Any:
    from sklearn.linear_model import LogisticRegression

    weight = 50.0 / len(task.groups) if _together(task.groups) else 10.0  # as 50 is for rows of length 1
    return LogisticRegression(C=weight, max_iter=500, random_state=task.seed)


def _words_regression(task: Task) -> Any:
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfTransformer(), _linear_regression(task))


def _words_labels(task: Task) -> Any:
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfTransformer(), LogisticRegression(C=10.0, max_iter=500, random_state=task.seed))


def _bayes_labels(task: Task) -> Any:
    from sklearn.naive_bayes import ComplementNB

    return ComplementNB()


def _forest_regression(task: Task) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    return ExtraTreesRegressor(TREES, max_features=0.4, random_state=task.seed)


def _forest_labels(task: Task) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(TREES, max_features=0.4, min_samples_leaf=2, random_state=task.seed)


def _kernel_regression(task: Task) -> Any:
    from portcullis_ml.models.gaussian import GaussianProcess

    return GaussianProcess(task.groups, task.seed)


def _kernel_labels(task: Task) -> Any:
    from sklearn.svm import SVC

    return SVC(C=10.0, gamma="scale", random_state=task.seed)


FAMILIES = {
    "bayes": Family(None, _bayes_labels),
    "boosted": Family(_boosted_regression, _boosted_labels),
    "forest": Family(_forest_regression, _forest_labels),
    "kernel": Family(_kernel_regression, _kernel_labels),
    "lightgbm": Family(
        lambda task: boosters.lightgbm(task.n, task.seed, classifier=False),
        lambda task: boosters.lightgbm(task.n, task.seed, classifier=True),
    ),
    "linear": Family(_linear_regression, _linear_labels),
    "network": Family(_network_regression, _network_labels),
    "words": Family(_words_regression, _words_labels),
    "xgboost": Family(
        lambda task: boosters.xgboost(task.n, task.seed, classifier=False),
        lambda task: boosters.xgboost(task.n, task.seed, classifier=True),
    ),
}
