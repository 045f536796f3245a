"""DAWN's stage: how many answers it marks, of whom, what it writes down, and what can be seen of it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.randomness import Noise
from portcullis_ml.core.types import Answer, Array, Interface, Request
from portcullis_ml.defenses.dawn import KEPT, Dawn, Marked
from portcullis_ml.defenses.rounding import Rounding

from .toys import API, answer_to, rows

DIGITS = Interface(input_shape=(64,), n_classes=10)
X, Y = load_digits(return_X_y=True)
X = X / 16


@cache
def victim() -> LogisticRegression:
    return LogisticRegression(C=0.1).fit(X[:700], Y[:700])


def clean(x: Array) -> Answer:
    return Answer.of(victim().predict_proba(x), DIGITS)


def noise(key: int = 0) -> Noise:
    return Noise(bytes([key]) * 32, "0-dawn", 1 / 255)


def served(stage: Dawn, x: Array, client: str = "a", key: int = 0, state: Marked | None = None) -> Answer:
    bound = stage.bind(DIGITS)
    return bound.release(Request(client, x), clean(x), clean(x), state or bound.start(), noise(key))


def marked(stage: Dawn, x: Array, client: str = "a", key: int = 0) -> Array:
    return served(stage, x, client, key).labels != clean(x).labels


def test_the_share_that_is_marked_is_the_rate() -> None:
    stage = Dawn(rate=0.05, planes=24)  # most questions have a code of their own, so marks are nearly independent
    hits = sum(int(marked(stage, X[700:], f"client {i}", i).sum()) for i in range(20))
    interval = binomtest(hits, 20 * len(X[700:])).proportion_ci(0.999)
    assert interval.low < 0.05 < interval.high


def test_each_client_and_each_key_has_marks_of_their_own() -> None:
    stage = Dawn(rate=0.1)
    one = marked(stage, X[700:])
    for other in (marked(stage, X[700:], "b"), marked(stage, X[700:], key=1)):
        assert abs(cohen_kappa_score(one, other)) < 0.1
    assert (one == marked(stage, X[700:])).all()


def test_small_changes_of_a_question_leave_its_mark_and_there_are_many_codes() -> None:
    """Chance removed: at a rate of 5%, independent decisions already agree on 90% of the questions."""
    x = X[700:]
    moved = np.clip(x + np.random.default_rng(0).uniform(-0.02, 0.02, x.shape), 0, 1)
    stage = Dawn(rate=0.05)
    kappa = [cohen_kappa_score(marked(stage, x, key=k), marked(stage, moved, key=k)) for k in range(10)]
    assert np.mean(kappa) > 0.8
    codes = stage.bind(DIGITS).codes(x, clean(x), noise())
    assert len(np.unique(codes, axis=0)) > len(x) / 2


def test_what_is_written_down_is_what_was_served_wrongly_once_each() -> None:
    stage, x = Dawn(rate=0.1).bind(DIGITS), X[700:]
    state = stage.start()
    for at, batch in ((1.0, x[:500]), (2.0, x[300:])):
        stage.release(Request("a", batch, at), clean(batch), clean(batch), state, noise())
    again = served(stage, x, state=state).labels
    wrong = again != clean(x).labels
    np.testing.assert_array_equal(state.x, x[wrong])
    np.testing.assert_array_equal(state.labels, again[wrong])
    first = served(stage, x[:500]).labels
    np.testing.assert_array_equal(again[:500], first)  # the later questions changed no answer
    assert state.at == [1.0 if i < 500 else 2.0 for i in np.flatnonzero(wrong)]
    assert stage.kept(state) == wrong.sum()


def test_a_wrong_answer_is_one_of_the_four_most_likely_classes_with_the_scores_of_a_right_one() -> None:
    x = X[700:]
    answer, was = served(Dawn(rate=0.3), x), clean(x)
    np.testing.assert_array_equal(answer.scores.argmax(axis=1), answer.labels)
    assert (answer.scores[answer.labels == was.labels] == was.scores[answer.labels == was.labels]).all()
    rank = (was.scores > was.scores[np.arange(len(x)), answer.labels][:, None]).sum(axis=1)
    assert set(rank) == {0, 1, 2, 3}


def test_two_classes_and_labels_alone_are_marked_too() -> None:
    x = rows(400)
    two = Interface(input_shape=(4,), n_classes=2)
    scores = np.column_stack([x[:, 0], 1 - x[:, 0]])
    for api, answer in ((two, Answer.of(scores, two)), (API, Answer(answer_to(x).labels))):
        stage = Dawn(rate=0.3, planes=12).bind(api)
        labels = stage.release(Request("a", x), answer, answer, stage.start(), noise()).labels
        assert 0.1 < (labels != answer.labels).mean() < 0.5
        assert set(labels) <= set(range(api.n_classes))


def told_apart(*stages: Defense[Any], labels_alone: bool = False) -> float:
    """The area under the ROC curve of a forest that is trained on the answers and marks of six clients, and tried on
    those of six others, who asked other questions."""
    seen, wrong = [], []
    halves = np.array_split(np.random.default_rng(0).permutation(X[700:]), 2)
    for i in range(12):
        guard = Guard(*stages, key=bytes([i]) * 32, quantum=1 / 255, interface=DIGITS)
        x = np.random.default_rng(i).permutation(halves[i % 2])
        answer = guard.release(Request(f"client {i}", x), clean(x)).answer
        shown = np.eye(10)[answer.labels]
        seen.append(shown if labels_alone else np.column_stack([answer.scores, shown]))
        wrong.append(answer.labels != clean(x).labels)
    forest = RandomForestClassifier(60, min_samples_leaf=20, random_state=0)
    forest.fit(np.concatenate(seen[::2]), np.concatenate(wrong[::2]))
    said = forest.predict_proba(np.concatenate(seen[1::2]))[:, 1]
    return float(roc_auc_score(np.concatenate(wrong[1::2]), said))


@pytest.mark.parametrize("labels_alone", [False, True])
def test_a_classifier_that_was_told_other_clients_marks_does_not_find_these(labels_alone: bool) -> None:
    assert abs(told_apart(Dawn(rate=0.2), labels_alone=labels_alone) - 0.5) < 0.04


def test_the_classifier_finds_marks_whose_scores_are_merely_exchanged() -> None:
    assert told_apart(Rounding(decimals=6), Dawn(rate=0.2)) > 0.7


def test_each_class_is_a_wrong_answer_as_often_as_a_right_one() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 4000, p=[0.4, 0.3, 0.2, 0.1])
    x, right = rng.random((4000, 64)), Answer(labels)
    stage = Dawn(rate=0.2, planes=24).bind(Interface(input_shape=(64,), n_classes=4, bounds=(0.0, 1.0)))
    state = stage.start()
    shown = stage.release(Request("a", x), right, right, state, noise()).labels
    wrong = np.bincount(state.labels, minlength=4) / len(state.labels)
    answered = np.bincount(shown[shown == labels], minlength=4) / (shown == labels).sum()
    np.testing.assert_allclose(wrong, answered, atol=0.01)


def test_questions_of_one_code_get_one_wrong_class() -> None:
    stage, right = Dawn(rate=0.3).bind(DIGITS), Answer(clean(X[700:]).labels)
    state = stage.start()
    labels = stage.release(Request("a", X[700:]), right, right, state, noise()).labels
    classes: dict[bytes, set[int]] = {}
    for code, label in zip(stage.codes(X[700:], right, noise()), labels, strict=True):
        classes.setdefault(code.tobytes(), set()).add(int(label))
    assert {len(found) for found in classes.values()} == {1}
    assert 50 < len(classes) < len(state.labels)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rate": 0.0}, r"Dawn.rate must be in \(0, 0.5\]"),
        ({"rate": 0.6}, r"Dawn.rate must be in \(0, 0.5\]"),
        ({"planes": 65}, r"Dawn.planes must be an int in \[0, 64\]"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        Dawn(**settings)


def test_regression_is_refused_when_it_is_bound() -> None:
    with pytest.raises(NotApplicable, match="dawn needs an API that predicts classes"):
        Dawn().bind(Interface(input_shape=(4,), n_classes=0, task="regression"))


def test_of_each_client_the_scores_of_so_many_right_answers_are_kept_and_no_more() -> None:
    stage = Dawn(rate=0.02).bind(DIGITS)
    state = stage.start()
    for start in range(700, 1700, 50):
        served(stage, X[start : start + 50], state=state)
    assert len(state.honest) == KEPT
