"""The learner that chooses: it finds the family, survives bad answers, and is a function of its rows and generator."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Array, Feature, Interface, Model
from portcullis_ml.models import auto, families
from portcullis_ml.models.auto import AutoLearner, AutoModel
from portcullis_ml.models.boosters import PACKAGES, installed
from portcullis_ml.models.families import FAMILIES, fit_family, log_ratios
from portcullis_ml.models.quantiles import MOST_VALUES, QuantileEncoding
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.softmax import SoftmaxRegression

FEATURES = (
    Feature("age", 18, 80), Feature("gain", 0, 99_999), Feature("job", values=("a", "b", "c")), Feature("same", 5, 5),
)  # fmt: skip
DOOR = Interface(input_shape=(4,), n_classes=2, features=FEATURES)


def rows(n: int, seed: int = 0) -> Array:
    return DOOR.uniform(n, np.random.default_rng(seed))


def linear_victim() -> Model:
    return SoftmaxRegression(np.array([[0, 0, 0, 0], [0.1, 2e-5, 0.5, 0]]), np.array([0.0, -6.0]))


def boosted_victim() -> Model:
    x = rows(400, 9)
    y = ((x[:, 0] > 50) & (x[:, 2] != 1)).astype(int) ^ (x[:, 1] > 60_000)
    return SklearnModel(GradientBoostingClassifier(random_state=0).fit(x, y))


def fit(x: Array, p: Array, seed: int = 0, **settings: object) -> Model:
    learner = AutoLearner(**settings).knowing(DOOR)  # type: ignore[arg-type]
    return learner.fit(x, p, rng=np.random.default_rng(seed))


def agreement(a: Model, b: Model) -> float:
    x = rows(2000, 5)
    return float((a.scores(x).argmax(axis=1) == b.scores(x).argmax(axis=1)).mean())


def chosen(model: Model) -> dict[str, object]:
    assert isinstance(model, AutoModel)
    return model.chosen


@pytest.mark.parametrize(("victim", "families"), [(linear_victim, {"linear"}), (boosted_victim, {"boosted", "forest"})])
def test_the_family_is_found_from_scores(victim, families) -> None:
    x = rows(400)
    copy = fit(x, victim().scores(x))
    assert set(chosen(copy)["fitted"]) & families
    assert agreement(copy, victim()) > 0.97


def test_the_family_is_found_from_labels() -> None:
    x = rows(400)
    copy = fit(x, np.eye(2)[boosted_victim().scores(x).argmax(axis=1)])
    assert all(name.endswith(" labels") or name == "kernel" for name in chosen(copy)["fitted"])
    assert agreement(copy, boosted_victim()) > 0.93


def test_every_family_is_scored_on_rows_set_aside_and_the_best_is_fitted_to_all() -> None:
    x = rows(300)
    told = chosen(fit(x, linear_victim().scores(x)))
    assert {name for name in told["set_aside"] if "+" not in name} == (
        set(FAMILIES) - set(PACKAGES) - {"words", "bayes"}
    ) | set(installed()[:1])
    assert told["fitted"] == {"linear": pytest.approx(1, abs=0.05)}  # exact by itself: no blend does better
    assert told["rows"] == 300


def test_a_blend_is_fitted_where_it_is_clearly_nearer_to_the_answers() -> None:
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(3), size=400)
    halves = {name: np.log(truth) + rng.normal(0, 1, truth.shape) for name in ("boosted", "kernel")}
    noise = {"linear": rng.normal(0, 1, truth.shape)}
    weights, table = auto._weigh(halves | noise, truth)
    assert set(weights) == {"boosted", "kernel"}
    assert table[" + ".join(weights)][1] < min(table["boosted"][1], table["kernel"][1])
    alone, _ = auto._weigh({"boosted": np.log(truth), **noise}, truth)
    assert alone == {"boosted": pytest.approx(1, abs=0.01)}


def test_families_that_know_nothing_still_have_an_opinion() -> None:
    wrong = np.tile([2.0, 0.0], (50, 1))
    (weight,) = auto._weigh({"linear": wrong}, np.tile([0.1, 0.9], (50, 1)))[0].values()
    assert weight > 0


def test_the_same_rows_and_generator_give_the_same_bits() -> None:
    x = rows(250)
    p = boosted_victim().scores(x)
    first, again, other = (fit(x, p, seed).scores(x) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_few_rows_are_compared_by_few_families_and_fewer_by_none() -> None:
    x = rows(60)
    p = linear_victim().scores(x)
    assert {n for n in chosen(fit(x, p))["set_aside"] if "+" not in n} == {
        "linear", "boosted", "network", "kernel",
    }  # fmt: skip
    assert chosen(fit(x[:10], p[:10])) == {"fitted": {"linear": 1.0}, "rows": 10, "set_aside": {}}


def test_one_class_in_the_labels_is_a_constant_and_one_class_in_the_scores_is_not() -> None:
    x = rows(50)
    assert (fit(x, np.tile([0.0, 1.0], (50, 1))).scores(x) == [0, 1]).all()
    p = np.column_stack([1 - x[:, 0] / 200, x[:, 0] / 200])  # the second class never wins
    assert np.abs(fit(x, p).scores(x) - p).max() < 0.1


@pytest.mark.parametrize("n", [1, 2, 10, 25])
def test_columns_that_never_vary_and_hardly_any_rows(n: int) -> None:
    x = np.tile([30.0, 5.0, 1.0, 5.0], (n, 1))
    p = np.eye(2)[np.arange(n) % 2]
    scores = fit(x, p).scores(rows(7))
    assert np.isfinite(scores).all()
    assert np.allclose(scores.sum(axis=1), 1)


def test_rows_without_an_answer_are_left_out() -> None:
    x = rows(100)
    p = linear_victim().scores(x)
    p[::2] = 0
    assert chosen(fit(x, p))["rows"] == 50
    with pytest.raises(InputError, match="at least one of them known"):
        fit(x, np.zeros((100, 2)))


def test_a_family_that_fails_or_gives_nan_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, z: Array, p: Array, seed: int, **how: int) -> families.Fitted:
        if name.startswith("linear"):
            return lambda z: np.full((len(z), 2), np.nan)
        if name.startswith("boosted"):
            raise ValueError(name)
        return fit_family(name, z, p, seed, **how)

    monkeypatch.setattr(auto, "fit_family", broken)
    x = rows(100)
    copy = fit(x, linear_victim().scores(x), families=("linear", "boosted", "network"))
    assert list(chosen(copy)["fitted"]) == ["network"]
    assert np.isfinite(copy.scores(x)).all()
    nothing = fit(x, linear_victim().scores(x), families=("linear", "boosted"))
    assert np.allclose(nothing.scores(x), linear_victim().scores(x).mean(axis=0))


def test_three_classes_and_rows_that_are_pictures() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(300, 2, 3))
    victim = SoftmaxRegression(rng.normal(size=(3, 6)) * 4, np.zeros(3), input_shape=(2, 3))
    copy = AutoLearner().fit(x, victim.scores(x), rng=rng)
    assert copy.scores(x[:0]).shape == (0, 3)
    assert (copy.scores(x).argmax(axis=1) == victim.scores(x).argmax(axis=1)).mean() > 0.97


def test_log_ratios_take_a_zero_for_half_of_the_least_that_is_shown() -> None:
    assert np.allclose(log_ratios(np.array([[0.25, 0.75]])), [np.log([0.25, 0.75]) - np.log([0.25, 0.75]).mean()])
    rounded = log_ratios(np.array([[0.0, 1.0], [0.1, 0.9]]))
    assert rounded[0, 1] - rounded[0, 0] == pytest.approx(np.log(1.0 / 0.05))


def test_heavy_tails_stand_by_rank_and_categories_by_their_most_frequent_values() -> None:
    rng = np.random.default_rng(0)
    heavy = np.expm1(rng.uniform(0, np.log1p(99_999), size=500))
    many = Feature("town", values=tuple(map(str, range(500))))
    door = Interface(input_shape=(3,), n_classes=2, features=(Feature("gain", 0, 99_999), many, Feature("x", 0, 1)))
    x = np.column_stack([heavy, rng.integers(500, size=500), rng.uniform(size=500)])
    encoding = QuantileEncoding.of(x, door)
    assert [j for j, _ in encoding.ranked] == [0]
    z = encoding(x)
    assert z.shape == (500, 3 + MOST_VALUES)
    assert abs(np.median(z[:, 2])) < 0.05  # the ranks: half of the rows on either side
    assert np.median(z[:, 0]) < -0.95  # as they are: nearly all at the low end
    assert np.isfinite(encoding(np.array([[1e9, 7.0, -3.0]]))).all()


def test_wide_rows_such_as_text_get_no_boosted_trees_and_one_weight_for_all_columns() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((120, auto.WIDE + 100)) * (rng.random((120, auto.WIDE + 100)) < 0.02)
    victim = SoftmaxRegression(rng.normal(size=(2, x.shape[1])) * 9, np.zeros(2))
    told = chosen(AutoLearner().fit(x, victim.scores(x), rng=rng))
    assert {name for name in told["set_aside"] if "+" not in name} == {"words", "linear", "network", "kernel"}
    centred = chosen(AutoLearner().fit(x - 0.1, victim.scores(x), rng=rng))  # no text has columns below 0
    assert {name for name in centred["set_aside"] if "+" not in name} == {"linear", "network", "kernel"}


def test_the_columns_of_one_category_share_a_group() -> None:
    encoding = QuantileEncoding.of(rows(300), DOOR)
    assert encoding.groups.tolist() == [0, 1, 2, 2, 2]  # age, gain, job; one that never varies is left out
    nothing = QuantileEncoding.of(np.full((5, 4), 5.0))
    assert len(nothing.groups) == nothing(np.full((5, 4), 5.0)).shape[1]


def test_settings_are_data() -> None:
    learner = AutoLearner(families=("linear",))
    assert describe(learner) == {"unit": "portcullis_ml.models.auto:AutoLearner", "families": ["linear"]}
    assert learner.knowing(DOOR) == learner
    with pytest.raises(ParameterError, match=r"AutoLearner\.families must be"):
        AutoLearner(families=("magic",))


def test_words_keep_their_own_scale_and_get_no_ranks() -> None:
    rng = np.random.default_rng(0)
    rare = rng.random((300, auto.WIDE + 100)) < rng.uniform(0.005, 0.9, auto.WIDE + 100)
    x = rare * rng.uniform(0.05, 0.3, rare.shape)
    copy = AutoLearner().fit(x, np.eye(2)[(x[:, :50].sum(axis=1) > x[:, 50:100].sum(axis=1)).astype(int)], rng=rng)
    assert isinstance(copy, AutoModel)
    assert copy._encoding.ranked == ()
    z = np.tile([[0.0, 0.0], [0.1, 2.0]], (5, 1))
    together = families._Scale.of(z, together=True)(z)
    assert np.ptp(together[:, 1]) == pytest.approx(20 * np.ptp(together[:, 0]))


def documents(n: int, seed: int) -> tuple[Array, Array]:
    """(n, 600) counts of words, common ones that say nothing and rare ones of three topics, and the topics."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(3, size=n)
    shares = np.full((n, 600), 0.02)
    shares[:, :20] = 0.6
    for t in range(3):
        shares[topic == t, 100 + 150 * t : 250 + 150 * t] *= 3
    return rng.poisson(shares).astype(float), topic


def test_text_is_learned_from_labels_as_well_as_by_a_stranger_who_knows_text() -> None:
    (x, topics), (fresh, truth) = documents(240, 0), documents(600, 1)
    copy = AutoLearner().fit(x, np.eye(3)[topics], rng=np.random.default_rng(0))
    assert set(chosen(copy)["set_aside"]) >= {"words labels", "bayes labels"}
    found = (copy.scores(fresh).argmax(axis=1) == truth).mean()
    stranger = (ComplementNB().fit(x, topics).predict(fresh) == truth).mean()
    plain = (LogisticRegression(max_iter=500).fit(x, topics).predict(fresh) == truth).mean()
    assert stranger > plain + 0.05  # or there would be nothing to know about text
    assert found > stranger - 0.02


def test_ranges_of_single_columns_leave_words_as_they_are() -> None:
    """A table's schema may say how often each word was seen at most; that makes no rare word worth more."""
    x, topics = documents(120, 0)
    x = x[:, x.max(axis=0) > 0]
    copies = [
        learner.fit(x, np.eye(3)[topics], rng=np.random.default_rng(0))
        for learner in (
            AutoLearner(families=("linear",)),
            AutoLearner(families=("linear",)).knowing(
                Interface(input_shape=x.shape[1:], n_classes=3, bounds=(0.0, 9.0))
            ),
        )
    ]
    np.testing.assert_allclose(copies[0].scores(x), copies[1].scores(x))


def test_a_family_that_wants_labels_says_so_where_it_is_given_probabilities() -> None:
    with pytest.raises(ValueError, match="The family bayes learns from labels only"):
        fit_family("bayes", rows(20), np.full((20, 2), 0.5), 0)
