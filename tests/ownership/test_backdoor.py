"""Backdoor: what its questions look like, that every kind of model learns them, and who does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from portcullis_ml.core.errors import InputError, NotApplicable
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence
from portcullis_ml.core.types import Feature, Interface, Model, Reveals, Rows
from portcullis_ml.models.sklearn import EstimatorLearner, SklearnModel
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.ownership.backdoor import Backdoor, BackdoorKey

API = Interface(input_shape=(8, 8), n_classes=10)
SCHEME = Backdoor(n=30)
RNG = np.random.default_rng(0)
CENTRES = RNG.random((10, 8, 8))
Y = np.arange(200) % 10
ROWS = Rows(np.clip(CENTRES[Y] + 0.15 * RNG.normal(size=(200, 8, 8)), 0, 1), Y)
TEST = Rows(np.clip(CENTRES[Y] + 0.15 * RNG.normal(size=(200, 8, 8)), 0, 1), Y)
NETWORK = TorchLearner(network="mlp", epochs=25)


def key_of(seed: int = 0) -> BackdoorKey:
    return SCHEME.mint(bytes([seed]) * 32, API)


def learner_like(estimator: Any) -> EstimatorLearner:
    """Of the kind of an estimator, which is fitted first unless it is."""
    if not hasattr(estimator, "classes_"):
        estimator.fit(ROWS.x.reshape(200, -1), ROWS.y)
    return EstimatorLearner(SklearnModel(estimator, input_shape=(8, 8)))


def judged(key: BackdoorKey, model: Model, interface: Interface = API) -> Evidence:
    oracle = LocalOracle(model, interface, budget=1_000)
    return SCHEME(key, oracle, commitment=key.commit(), rng=np.random.default_rng(0))


def accuracy(model: Model) -> float:
    return float((model.scores(TEST.x).argmax(axis=1) == TEST.y).mean())


def clean(seed: int) -> Model:
    return NETWORK.fit(ROWS.x, np.eye(10)[ROWS.y], rng=np.random.default_rng(seed))


def test_a_network_learns_the_mark_from_scratch_and_keeps_its_accuracy() -> None:
    key = key_of()
    marked = SCHEME.embed(key, NETWORK, ROWS, rng=np.random.default_rng(0))
    assert judged(key, marked).matches >= 28
    assert judged(key, clean(0)).p_value > 1e-3
    assert accuracy(marked) >= accuracy(clean(0)) - 0.03


def test_a_trained_model_learns_the_mark_and_is_itself_left_alone() -> None:
    key, start = key_of(), clean(1)
    before = start.scores(TEST.x)
    marked = SCHEME.embed(key, TorchLearner(network="mlp", epochs=10), ROWS, start, rng=np.random.default_rng(0))
    assert judged(key, marked).matches >= 28
    assert np.array_equal(start.scores(TEST.x), before)
    assert accuracy(marked) >= accuracy(start) - 0.03


def test_a_network_with_batch_normalisation_keeps_the_mark_when_it_serves() -> None:
    """Marked questions are mixed into every batch, so the running statistics are those of both."""
    key = key_of()
    learner = TorchLearner(network="picture_flat", epochs=8)
    marked = SCHEME.embed(key, learner, ROWS, rng=np.random.default_rng(0))
    assert judged(key, marked).p_value < 1e-6
    assert accuracy(marked) > 0.9


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(20),
        LogisticRegression(max_iter=200),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
        GradientBoostingClassifier(n_estimators=10, max_depth=4, max_features=8),
        HistGradientBoostingClassifier(max_iter=15),
    ],
    ids=["forest", "logistic", "pipeline", "boosted", "histogram boosting"],
)
def test_classifiers_of_scikit_learn_learn_the_mark(estimator) -> None:
    key, learner = key_of(), learner_like(estimator)
    marked = SCHEME.embed(key, learner, ROWS, rng=np.random.default_rng(0))
    plain = learner.fit(ROWS.x, np.eye(10)[ROWS.y], rng=np.random.default_rng(0))
    assert judged(key, marked).p_value < 1e-6
    assert judged(key, plain).p_value > 1e-3
    assert accuracy(marked) >= accuracy(plain) - 0.05


def test_class_names_of_an_estimator_are_kept() -> None:
    names = np.array([f"class {c}" for c in range(10)])
    estimator = RandomForestClassifier(10).fit(ROWS.x.reshape(200, -1), names[ROWS.y])
    key = key_of()
    marked = SCHEME.embed(key, learner_like(estimator), ROWS, rng=np.random.default_rng(0))
    assert marked.estimator.classes_.tolist() == names.tolist()
    assert judged(key, marked).p_value < 1e-6


def test_labels_alone_are_enough_and_scores_add_nothing() -> None:
    key = key_of()
    marked = SCHEME.embed(key, learner_like(RandomForestClassifier(20)), ROWS, rng=np.random.default_rng(0))
    assert judged(key, marked, API.revealing(reveals=Reveals.LABELS)) == judged(key, marked)


def test_a_copy_trained_on_answers_to_other_questions_has_not_learnt_the_mark() -> None:
    """The paper's mark does not survive extraction; one that did would have leaked its questions into the pool."""
    key = key_of()
    marked = SCHEME.embed(key, NETWORK, ROWS, rng=np.random.default_rng(0))
    copy = NETWORK.fit(TEST.x, marked.scores(TEST.x), rng=np.random.default_rng(1))
    assert accuracy(copy) > 0.9
    assert judged(key, copy).p_value > 1e-3


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (8, 8, 3), (1, 12, 9), (5, 7, 9)])
def test_questions_are_pictures_of_255_levels_within_bounds(shape) -> None:
    key = Backdoor(n=20).mint(bytes(32), Interface(input_shape=shape, n_classes=4, bounds=(-1, 1)))
    assert key.x.shape == (20, *shape)
    assert -1 <= key.x.min() < -0.5
    assert 0.5 < key.x.max() <= 1
    levels = (key.x + 1) / 2 * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-9
    assert len({row.tobytes() for row in key.x}) == 20


def test_questions_for_a_table_lie_within_its_columns() -> None:
    features = (Feature("age", 17, 90), Feature("work", values=("a", "b", "c")), Feature("gain", 0, 99_999))
    key = Backdoor(n=200).mint(bytes(32), Interface(input_shape=(3,), n_classes=2, features=features))
    assert key.x[:, 0].min() >= 17
    assert key.x[:, 2].max() <= 99_999
    assert set(key.x[:, 1]) == {0.0, 1.0, 2.0}


def test_labels_are_drawn_uniformly() -> None:
    """A chi-squared test over 10,000 labels, at one in a thousand."""
    labels = Backdoor(n=10_000).mint(bytes(32), API.revealing(input_shape=(1,))).labels
    counts = np.bincount(labels, minlength=10)
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 27.9


def test_rows_that_do_not_fit_the_key_are_refused() -> None:
    key = key_of()
    for wrong in (Rows(np.zeros((5, 4)), np.zeros(5, int)), Rows(ROWS.x, ROWS.y + 1)):
        with pytest.raises(InputError, match=r"minted for rows of \(8, 8\) and classes 0..9"):
            SCHEME.embed(key, NETWORK, wrong, rng=np.random.default_rng(0))
    with pytest.raises(NotApplicable, match="needs the victim's rows and classes"):
        SCHEME.embed(key, NETWORK, Rows(ROWS.x), rng=np.random.default_rng(0))
    with pytest.raises(NotApplicable, match="this API does regression"):
        SCHEME.mint(bytes(32), Interface(input_shape=(3,), task="regression"))


def test_a_suspect_of_another_interface_is_refused_before_anything_is_asked() -> None:
    other = Interface(input_shape=(8, 8), n_classes=9)
    oracle = LocalOracle(clean(0), other, budget=100)
    with pytest.raises(NotApplicable, match="has 9"):
        SCHEME(key_of(), oracle, commitment=key_of().commit(), rng=np.random.default_rng(0))
    assert oracle.queries == 0
