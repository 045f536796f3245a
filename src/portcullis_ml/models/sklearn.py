"""scikit-learn estimators as models, and a thief's trainer that needs no torch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Feature, Labels, Model

__all__ = ["EstimatorLearner", "SklearnLearner", "SklearnModel", "table_pipeline"]

COPIES = 10  # how often a row stands in the training set of an estimator that takes no sample weights


class SklearnModel:
    """A fitted classifier, regressor or pipeline. Rows of another shape than (n_features,) are flattened.

    Column j of the scores is `estimator.classes_[j]`. With an `n_classes` above their number, classes_ must be column
    numbers: a copy that has not seen every class scores 0 for the others. A classifier without predict_proba gives
    one-hot labels.
    """

    def __init__(
        self, estimator: Any, *, input_shape: tuple[int, ...] | None = None, n_classes: int | None = None
    ) -> None:
        if not hasattr(estimator, "predict"):
            raise InputError(f"A scikit-learn model needs predict(); {type(estimator).__name__} has none.")
        width = getattr(estimator, "n_features_in_", None)
        if input_shape is None and width is None:
            raise InputError(f"{type(estimator).__name__} does not say how many inputs it takes; give input_shape.")
        self.estimator = estimator
        self.input_shape = tuple(input_shape) if input_shape is not None else (int(width),)  # type: ignore[arg-type]
        if width is not None and math.prod(self.input_shape) != width:
            raise InputError(
                f"The estimator takes {width} inputs; an input_shape of {self.input_shape} does not fit. "
                f"Give rows of {width} numbers."
            )
        self._classes = getattr(estimator, "classes_", None)
        seen = 0 if self._classes is None else len(self._classes)
        self.n_classes = seen if n_classes is None else n_classes
        self._columns = np.arange(seen)
        if self.n_classes != seen:
            self._columns = _columns(self._classes, self.n_classes)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities, or (n, 1) regression values."""
        if len(x) == 0:
            return np.empty((0, max(self.n_classes, 1)))
        rows = self._rows(x)
        if self.n_classes == 0:
            return np.asarray(self.estimator.predict(rows), np.float64).reshape(len(x), -1)
        scores = np.zeros((len(x), self.n_classes))
        if hasattr(self.estimator, "predict_proba"):
            scores[:, self._columns] = self.estimator.predict_proba(rows)
        else:
            scores[:, self._columns] = self.estimator.predict(rows)[:, None] == self._classes
        return scores

    @property
    def predictor(self) -> Any:
        """What predicts: the last step of a pipeline, or the estimator itself."""
        return self.estimator.steps[-1][1] if hasattr(self.estimator, "steps") else self.estimator

    def refitted(self, x: Array, y: Labels, *, rng: np.random.Generator) -> Self:
        """The same estimator with the same settings and class names, fitted anew to rows x and column numbers y."""
        whole = self._classes is not None and len(self._classes) == self.n_classes
        names = np.asarray(self._classes) if whole else np.arange(self.n_classes)
        made = copy.copy(self)
        made.estimator = _fresh(self.estimator, rng).fit(self._rows(x), names[y])
        made._classes = made.estimator.classes_
        made._columns = np.searchsorted(names, made._classes)  # both are sorted; a class may have no row
        return made

    def prepared(self, x: Array) -> Any:
        """(n, *input_shape) -> the rows as `predictor` is given them, after a pipeline's other steps."""
        rows = self._rows(x)
        for _, step in getattr(self.estimator, "steps", [])[:-1]:
            rows = rows if step in (None, "passthrough") else step.transform(rows)
        return rows

    def _rows(self, x: Array) -> Any:
        """Flat rows, with their column names where the estimator was fitted with names."""
        rows = np.asarray(x, np.float64).reshape(len(x), -1)
        names = getattr(self.estimator, "feature_names_in_", None)
        if names is None:
            return rows
        import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]  # the estimator was fitted on a frame, so it is here

        return pandas.DataFrame(rows, columns=names)


def _columns(classes: Any, n_classes: int) -> Labels:
    """The column of every class that the estimator knows, when it does not know all of them."""
    classes = np.asarray([] if classes is None else classes)
    if not (len(classes) and classes.dtype.kind in "iu" and classes.min() >= 0 and classes.max() < n_classes):
        raise InputError(
            f"{n_classes} classes were expected; the estimator knows {len(classes)}. Leave n_classes out, or fit it on "
            f"labels among 0..{n_classes - 1}."
        )
    return np.asarray(classes, np.int64)


@dataclass(frozen=True, kw_only=True)
class SklearnLearner:
    """Trains a scikit-learn classifier on soft targets or labels; always a new model, a function of (x, targets, rng).

    A soft target stands as one row for every class, weighted by its probability (for estimators without sample
    weights, as ten copies shared out among the classes). `start` is not used: every fit begins afresh.
    """

    suffix: ClassVar[str] = ".skops"  # what `save_model` writes for its models

    estimator: Literal["logistic", "mlp", "forest", "tree"] = "logistic"  # the family of the copy
    targets: Literal["soft", "labels"] = "soft"  # the distributions given, or their argmax
    c: float = 1e4  # logistic: inverse of the L2 penalty; large, since a thief wants the victim and not the truth
    hidden: tuple[int, ...] = (100,)  # mlp: widths of the hidden layers
    iterations: int = 300  # mlp: epochs; logistic: steps of the solver
    trees: int = 100  # forest: how many

    def __post_init__(self) -> None:
        check(self, "estimator", "one of logistic, mlp, forest, tree", lambda v: v in _FAMILIES)
        check(self, "targets", "'soft' or 'labels'", lambda v: v in ("soft", "labels"))
        check(self, "c", "above 0", lambda v: v > 0)
        check(self, "hidden", "a tuple of ints of at least 1", lambda v: len(v) > 0 and all(h >= 1 for h in v))
        check(self, "iterations", "an int of at least 1", lambda v: v >= 1)
        check(self, "trees", "an int of at least 1", lambda v: v >= 1)

    def fit(
        self,
        x: Array,
        targets: Array,
        *,
        rng: np.random.Generator,
        start: Model | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> SklearnModel:
        """x (n, *input_shape), targets (n, n_classes) distributions; rows whose target is all zero are left out."""
        from sklearn.utils.validation import has_fit_parameter

        x, targets = np.asarray(x, np.float64), np.asarray(targets, np.float64)
        if targets.ndim != 2 or len(targets) != len(x) or not (targets > 0).any():
            raise InputError(
                f"Targets were expected to be ({len(x)}, n_classes), at least one of them known; got {targets.shape}."
            )
        if self.targets == "labels":
            targets = np.eye(targets.shape[1])[targets.argmax(axis=1)] * (targets.sum(axis=1, keepdims=True) > 0)
        estimator = _FAMILIES[self.estimator](self, int(rng.integers(2**31)))
        weighted = has_fit_parameter(estimator, "sample_weight")
        rows, labels, weights = (_weighted if weighted else _copies)(targets)
        fitted = _fitted(estimator, x.reshape(len(x), -1)[rows], labels, weights)
        if progress:
            progress(1, 1)
        return SklearnModel(fitted, input_shape=x.shape[1:], n_classes=targets.shape[1])


@dataclass(frozen=True, eq=False)
class EstimatorLearner:
    """Trains what a given scikit-learn model is, with its settings, on other rows: owners know their own training.

    Every `random_state` in it is drawn from `rng`. `start` is not used: every fit begins afresh.
    """

    suffix: ClassVar[str] = ".skops"

    model: SklearnModel  # it stays as it is; a pipeline over a table goes on taking words

    def about(self) -> dict[str, Any]:
        """What it trains, as plain data: an estimator is no setting that could be written out."""
        return {"unit": "the victim's own estimator", "estimator": repr(self.model.estimator)}

    def fit(self, x: Array, targets: Array, *, rng: np.random.Generator, start: Model | None = None) -> SklearnModel:
        """x (n, *input_shape), targets (n, n_classes) distributions, of which the argmax is taken."""
        n = self.model.n_classes
        if targets.shape[1] != n:
            raise InputError(f"The estimator knows {n} classes; {targets.shape[1]} were given. Give its own.")
        return self.model.refitted(np.asarray(x, np.float64), np.asarray(targets).argmax(axis=1), rng=rng)


def _fresh(estimator: Any, rng: np.random.Generator) -> Any:
    """An unfitted copy with the same settings; every `random_state` in it is drawn anew."""
    from sklearn.base import clone

    fresh = clone(estimator)
    seeds = sorted(name for name in fresh.get_params() if name.rpartition("__")[2] == "random_state")
    return fresh.set_params(**{name: int(rng.integers(2**31)) for name in seeds})


def _fitted(estimator: Any, x: Array, labels: Labels, weights: Array | None) -> Any:
    """A pipeline that scales every input, then predicts; where there is one class only, it predicts that."""
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) == 1:
        estimator = DummyClassifier()
    pipeline = Pipeline([("scale", StandardScaler()), ("predict", estimator)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a thief's budget of steps is a setting, not an accident
        return pipeline.fit(x, labels, **({} if weights is None else {"predict__sample_weight": weights}))


def _weighted(targets: Array) -> tuple[Labels, Labels, Array]:
    """One row for every class that has some probability."""
    rows, labels = np.nonzero(targets > 1e-6)
    return rows, labels, targets[rows, labels]


def _copies(targets: Array) -> tuple[Labels, Labels, None]:
    """COPIES of every row, shared out among the classes by largest remainder; a certain row stands there once."""
    share = COPIES * targets
    counts = np.floor(share + 1e-9).astype(np.int64)
    short = np.where(targets.sum(axis=1) > 0, COPIES - counts.sum(axis=1), 0)
    rank = np.argsort(np.argsort(counts - share, axis=1, kind="stable"), axis=1, kind="stable")
    counts += rank < short[:, None]
    if not (counts % COPIES).any():
        counts //= COPIES
    rows, labels = np.nonzero(counts)
    repeat = counts[rows, labels]
    return np.repeat(rows, repeat), np.repeat(labels, repeat), None


def _logistic(learner: SklearnLearner, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=learner.c, max_iter=learner.iterations, random_state=seed)


def _mlp(learner: SklearnLearner, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(learner.hidden, max_iter=learner.iterations, random_state=seed)


def _forest(learner: SklearnLearner, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(learner.trees, random_state=seed)


def _tree(learner: SklearnLearner, seed: int) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(random_state=seed)


_FAMILIES: dict[str, Callable[[SklearnLearner, int], Any]] = {
    "forest": _forest,
    "logistic": _logistic,
    "mlp": _mlp,
    "tree": _tree,
}


def table_pipeline(features: Sequence[Feature], estimator: Any) -> Any:
    """An unfitted pipeline for rows of these features: categories one-hot, numbers scaled to [-1, 1] by their range."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

    categorical = [j for j, f in enumerate(features) if f.categorical]
    numeric = [j for j, f in enumerate(features) if not f.categorical]
    codes = [np.arange(features[j].categories, dtype=float) for j in categorical]
    parts: list[tuple[str, Any, list[int]]] = []
    if categorical:
        encoder = OneHotEncoder(categories=codes, handle_unknown="ignore", sparse_output=False)
        parts.append(("categories", encoder, categorical))
    if numeric:
        parts.append(("numbers", MinMaxScaler((-1, 1)), numeric))
    return make_pipeline(ColumnTransformer(parts), estimator)
