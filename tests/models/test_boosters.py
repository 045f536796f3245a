"""Boosted trees of other packages: offered where they are installed, imported when a model is made, never needed."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from portcullis_ml.core.errors import InputError
from portcullis_ml.models import boosters
from portcullis_ml.models.auto import AutoLearner, AutoModel
from portcullis_ml.models.families import fit_family

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(300, 3))
P = np.column_stack([X[:, 0] > 0.5, X[:, 0] <= 0.5]) * 0.8 + 0.1


class Stub:
    """Takes what such an estimator takes, and classes from 0 on only, as XGBoost does."""

    settings: dict[str, object]

    def __init__(self, **settings: object) -> None:
        type(self).settings = settings


class Regressor(Stub):
    def fit(self, x, y):
        self.model = HistGradientBoostingRegressor(max_iter=20).fit(x, y)

    def predict(self, x):
        return self.model.predict(x).astype(np.float32)


class Classifier(Stub):
    def fit(self, x, y):
        assert sorted(set(y)) == list(range(len(set(y))))
        self.model = HistGradientBoostingClassifier(max_iter=20).fit(x, y)

    def predict_proba(self, x):
        return self.model.predict_proba(x).astype(np.float32)


@pytest.fixture(params=boosters.PACKAGES)
def package(request, monkeypatch):
    """The name of a package that is there, and alone."""
    module = ModuleType(request.param)
    module.__spec__ = importlib.machinery.ModuleSpec(request.param, None)
    module.LGBMRegressor = module.XGBRegressor = Regressor
    module.LGBMClassifier = module.XGBClassifier = Classifier
    for name in boosters.PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.setattr(boosters, "installed", lambda: (request.param,))
    monkeypatch.setattr("portcullis_ml.models.auto.installed", lambda: (request.param,))
    return request.param


@pytest.fixture
def nothing(monkeypatch):
    monkeypatch.setattr(boosters.importlib.util, "find_spec", lambda name: None)


def agreement(model) -> float:
    fresh = np.random.default_rng(1).uniform(size=(500, 3))
    return float((model.scores(fresh).argmax(axis=1) == (fresh[:, 0] <= 0.5)).mean())


def test_where_a_package_is_installed_its_trees_are_a_family_of_auto(package):
    copy = AutoLearner().fit(X, P, rng=np.random.default_rng(0))
    assert isinstance(copy, AutoModel)
    assert package in copy.chosen["set_aside"]
    few = AutoLearner().fit(X[:60], P[:60], rng=np.random.default_rng(0))
    assert package not in few.chosen["set_aside"]  # as for the other families that cost much


def test_its_trees_alone_learn_from_scores_and_from_labels(package):
    learner = AutoLearner(families=(package,))
    assert agreement(learner.fit(X, P, rng=np.random.default_rng(0))) > 0.95
    assert agreement(learner.fit(X, np.round(P), rng=np.random.default_rng(0))) > 0.95
    assert Classifier.settings["n_jobs"] == Regressor.settings["n_jobs"] == 1
    assert Classifier.settings["random_state"] == Regressor.settings["random_state"]


def test_a_class_that_no_answer_had_gets_a_place_all_the_same(package):
    three = np.insert(np.round(P), 1, 0.0, axis=1)
    logits = fit_family(f"{package} labels", X, three, 0)(X)
    assert logits.shape == (300, 3)
    assert (logits.argmax(axis=1) == three.argmax(axis=1)).mean() > 0.95


def test_a_package_that_is_not_installed_is_asked_for_by_name(nothing):
    assert boosters.installed() == ()
    for name in boosters.PACKAGES:
        with pytest.raises(InputError, match=f"The family {name} needs its package.*pip install {name}"):
            AutoLearner(families=(name,)).fit(X, P, rng=np.random.default_rng(0))
    assert set(AutoLearner().fit(X, P, rng=np.random.default_rng(0)).chosen["set_aside"]).isdisjoint(boosters.PACKAGES)


def test_no_package_is_imported_before_a_model_is_made():
    code = "import sys, portcullis_ml.models.auto; print(sorted({'lightgbm', 'xgboost'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
