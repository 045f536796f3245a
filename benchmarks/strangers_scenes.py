"""Whom the thieves of `strangers.py` steal from: victims by name, each made anew from a fixed seed.

A victim of a table is trained on 500 rows, or on half of a smaller table; it standardises numbers and encodes
categories one-hot, as most pipelines do. The rows that judge are up to 2,000 that it has not seen.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from portcullis_ml.core.types import Array, Feature, Interface, Labels, Model
from portcullis_ml.data.datasets import load_dataset
from portcullis_ml.models.sklearn import SklearnModel

TRAIN, TEST, POOL = 500, 2000, 300


@dataclass(frozen=True)
class Scene:
    """A victim, what an API in front of it takes, the rows that judge, and what thieves hold (None: nothing)."""

    kind: Literal["table", "picture"]  # which thieves and strangers try it
    victim: Model
    interface: Interface
    test: Array
    pool: Array | None = None


KINDS: dict[str, Callable[[], Any]] = {
    "boosted trees": lambda: GradientBoostingClassifier(random_state=0),
    "forest": lambda: RandomForestClassifier(100, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(random_state=0),
    "logistic": lambda: LogisticRegression(max_iter=3000),
    "network": lambda: MLPClassifier((20,), max_iter=800, random_state=0),
    "SVM": lambda: SVC(probability=True, random_state=0),
}


def rows_of(table: str) -> tuple[Array, Labels, tuple[Feature, ...]]:
    """All rows, their classes, and the columns. Diabetes' progression is cut into three equal classes."""
    if table in ("adult", "german_credit"):
        d = load_dataset(table, os.environ["PORTCULLIS_DATA"])
        return np.concatenate([d.x, d.x_test]), np.concatenate([d.y, d.y_test]).astype(int), d.features or ()
    stock = {"breast_cancer": load_breast_cancer, "wine": load_wine, "diabetes": partial(load_diabetes, scaled=False)}
    found = stock[table]()
    y = found.target if table != "diabetes" else np.digitize(found.target, np.quantile(found.target, [1 / 3, 2 / 3]))
    spans = zip(found.feature_names, found.data.min(axis=0), found.data.max(axis=0), strict=True)
    return found.data, y.astype(int), tuple(Feature(str(n), float(low), float(high)) for n, low, high in spans)


def table_scene(table: str, kind: str, *, pool: int = 0) -> Scene:
    """A victim of that kind on that table; thieves hold `pool` rows that nobody was trained or is judged on."""
    x, y, features = rows_of(table)
    order = np.random.default_rng(0).permutation(len(x))
    n = min(TRAIN, len(x) // 2)
    train, held, test = order[:n], order[n : n + pool], order[n + pool :][:TEST]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = standardised(features, KINDS[kind]()).fit(x[train], y[train])
    victim = SklearnModel(fitted, n_classes=int(y.max()) + 1)
    door = Interface(input_shape=x.shape[1:], n_classes=victim.n_classes, features=features)
    return Scene("table", victim, door, x[test], x[held] if pool else None)


def standardised(features: tuple[Feature, ...], estimator: Any) -> Any:
    """An unfitted pipeline: categories one-hot, numbers standardised."""
    words = [j for j, f in enumerate(features) if f.categorical]
    numbers = [j for j, f in enumerate(features) if not f.categorical]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return make_pipeline(
        ColumnTransformer([("words", one_hot, words), ("numbers", StandardScaler(), numbers)]), estimator
    )


TABLES: dict[str, Callable[[], Scene]] = {
    f"{table}, {kind}": partial(table_scene, table, kind)
    for table, kinds in {
        "german_credit": ("boosted trees", "network", "forest"),
        "adult": ("boosted trees", "logistic", "network"),
        "breast_cancer": ("forest", "SVM"),
        "wine": ("logistic", "network"),
        "diabetes": ("boosted trees", "SVM"),
    }.items()
    for kind in kinds
} | {
    "adult, histogram boosting, pool of 300": partial(table_scene, "adult", "histogram boosting", pool=POOL),
    "adult, network, pool of 300": partial(table_scene, "adult", "network", pool=POOL),
}
PICTURES: dict[str, Callable[[], Scene]] = {}  # factories of scenes of kind "picture", by name
SCENES = TABLES | PICTURES


@lru_cache
def scene(name: str) -> Scene:
    """The scene of that name, made once a process."""
    return SCENES[name]()
