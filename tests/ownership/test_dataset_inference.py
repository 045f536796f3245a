"""Dataset inference: the null is what innocent models do on the same rows; from few of them nothing is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t, ttest_ind

from portcullis_ml.core.attack import Harvest
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence, MarkLog
from portcullis_ml.core.types import Answer, Array, Differentiable, Feature, Interface, Labels, Model, Rows
from portcullis_ml.models.torch import TorchLearner
from portcullis_ml.ownership._calibrated import against
from portcullis_ml.ownership._margins import distances
from portcullis_ml.ownership._walks import directions, moved, sizes
from portcullis_ml.ownership.dataset_inference import DatasetInference, DatasetInferenceKey

from .toys import API, Innocent, Knows

SCHEME = DatasetInference(rows=100, steps=1)
RNG = np.random.default_rng(0)
TRUTH = np.random.default_rng(42).normal(size=(4, 5))


class Honest(Innocent):
    """Learnt the same thing as everybody else, from rows of its own."""

    def __init__(self, seed: int) -> None:
        self.w = TRUTH + 0.3 * np.random.default_rng(seed).normal(size=(4, 5))


def labelled(n: int, wrong: float, seed: int) -> Rows:
    """Rows of which a share has a wrong class, which only who has learnt them by heart answers."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4))
    y = ((x - 0.5) @ TRUTH).argmax(axis=1)
    return Rows(x, np.where(rng.random(n) < wrong, (y + rng.integers(1, 5, n)) % 5, y))


PRIVATE, PUBLIC = labelled(150, 0.3, 1), labelled(150, 0.7, 2)  # the private rows are easier, for everybody
REFERENCE = tuple(Honest(i) for i in range(20))
OTHERS = tuple(Honest(100 + i) for i in range(12))


class Victim(Knows):
    def __init__(self, rows: Rows) -> None:
        self.rows, self.otherwise = rows, Honest(77)


VICTIM = Victim(PRIVATE)


def minted(scheme: DatasetInference = SCHEME, private: Rows = PRIVATE, public: Rows = PUBLIC) -> DatasetInferenceKey:
    return scheme.mint(bytes(32), API, VICTIM, (private, public))


def judged(suspect: Model, reference: tuple[Model, ...] = REFERENCE, budget: int = 10_000, scheme=SCHEME) -> Evidence:
    key = minted(scheme)
    oracle = LocalOracle(suspect, API, budget=budget)
    return scheme(key, oracle, reference, commitment=key.commit(), rng=np.random.default_rng(0))


def alone(suspect: Model) -> float:
    """The published comparison: the private rows with the public ones, in the suspect alone."""
    key = minted()
    match = suspect.scores(key.x).argmax(axis=1) == key.labels % 5
    private = key.labels // 5 % 2 == 1
    return float(ttest_ind(match[private], match[~private], equal_var=False, alternative="greater").pvalue)


def test_a_comparison_without_innocent_models_accuses_all_of_them_and_ours_none() -> None:
    assert max(alone(model) for model in OTHERS) < 1e-3
    found = [judged(model) for model in OTHERS]
    assert {e.verdict for e in found} == {"not shown"}
    assert min(e.p_value for e in found) > 0.01


def test_the_victim_is_convicted_and_what_was_assumed_is_said() -> None:
    found = judged(VICTIM)
    assert found.verdict == "derived"
    assert (found.queries, found.n, found.accused, found.tried) == (800, 800, 0, 20)
    assert any("honestly trained on some of them is accused too" in sentence for sentence in found.assumed)
    assert found.notes["difference"] > 0.1


def test_exchanging_the_two_groups_turns_the_statistic_round() -> None:
    key = minted()
    exchanged = replace(key, labels=key.labels % 5 + 5 * ((key.labels // 5) ^ 1))
    oracle = LocalOracle(VICTIM, API, budget=800)
    found = SCHEME(exchanged, oracle, REFERENCE, commitment=exchanged.commit(), rng=np.random.default_rng(0))
    assert found.notes["statistic"] == pytest.approx(-judged(VICTIM).notes["statistic"])
    assert found.p_value > 0.999


def test_who_was_trained_on_the_public_rows_is_not_accused() -> None:
    assert judged(Victim(PUBLIC)).p_value > 0.99


def test_who_was_honestly_trained_on_the_private_rows_is_accused_as_the_assumptions_say() -> None:
    class Other(Victim):
        def __init__(self) -> None:
            self.rows, self.otherwise = PRIVATE, Honest(78)

    assert judged(Other()).verdict == "derived"


def test_models_that_learnt_the_owners_rows_are_a_null_of_their_own() -> None:
    """Who learnt the private rows honestly goes free, however many innocent models that did not are beside; the two
    kinds are compared apart, and the greater p-value counts."""

    class Other(Victim):
        def __init__(self, seed: int) -> None:
            self.rows, self.otherwise = PRIVATE, Honest(seed)

    key = minted()

    def evidence(model: Model) -> Evidence:
        answer = LocalOracle(model, API, budget=10_000).query(key.x)
        return SCHEME.counted(key.labels, answer, 5)

    owners = [evidence(Other(500 + i)) for i in range(20)]
    others = [evidence(model) for model in REFERENCE]
    suspect, learnt = evidence(Other(78)), [True] * 20 + [False] * 20
    found = SCHEME.weigh(suspect, owners + others, learnt)
    alone = [SCHEME.weigh(suspect, owners, [True] * 20), SCHEME.weigh(suspect, others)]
    assert [e.verdict == "derived" for e in alone] == [False, True]
    assert found.p_value == alone[0].p_value > alone[1].p_value
    assert (found.tried, found.accused) == (40, sum(e.accused for e in alone))
    assert any("20 of 40 innocent models learnt the owner's training rows" in sentence for sentence in found.assumed)
    assert not any("honestly trained on some of them is accused" in sentence for sentence in found.assumed)
    few = SCHEME.weigh(suspect, owners[:19] + others, learnt[1:])
    assert any("honestly trained on some of them is accused" in sentence for sentence in few.assumed)


def test_without_twenty_innocent_models_it_is_inconclusive_even_for_the_victim_itself() -> None:
    found = judged(VICTIM, REFERENCE[:19])
    assert (found.verdict, found.p_value) == ("inconclusive", 1.0)
    assert "needs 20 innocent models to compare with, and 19 were given" in found.lacking


def test_a_suspect_that_stops_answering_is_judged_by_what_it_answered_if_that_is_enough() -> None:
    some, none = judged(VICTIM, budget=500), judged(VICTIM, budget=15)
    assert (some.n, some.verdict) == (500, "derived")
    assert none.verdict == "inconclusive"
    assert "10 are needed" in none.lacking
    refused = SCHEME.counted(minted().labels, Answer(np.empty(0, np.int64)), 5)
    innocent = [SCHEME.counted(minted().labels, Answer(np.zeros(800, np.int64)), 5)] * 20
    assert SCHEME.weigh(refused, innocent).verdict == "inconclusive"


def test_too_few_rows_say_how_many_would_suffice() -> None:
    found = judged(Honest(5), scheme=DatasetInference(rows=10, steps=1))
    assert found.verdict == "inconclusive"
    assert (
        "With 10 rows in a group, not even a model that knows all private rows would be convicted; about"
        in found.lacking
    )


def test_it_is_said_after_how_many_questions_such_a_suspect_is_convicted() -> None:
    """The victim here is sure of every private row, so far fewer questions than the key has convict it."""
    notes = judged(VICTIM).notes
    about, most = notes["queries_to_convict"], notes["queries_to_convict_at_most"]
    assert 0 < about <= most < 800
    rows = -(-most // 8)  # four questions a row, as many public rows as private ones
    assert judged(VICTIM, scheme=DatasetInference(rows=rows, steps=1)).verdict == "derived"
    innocent = judged(Honest(5)).notes
    assert innocent["queries_to_convict_at_most"] is None or innocent["queries_to_convict_at_most"] > 800


def test_parts_of_a_key_are_judged_as_the_whole_is() -> None:
    """The court opens some of the pairs, in an order that nobody chose."""
    key, places = minted(), np.random.default_rng(3).permutation(800)[:500]
    labels = key.labels[places]

    def counted(model: Model) -> Evidence:
        return SCHEME.counted(labels, Answer(model.scores(key.x[places]).argmax(axis=1)), 5)

    innocent = [counted(model) for model in REFERENCE]
    assert SCHEME.weigh(counted(VICTIM), innocent).verdict == "derived"
    assert SCHEME.weigh(counted(OTHERS[0]), innocent).verdict == "not shown"


def test_a_walk_is_the_row_and_the_row_moved_in_three_directions() -> None:
    key = minted(DatasetInference(rows=100, steps=2))
    assert len(key) == 2 * 100 * 7
    for row in (0, 1):  # the first public row and the first private one
        x = key.x[key.labels // 5 == row]
        assert len(x) == 7
        group = (PUBLIC, PRIVATE)[row]
        start = next(v for v in x if (group.x == v).all(axis=1).any())
        assert (key.labels[key.labels // 5 == row] % 5 == group.y[(group.x == start).all(axis=1)][0]).all()
    assert ((key.x >= 0) & (key.x <= 1)).all()


def test_sizes_are_where_the_victim_has_kept_such_a_share_of_its_right_answers() -> None:
    rows = Rows(RNG.random((2_000, 4)), np.zeros(2_000, np.int64))
    rows = Rows(rows.x, VICTIM.scores(rows.x).argmax(axis=1))
    found = sizes(VICTIM, rows, API, [0.9, 0.7], np.random.default_rng(0))
    ways = np.array([directions(API, np.random.default_rng(i)) for i in range(2_000)])
    for i, (near, far) in enumerate(found.values()):
        for size, share in ((near, 0.9), (far, 0.7)):
            kept = VICTIM.scores(moved(rows.x, ways[:, i], size, API)).argmax(axis=1) == rows.y
            assert kept.mean() == pytest.approx(share, abs=0.05)


def test_categories_are_not_moved_and_numbers_stay_in_their_columns() -> None:
    features = (Feature("age", 17, 90), Feature("work", values=("a", "b", "c")))
    table = Interface(input_shape=(2,), n_classes=2, features=features)
    ways = directions(table, np.random.default_rng(0))
    assert (ways[:, 1] == 0).all()
    assert (np.abs(ways[:, 0]) > 1).any()
    at = moved(np.array([[80.0, 2.0]]), np.array([50.0, 0.0]), 1.0, table)
    assert at.tolist() == [[90.0, 2.0]]


@pytest.mark.parametrize(
    ("private", "public", "sentence"),
    [
        (Rows(PRIVATE.x), PUBLIC, "compares rows that the victim was trained on with rows that it was not"),
        (PRIVATE, Rows(PUBLIC.x[:5], PUBLIC.y[:5]), "at least 10 private and 10 public rows; got 150 and 5"),
        (Rows(PRIVATE.x, PRIVATE.y + 3), PUBLIC, "expected classes 0..4, those of the victim; the rows have 0..7"),
        (Rows(PRIVATE.x.astype(str), PRIVATE.y), PUBLIC, "which must be numbers"),
    ],
)
def test_rows_that_will_not_do_are_told_in_one_sentence(private: Rows, public: Rows, sentence: str) -> None:
    with pytest.raises(NotApplicable, match=sentence):
        minted(private=private, public=public)


def test_other_things_that_it_cannot_do_without_are_said() -> None:
    with pytest.raises(InputError, match="150 stand in both"):
        minted(public=PRIVATE)
    with pytest.raises(NotApplicable, match="this API does regression"):
        SCHEME.mint(bytes(32), Interface(input_shape=(4,), task="regression"), VICTIM, (PRIVATE, PUBLIC))
    with pytest.raises(NotApplicable, match="Give --victim, --train and --test"):
        SCHEME.mint(bytes(32), API, None, (PRIVATE, PUBLIC))
    with pytest.raises(NotApplicable, match="the victim has none"):
        SCHEME.mint(bytes(32), API, Always(4), (PRIVATE, Rows(PUBLIC.x, np.zeros(150, np.int64))))
    with pytest.raises(NotApplicable, match="needs inputs that can be moved"):
        SCHEME.mint(bytes(32), API, Always(0), (PRIVATE, Rows(PUBLIC.x, np.zeros(150, np.int64))))
    with pytest.raises(ParameterError, match="rows"):
        DatasetInference(rows=5)
    other = Interface(input_shape=(4,), n_classes=6)
    with pytest.raises(NotApplicable, match="has 6"):
        SCHEME.examine(minted(), Harvest(LocalOracle(VICTIM, other, budget=1)), other, MarkLog(), RNG)


class Always:
    input_shape, n_classes = (4,), 5

    def __init__(self, label: int) -> None:
        self.label = label

    def scores(self, x: Array) -> Array:
        return np.eye(5)[np.full(len(x), self.label)]


class TestCalibrated:
    FIRST = np.arange(40) < 20

    def test_it_agrees_with_the_formulas_written_out(self) -> None:
        rng = np.random.default_rng(5)
        hard = rng.normal(size=40)
        others, own = hard + rng.normal(size=(20, 40)), hard + rng.normal(size=40) + 2.0 * self.FIRST
        found = against(own, others, self.FIRST)
        its = own - others.mean(axis=0)
        assert found.statistic == pytest.approx(ttest_ind(its[:20], its[20:], equal_var=False).statistic)
        assert len(found.innocent) == 20
        one = others[3] - np.delete(others, 3, 0).mean(axis=0)
        assert found.innocent[3] == pytest.approx(ttest_ind(one[:20], one[20:], equal_var=False).statistic)
        assert found.p_value == pytest.approx(t.sf((found.statistic - found.mean) / found.spread, 19))
        assert found.spread >= max(1, np.std(found.innocent, ddof=1))
        assert found.mean >= max(0, np.mean(found.innocent))

    def test_what_all_models_find_easier_is_no_proof(self) -> None:
        rng = np.random.default_rng(6)
        others = 3.0 * self.FIRST + rng.normal(size=(20, 40))
        assert against(3.0 * self.FIRST + rng.normal(size=40), others, self.FIRST).p_value > 0.01

    def test_innocent_models_that_scatter_widen_the_null(self) -> None:
        rng = np.random.default_rng(7)
        leaning = rng.normal(size=(20, 1)) * self.FIRST * 4
        others = leaning + rng.normal(size=(20, 40))
        found = against(4.0 * self.FIRST + rng.normal(size=40), others, self.FIRST)
        assert found.statistic > 5
        assert found.p_value > 1e-3

    def test_scores_that_are_all_alike_are_not_taken_for_certainty(self) -> None:
        found = against(np.ones(40), np.ones((20, 40)), self.FIRST)
        assert (found.statistic, found.difference) == (0.0, 0.0)
        assert found.p_value == pytest.approx(0.5)


class TestWhiteBox:
    X = np.random.default_rng(8).random((500, 4, 4))
    Y: Labels = np.random.default_rng(9).integers(3, size=500)

    def trained(self, rows: slice | Labels, seed: int) -> Differentiable:
        learner = TorchLearner(network="mlp", epochs=200)
        return learner.fit(self.X[rows], np.eye(3)[self.Y[rows]], rng=np.random.default_rng(seed))

    def test_a_file_that_knows_the_private_rows_is_convicted_and_another_is_not(self) -> None:
        private, public = Rows(self.X[:40], self.Y[:40]), Rows(self.X[40:80], self.Y[40:80])
        elsewhere = [80 + np.random.default_rng(seed).permutation(420)[:40] for seed in range(21)]
        reference = [self.trained(rows, seed) for seed, rows in enumerate(elsewhere[:20])]
        margins = [SCHEME.margins(m, private, public, steps=10, classes=2) for m in reference]

        def verdict(model: Differentiable) -> Evidence:
            return SCHEME.white_box(SCHEME.margins(model, private, public, steps=10, classes=2), np.array(margins), 40)

        found = verdict(self.trained(slice(0, 40), 50))
        assert (found.verdict, found.n) == ("derived", 40)
        assert verdict(self.trained(elsewhere[20], 51)).verdict == "not shown"
        few = SCHEME.white_box(margins[0], np.array(margins[:19]), 40)
        assert few.verdict == "inconclusive"
        with pytest.raises(NotApplicable, match="needs 10 rows in each group; the smaller has 5"):
            SCHEME.white_box(margins[0], np.array(margins), 5)

    def test_distances_to_a_plane_are_those_of_geometry(self) -> None:
        """Two classes with x1 = 0.5 as their border: 0.3 away, under every norm, and 0 for a row that is wrong."""
        rows = Rows(np.array([[0.2, 0.5], [0.7, 0.5]]), np.array([0, 0]))
        for norm in ("linf", "l2"):
            found = distances(Plane(), rows, norm, (0.0, 1.0), 500, 1)
            assert found == pytest.approx([0.3, 0.0], abs=0.011)
        assert distances(Plane(), rows, "l1", (0.0, 1.0), 500, 1)[1] == 0


class Plane:
    input_shape, n_classes = (2,), 2

    def scores(self, x: Array) -> Array:
        return np.eye(2)[(x[:, 0] > 0.5).astype(int)]

    def input_gradient(self, x: Array, weights: Array, *, of: str) -> Array:
        return np.stack([weights[:, 1] - weights[:, 0], np.zeros(len(x))], axis=1)
