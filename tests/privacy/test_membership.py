"""The membership attacks against plain twins and values worked out on paper, under every interface, behind guards."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Feature, Interface, Reveals, Rows
from portcullis_ml.defenses.rounding import Rounding
from portcullis_ml.measures.membership import area_under_curve, membership_measures
from portcullis_ml.models.shadows import rows_to_train_on, save_shadows, train_shadows
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.privacy import CATALOG
from portcullis_ml.privacy._shared import least_shown, logits, shares, truth_and_rest, views_of
from portcullis_ml.privacy.label_only import _nearest_others
from portcullis_ml.privacy.lira import likelihood_ratio

from .toys import API, KNOWING, MEMBER, SETUPS, Memorizes, candidates, overfitted

NAMES = sorted(set(SETUPS) - {"attribute_inference", "label_only_inversion", "mi_face", "representers"})
SHOWN = {
    "probs": {},
    "rounded": {"decimals": 1},
    "top_k": {"reveals": Reveals.TOP_K, "k": 2},
    "labels": {"reveals": Reveals.LABELS},
}


def suspicion(words, *, knowledge=KNOWING, rows=None, budget=2_000, seed=0, model=None, guard=None, **shown):
    oracle = LocalOracle(model or overfitted(), API.revealing(**shown), budget=budget, guard=guard)
    leakage = CATALOG.build(words)(oracle, knowledge, rows or candidates(), rng=np.random.default_rng(seed))
    return leakage.membership


def test_what_is_hidden_shares_the_rest():
    shown = Answer(np.array([1, 0, -1]), np.array([[np.nan, 0.6, 0.2, np.nan], [0.5, 0.5, 0.0, 0.0], [np.nan] * 4]))
    assert shares(shown, 4) == pytest.approx(np.array([[0.1, 0.6, 0.2, 0.1], [0.5, 0.5, 0, 0], [0.25] * 4]))
    assert shares(Answer(np.array([2])), 4).tolist() == [[0, 0, 1, 0]]


def test_a_logit_keeps_the_digits_of_what_is_nearly_certain():
    sure = Answer(np.array([0]), np.array([[1.0, 1e-11, 1e-11, 0.0]]))
    pairs = truth_and_rest(sure, np.array([0]), 4)
    assert logits(pairs, 1e-12) == pytest.approx(-np.log(2e-11), rel=1e-6)  # 1 - p would be 0


def test_a_zero_counts_as_half_of_the_least_that_is_shown():
    forest = np.array([[1.0, 0.9, 0.0], [0.0, 0.1, 1.0]])
    assert least_shown(forest, API) == 0.05
    assert least_shown(forest, API.revealing(decimals=2)) == 0.005
    assert least_shown(np.array([[0.9], [0.1]]), API) == 1e-12
    assert logits(forest, 0.05) == pytest.approx([np.log(20), np.log(9), -np.log(20)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shown", sorted(SHOWN))
def test_members_are_found_under_every_interface_that_shows_enough(name, shown):
    words = SETUPS[name].words
    if shown == "labels" and name in ("lira", "rmia"):
        with pytest.raises(NotApplicable, match="needs top_k"):
            suspicion(words, **SHOWN[shown])
        return
    assert area_under_curve(suspicion(words, **SHOWN[shown]), MEMBER).low > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_victim_that_saw_none_of_the_candidates_gives_nothing_away(name):
    """Rows of one class only, so that being answered right says nothing either."""
    rng = np.random.default_rng(5)
    rows = Rows(rng.random((200, 3)), np.tile([0, 1], 100))
    stranger = Memorizes().fit(rng.random((50, 3)), np.eye(4)[rng.integers(4, size=50)], rng=rng)
    found = suspicion(SETUPS[name].words, rows=rows, model=stranger, budget=5_000)
    auc = area_under_curve(found, np.arange(200) // 2 % 2 == 0)
    assert auc.low <= 0.5 <= auc.high


@pytest.mark.parametrize("mode", ["online", "offline", "offline_two_sided"])
@pytest.mark.parametrize("variance", ["fixed", "each"])
def test_the_ratio_is_that_of_normal_densities(mode, variance):
    """A plain twin with scipy's normal distribution, a candidate and a view at a time."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    held = np.stack([np.arange(6) < 3, np.arange(6) >= 3] * 4)
    theirs, phi = rng.normal(size=(8, 2, 6)) + held[:, None, :], rng.normal(size=(2, 6))
    found = likelihood_ratio(phi, theirs, held, mode=mode, variance=variance)

    def spread(view, i, chosen):
        own = [theirs[chosen[:, j], view, j] for j in (range(6) if variance == "fixed" else [i])]
        return np.sqrt(sum(((v - v.mean()) ** 2).sum() for v in own) / sum(len(v) - 1 for v in own))

    for view in range(2):
        for i in range(6):
            out, inside = theirs[~held[:, i], view, i], theirs[held[:, i], view, i]
            without = norm(np.median(out), spread(view, i, ~held))
            if mode == "online":
                with_it = norm(np.median(inside), spread(view, i, held))
                wanted = with_it.logpdf(phi[view, i]) - without.logpdf(phi[view, i])
                assert found[view, i] == pytest.approx(wanted)
            elif mode == "offline":
                assert norm.cdf(found[view, i]) == pytest.approx(without.cdf(phi[view, i]))
            else:  # the release's score, up to a constant
                assert found[view, i] == pytest.approx(-without.logpdf(phi[view, i]) - np.log(2 * np.pi) / 2)


def test_one_sided_does_not_accuse_rows_that_fit_badly():
    held = np.array([[True, True], [False, False]] * 2)
    theirs, phi = np.array([[[1.0, 1.0]], [[0.0, 0.0]], [[1.2, 1.1]], [[0.2, 0.1]]]), np.array([[0.1, -9.0]])
    one, two = (
        likelihood_ratio(phi, theirs, held, mode=m, variance="fixed")[0] for m in ("offline", "offline_two_sided")
    )
    assert one[1] < one[0]
    assert two[1] > two[0]


def test_the_share_of_exceeded_ratios_is_the_plain_count():
    attack = CATALOG.build("rmia(gamma=1.5)")
    rng = np.random.default_rng(0)
    ratio, others = rng.random(20) * 3, rng.random(15) * 3
    plain = [np.mean([r / z > 1.5 for z in others]) for r in ratio]
    assert attack._share(ratio, others) == pytest.approx(plain)


def test_candidates_in_the_pool_are_trained_on_once():
    """A pool row that is a candidate would put it into models that are said not to hold it."""
    rows = candidates()
    pool = np.concatenate([rows.x[:10], KNOWING.pool])
    groups = np.concatenate([rows.y[:10], KNOWING.pool_groups])
    found = rows_to_train_on(rows, Knowledge(pool=pool, pool_groups=groups), most=100)
    assert len(found) == 60 + 40
    assert len(rows_to_train_on(rows, Knowledge(pool=pool), most=100)) == 60  # without classes it is of no use


class Line:
    """Class 1 above x0 = .5; sure of nothing."""

    input_shape = (2,)
    n_classes = 2

    def scores(self, x):
        return np.eye(2)[(x[:, 0] > 0.5).astype(int)]


def test_the_search_finds_the_boundary_and_counts_every_question():
    x = np.array([[0.1, 0.5], [0.4, 0.5], [0.9, 0.5], [0.7, 0.5]])
    interface = Interface(input_shape=(2,), n_classes=2, reveals=Reveals.LABELS)
    oracle = LocalOracle(Line(), interface, budget=1_000)
    attack = CATALOG.build("label_only(anchors=1, steps=12)")
    leakage = attack(oracle, Knowledge(), Rows(x, np.array([0, 0, 1, 0])), rng=np.random.default_rng(0))
    assert leakage.membership == pytest.approx([0.4, 0.1, 0.4, 0], abs=2e-4)  # the last is answered wrong
    assert oracle.queries == 4 + 3 * 12


def test_a_category_between_two_is_the_nearer_ones():
    asked = []

    class Table:
        input_shape = (2,)
        n_classes = 2

        def scores(self, x):
            asked.append(x.copy())
            return np.eye(2)[(x[:, 0] > 0.5).astype(int)]

    features = (Feature("height"), Feature("color", values=("red", "green", "blue")))
    interface = Interface(input_shape=(2,), n_classes=2, features=features)
    rows = Rows(np.array([[-0.5, 0.0], [0.9, 2.0]]), np.array([0, 1]))
    CATALOG.build("label_only")(
        LocalOracle(Table(), interface, budget=99), Knowledge(), rows, rng=np.random.default_rng(0)
    )
    assert set(np.concatenate(asked)[:, 1]) == {0.0, 2.0}


def test_views_are_the_row_and_its_neighbours():
    picture = np.arange(9.0).reshape(1, 3, 3)
    one, right, *_ = views_of(picture, 9)
    assert np.array_equal(one, picture)
    assert right[0, 0].tolist() == [0, 0, 1]  # the edge is repeated
    assert np.array_equal(views_of(picture, 2, mirror=True)[1], picture[:, :, ::-1])
    assert len(views_of(np.zeros((1, 3, 8, 8)), 9)) == 9
    with pytest.raises(InputError, match="At most 1 views"):
        views_of(np.zeros((2, 5)), 2)


@pytest.mark.parametrize("words", ["lira(models=4)", "rmia(models=4)", "shadow(models=4, hidden=8, steps=200)"])
def test_a_known_guard_is_rehearsed_on_the_shadows(words):
    rehearsed = []

    def rehearse(x, scores):
        rehearsed.append(len(x))
        return Answer(scores.argmax(axis=1), np.round(scores, 1))

    knowing = Knowledge(
        pool=KNOWING.pool, pool_groups=KNOWING.pool_groups, learner=Memorizes(), rehearse=rehearse, defense=[]
    )
    guard = Guard(Rounding(decimals=1), key=bytes(16))
    found = suspicion(words, knowledge=knowing, guard=guard, decimals=1)
    assert len(rehearsed) == 4
    assert area_under_curve(found, MEMBER).low > 0.5


def test_shadows_that_were_kept_give_what_new_ones_give(tmp_path):
    learner, rows = SklearnLearner(estimator="tree"), candidates()
    knowing = Knowledge(learner=learner)
    made = train_shadows(learner, rows.x, rows.y, 4, models=4, rng=np.random.default_rng(7))
    kept = save_shadows(made, tmp_path / "kept", learner, rows.x, rows.y)
    fresh = suspicion("lira(models=4)", knowledge=knowing, seed=7)
    again = suspicion(f"lira(models=4, shadows='{kept}')", knowledge=knowing, seed=0)
    assert np.array_equal(fresh, again)
    with pytest.raises(InputError, match="other rows"):
        suspicion(f"lira(shadows='{kept}')", knowledge=knowing, rows=Rows(rows.x[:50], rows.y[:50]))


@pytest.mark.parametrize("name", NAMES)
def test_without_the_true_classes_it_does_not_apply(name):
    with pytest.raises(NotApplicable, match="true classes"):
        suspicion(SETUPS[name].words, rows=Rows(candidates().x))


def test_candidates_of_one_class_train_no_shadows():
    rows = Rows(candidates().x, np.zeros(60, np.int64))
    with pytest.raises(NotApplicable, match="at least two classes"):
        suspicion("lira", rows=rows, knowledge=Knowledge(learner=Memorizes()))


@pytest.mark.parametrize("words", ["lira(models=3)", "rmia(gamma=0.5)", "label_only(by=size)", "shadow(models=1)"])
def test_settings_out_of_range_are_refused(words):
    with pytest.raises(ParameterError):
        CATALOG.build(words)


@pytest.mark.parametrize("words", ["lira(models=8)", "rmia(models=4)"])
def test_shadows_are_better_than_a_global_threshold(words):
    """Forests on digits of which a fifth have a random label: a loss says how hard a row is, shadows how unlikely."""
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(0)
    x, y = digits.data[:1000] / 16, digits.target[:1000].copy()
    wrong = rng.random(1000) < 0.2
    y[wrong] = rng.integers(10, size=wrong.sum())
    learner = SklearnLearner(estimator="forest", trees=30)
    member = rng.permutation(1000) < 500
    victim = learner.fit(x[member], np.eye(10)[y[member]], rng=rng)
    found = []
    for attack in (words, "loss_threshold"):
        oracle = LocalOracle(victim, Interface(input_shape=(64,), n_classes=10), budget=1000)
        leakage = CATALOG.build(attack)(oracle, Knowledge(learner=learner), Rows(x, y), rng=np.random.default_rng(1))
        found.append(membership_measures(leakage.membership, member))
    shadows, loss = found
    assert shadows["auc"].low > loss["auc"].high
    assert shadows["tpr_at_1_percent"].low > loss["tpr_at_1_percent"].high


def test_the_nearest_others_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.random((700, 5)), rng.integers(-1, 4, 700)  # -1 was not answered
    api = Interface(input_shape=(5,), n_classes=4)
    searched = np.flatnonzero(labels >= 0)[::2]
    near, length = _nearest_others(x, labels, searched, 3, api)
    for row, i in enumerate(searched):
        others = np.flatnonzero((labels >= 0) & (labels != labels[i]))
        far = np.sqrt(((x[others] - x[i]) ** 2).sum(axis=1))
        assert near[row].tolist() == others[np.argsort(far)[:3]].tolist()
        np.testing.assert_allclose(length[row], np.sort(far)[:3])


def test_where_there_are_fewer_others_than_anchors_the_rest_is_infinitely_far() -> None:
    labels = np.array([0, 1, -1, 0])
    api = Interface(input_shape=(1,), n_classes=2)
    near, length = _nearest_others(np.array([[0.0], [0.5], [0.1], [0.9]]), labels, np.array([0, 1]), 3, api)
    assert (near[0, 0], near[1, 0], near[1, 1]) == (1, 3, 0)
    np.testing.assert_allclose(length, [[0.5, np.inf, np.inf], [0.4, 0.5, np.inf]])
