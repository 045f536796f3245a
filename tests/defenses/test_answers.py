"""What each defense does to an answer, by examples worked out by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from portcullis_ml.core.errors import NotApplicable, ParameterError, Refused
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import WITHHELD, Answer, Array, Request
from portcullis_ml.defenses.block import Block
from portcullis_ml.defenses.label_only import LabelOnly
from portcullis_ml.defenses.log import Log
from portcullis_ml.defenses.other_class import OtherClass
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.defenses.top_k import TopK

from .toys import API, answer_to, noise, rows, same


def apply(defense, answer: Answer, clean: Answer | None = None, x: Array | None = None, key: bytes = b"k" * 32):
    x = rows(len(answer)) if x is None else x
    return defense.release(Request("a", x), answer, clean or answer, None, noise(key))


def given(*scores: list[float], labels: list[int] | None = None) -> Answer:
    s = np.array(scores)
    return Answer(s.argmax(axis=1) if labels is None else np.array(labels), s)


class TestRounding:
    def test_rounds_and_leaves_the_sum_alone(self) -> None:
        out = apply(Rounding(decimals=1), given([0.333, 0.333, 0.334]))
        np.testing.assert_allclose(out.scores, [[0.3, 0.3, 0.3]], atol=1e-15)

    def test_renormalises(self) -> None:
        out = apply(Rounding(decimals=1, renormalise=True), given([0.333, 0.333, 0.334], [0.04, 0.92, 0.04]))
        np.testing.assert_allclose(out.scores, [[1 / 3, 1 / 3, 1 / 3], [0, 1, 0]])

    def test_the_label_is_the_one_from_before_rounding(self) -> None:
        out = apply(Rounding(decimals=1), given([0.48, 0.52]))
        assert out.scores.argmax() == 0, "rounding has made a tie"
        assert out.labels.tolist() == [1]

    def test_a_row_that_rounds_to_nothing_stays_so(self) -> None:
        out = apply(Rounding(decimals=0, renormalise=True), given([0.3, 0.3, 0.4]))
        assert out.scores.tolist() == [[0, 0, 0]]

    def test_rounds_regression_and_never_renormalises_it(self) -> None:
        out = apply(Rounding(decimals=1, renormalise=True), Answer(None, np.array([[3.14159]])))
        assert out.scores.tolist() == [[3.1]]

    @pytest.mark.parametrize("bad", [-13, 13, 1.5, "two"])
    def test_says_which_decimals_it_takes(self, bad: object) -> None:
        sentence = re.escape(f"Rounding.decimals must be an int in [-12, 12]; got {bad!r}.")
        with pytest.raises(ParameterError, match=sentence):
            Rounding(decimals=bad)


class TestTopK:
    def test_keeps_the_k_greatest_as_they_are(self) -> None:
        out = apply(TopK(k=2), given([0.1, 0.2, 0.3, 0.4]))
        np.testing.assert_array_equal(out.scores, [[np.nan, np.nan, 0.3, 0.4]])

    def test_the_served_label_is_always_among_them(self) -> None:
        out = apply(TopK(k=1), given([0.5, 0.5, 0.0], [0.6, 0.3, 0.1], labels=[1, 2]))
        np.testing.assert_array_equal(out.scores, [[np.nan, 0.5, np.nan], [np.nan, np.nan, 0.1]])

    def test_more_than_there_are_is_all(self) -> None:
        answer = answer_to(rows(9))
        assert same(apply(TopK(k=99), answer), answer)

    def test_says_which_k_it_takes(self) -> None:
        with pytest.raises(ParameterError, match=r"TopK\.k must be an int of at least 1; got 0\."):
            TopK(k=0)

    def test_regression_has_no_top(self) -> None:
        with pytest.raises(NotApplicable, match="top_k needs an API that predicts classes; this one does regression"):
            apply(TopK(), Answer(None, np.ones((2, 1))))


class TestLabelOnly:
    def test_withholds_scores_and_explanations(self) -> None:
        answer = answer_to(rows(4))
        out = apply(LabelOnly(), Answer(answer.labels, answer.scores, np.ones((4, 2, 2))))
        np.testing.assert_array_equal(out.labels, answer.labels)
        assert np.isnan(out.scores).all()
        assert np.isnan(out.explanation).all()
        assert out.answered.all()

    def test_a_batch_of_two_classes_is_not_a_binary_problem(self) -> None:
        """ART's ClassLabels reads a batch in which two of many classes occur as two-class scores."""
        scores = np.full((4, 10), 0.01)
        scores[[0, 1, 2, 3], [3, 7, 7, 3]] = 0.91
        out = apply(LabelOnly(), given(*scores.tolist()))
        assert out.labels.tolist() == [3, 7, 7, 3]
        onehot = out.soft(10)
        assert onehot.shape == (4, 10)
        assert onehot.argmax(axis=1).tolist() == [3, 7, 7, 3]
        assert onehot.sum() == 4

    def test_a_thief_reads_labels_through_an_oracle(self) -> None:
        class Model:
            input_shape, n_classes = API.input_shape, API.n_classes

            def scores(self, x: Array) -> Array:
                return answer_to(x).scores

        x = rows(7)
        oracle = LocalOracle(Model(), API, budget=10, guard=Guard(LabelOnly(), key=b"g" * 32))
        got = oracle.query(x)
        np.testing.assert_array_equal(got.soft(5).argmax(axis=1), answer_to(x).labels)
        assert set(np.unique(got.soft(5))) == {0.0, 1.0}


class TestBlock:
    def test_withholds_everything(self) -> None:
        out = apply(Block(), answer_to(rows(3)))
        assert (out.labels == WITHHELD).all()
        assert not out.answered.any()

    def test_turns_requests_away_in_its_own_words(self) -> None:
        with pytest.raises(Refused, match="The guard refused this client: closed for the night") as refusal:
            Block(reason="closed for the night", retry_after=60).admit(Request("a", rows(1)), None)
        assert refusal.value.retry_after == 60

    @pytest.mark.parametrize("settings", [{"reason": " "}, {"retry_after": -1}, {"retry_after": "soon"}])
    def test_checks_its_settings(self, settings: dict) -> None:
        with pytest.raises(ParameterError, match=r"Block\.\w+ must be .+; got"):
            Block(**settings)


def test_log_changes_nothing() -> None:
    answer = answer_to(rows(3))
    assert apply(Log(), answer) is answer


class TestOtherClass:
    X = rows(400, 3)

    def test_serves_the_second_or_the_third_class_and_about_as_often(self) -> None:
        clean = answer_to(self.X)
        out = apply(OtherClass(), clean, x=self.X)
        ranked = np.argsort(-clean.scores, axis=1)
        second, third = out.labels == ranked[:, 1], out.labels == ranked[:, 2]
        assert (second ^ third).all()
        assert 150 < second.sum() < 250  # 5 standard deviations of a fair coin

    def test_the_row_is_the_same_numbers_with_the_served_class_greatest(self) -> None:
        clean = answer_to(self.X)
        out = apply(OtherClass(), clean, x=self.X)
        np.testing.assert_array_equal(np.sort(out.scores, axis=1), np.sort(clean.scores, axis=1))
        np.testing.assert_array_equal(out.scores.argmax(axis=1), out.labels)

    def test_the_choice_is_the_guards_secret(self) -> None:
        clean = answer_to(self.X)
        one, two = (apply(OtherClass(), clean, x=self.X, key=k * 32).labels for k in (b"a", b"b"))
        assert 0.3 < (one != two).mean() < 0.7

    def test_two_classes_leave_no_choice(self) -> None:
        out = apply(OtherClass(), given([0.9, 0.1], [0.2, 0.8]))
        assert out.labels.tolist() == [1, 0]
        np.testing.assert_array_equal(out.scores, [[0.1, 0.9], [0.8, 0.2]])

    def test_ranks_by_the_undefended_answer(self) -> None:
        clean = given([0.7, 0.2, 0.1], labels=[0])
        rounded = given([1.0, 0.0, 0.0])
        out = apply(OtherClass(), rounded, clean)
        assert out.labels[0] in (1, 2)
        assert out.scores[0].tolist() == [0.0, *(1.0 * (np.arange(1, 3) == out.labels[0]))]

    def test_needs_the_probabilities(self) -> None:
        with pytest.raises(NotApplicable, match="other_class needs a model that gives the probabilities"):
            apply(OtherClass(), Answer(np.array([0, 1])))


def test_they_compose_in_a_guard() -> None:
    guard = Guard(TopK(k=2), Rounding(decimals=1), key=b"g" * 32)
    out = guard.release(Request("a", rows(6)), answer_to(rows(6))).answer
    assert ((~np.isnan(out.scores)).sum(axis=1) == 2).all()
    np.testing.assert_allclose(out.scores * 10, np.round(out.scores * 10), atol=1e-9)
    assert guard.keeps_labels
