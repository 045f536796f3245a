import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.types import Answer, Feature, Interface, Reveals

PROBS = Interface(input_shape=(2,), n_classes=3)
probabilities = hnp.arrays(np.float64, (4, 3), elements=st.floats(0.01, 1)).map(lambda a: a / a.sum(1, keepdims=True))


def answer(p: np.ndarray) -> Answer:
    return Answer.of(p, PROBS)


def test_reveals_are_ordered_from_least_to_most() -> None:
    assert Reveals.LABELS < Reveals.TOP_K < Reveals.PROBS
    assert Reveals.parse("top-k") is Reveals.TOP_K
    with pytest.raises(ParameterError, match="one of labels, top_k, probs"):
        Reveals.parse("logits")


@given(probabilities)
def test_labels_only_hides_every_score(p: np.ndarray) -> None:
    shown = answer(p).only(PROBS.revealing(reveals=Reveals.LABELS))
    assert shown.scores is None
    assert (shown.labels == p.argmax(1)).all()
    assert (shown.soft(3) == np.eye(3)[p.argmax(1)]).all()


@given(probabilities, st.integers(1, 3))
def test_top_k_shows_k_scores_and_always_the_label(p: np.ndarray, k: int) -> None:
    shown = answer(p).only(PROBS.revealing(reveals=Reveals.TOP_K, k=k))
    known = ~np.isnan(shown.scores)
    assert (known.sum(1) == k).all()
    assert known[np.arange(4), shown.labels].all()
    assert (shown.scores[known] == p[known]).all()
    np.testing.assert_allclose(shown.soft(3).sum(1), 1)


@given(probabilities, st.integers(0, 6))
def test_rounding_and_float32_are_post_processing(p: np.ndarray, decimals: int) -> None:
    assert (answer(p).only(PROBS.revealing(decimals=decimals)).scores == np.round(p, decimals)).all()
    assert (answer(p).only(PROBS.revealing(precision="float32")).scores == p.astype("f4").astype("f8")).all()


def test_soft_renormalises_what_rounding_broke_and_falls_back_to_the_label() -> None:
    rounded = Answer(np.array([0, 2]), np.array([[0.33, 0.33, 0.33], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(rounded.soft(3), [[1 / 3, 1 / 3, 1 / 3], [0, 0, 1]])


def test_withheld_rows_are_unanswered_and_teach_nothing() -> None:
    held = answer(np.full((3, 3), 1 / 3)).withhold(np.array([False, True, False]))
    assert held.answered.tolist() == [True, False, True]
    assert held.labels.tolist() == [0, -1, 0]
    assert held.soft(3)[1].tolist() == [0, 0, 0]
    assert held.answered.any()
    assert not held.withhold(np.ones(3, bool)).answered.any()
    assert Answer(None, np.array([[1.0], [np.nan]])).answered.any()
    assert not Answer(None, np.full((2, 1), np.nan)).answered.any()
    assert Answer(np.array([-1]), np.array([[0.5, np.nan]])).answered.any()  # a score without a label is an answer


def test_concat_undoes_take() -> None:
    whole = answer(np.random.default_rng(0).dirichlet([1, 1, 1], 7))
    again = Answer.concat([whole.take(slice(0, 2)), whole.take(slice(2, 7))])
    assert (again.labels == whole.labels).all()
    assert (again.scores == whole.scores).all()


def test_concat_fills_what_a_guard_stopped_showing() -> None:
    whole = Answer.concat([answer(np.full((2, 3), 1 / 3)), Answer(np.array([1, 2]))])
    assert whole.labels.tolist() == [0, 0, 1, 2]
    assert np.isnan(whole.scores[2:]).all()
    assert whole.soft(3)[2:].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_an_answer_has_a_row_for_every_row() -> None:
    with pytest.raises(InputError, match="labels or scores"):
        Answer(None)
    with pytest.raises(InputError, match="one row for every row"):
        Answer(np.array([1, 2]), np.zeros((3, 2)))


def test_uniform_points_stay_inside_and_categories_are_codes() -> None:
    table = Interface(
        input_shape=(2,), n_classes=2, features=(Feature("age", 17, 90), Feature("sex", values=("f", "m")))
    )
    x = table.uniform(500, np.random.default_rng(1))
    assert x[:, 0].min() >= 17
    assert x[:, 0].max() <= 90
    assert set(x[:, 1]) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"input_shape": ()}, "input_shape"),
        ({"n_classes": 1}, "at least 2"),
        ({"task": "regression"}, "else 0"),
        ({"bounds": (1.0, 1.0)}, "low < high"),
        ({"decimals": 13}, r"\[0, 12\]; got 13"),
        ({"k": 0}, "at least 1"),
        ({"features": (Feature("a"),)}, "columns"),
    ],
)
def test_interfaces_say_what_is_wrong(settings: dict, sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        Interface(**{"input_shape": (2,), "n_classes": 2, **settings})


def test_column_names_must_differ() -> None:
    with pytest.raises(InputError, match="'a' stands twice"):
        Interface(input_shape=(2,), n_classes=2, features=(Feature("a"), Feature("a")))


def test_a_regression_may_have_several_columns_and_a_classifier_has_one_for_each_class() -> None:
    assert Interface(input_shape=(2,), task="regression").columns == 1
    assert Interface(input_shape=(2,), task="regression", outputs=384).columns == 384
    assert Interface(input_shape=(2,), n_classes=3).columns == 3
    for wrong in ({"n_classes": 3, "outputs": 3}, {"task": "regression", "outputs": 0}):
        with pytest.raises(ParameterError, match="outputs"):
            Interface(input_shape=(2,), **wrong)
