"""Questions that teach: where they come from, how their shares move, and that everything is paid for."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Feature, Interface, Reveals
from portcullis_ml.extraction._mixed import LEAST, Questions, typical_rows
from portcullis_ml.extraction._shown import spread
from portcullis_ml.extraction.retraining import Retraining
from portcullis_ml.models.constant import ConstantModel
from portcullis_ml.models.softmax import SoftmaxRegression

DOOR = Interface(
    input_shape=(3,),
    n_classes=2,
    features=(Feature("amount", 0, 100_000), Feature("kind", values=("a", "b")), Feature("share", -0.5, 0.5)),
)
VICTIM = SoftmaxRegression(np.array([[0, 0, 0], [1e-4, 1.0, 3.0]]), np.array([0.0, -2.0]))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_large_amounts_are_rare_and_counts_are_whole() -> None:
    x = typical_rows(DOOR, 4000, rng())
    assert (x >= DOOR.low).all()
    assert (x <= DOOR.high).all()
    assert 0.2 < (x[:, 0] < 1000).mean() < 0.5  # uniform questions have 1% of their rows there
    assert 0.2 < (x[:, 0] == 0).mean() < 0.3  # and nothing at all is common
    assert 0.75 < (x[:, 0] % 1 == 0).mean() < 0.85
    assert set(x[:, 1]) == {0.0, 1.0}
    assert (np.abs(x[:, 2]) % 1 > 0).mean() > 0.95  # its ends are not whole


def test_each_whole_number_of_a_count_is_as_likely_as_the_others_its_ends_too() -> None:
    door = Interface(input_shape=(2,), n_classes=2, features=(Feature("children", 1, 4), Feature("share", 0, 1)))
    x = typical_rows(door, 4000, rng())
    counts = [(x[:, 0] == value).mean() for value in (1, 2, 3, 4)]
    assert min(counts) > 0.16
    assert max(counts) < 0.22
    assert ((x[:, 1] > 0) & (x[:, 1] < 1)).mean() > 0.95  # from 0 to 1 is no count


def test_a_pool_gives_its_own_rows_once_and_then_mixtures_of_them() -> None:
    pool = np.column_stack([np.arange(20) * 10.0, np.zeros(20), np.full(20, 0.25)])
    questions = Questions(DOOR, pool, 100, rng())
    x, ways = questions.draw(90, None)
    assert set(ways) == {"ranges", "marginals", "pool"}
    assert {row.tobytes() for row in pool} <= {row.tobytes() for row in x[ways == "pool"]}
    for way in ("pool", "marginals"):
        assert np.isin(x[ways == way], pool).all()


def test_shares_move_to_where_the_copy_errs_and_none_vanishes() -> None:
    questions = Questions(DOOR, None, 100, rng())
    for _ in range(10):
        x, ways = questions.draw(100, ConstantModel((3,), np.array([1.0, 0.0])))
        questions.credit(x, ways, ways == "ranges")
    shares = questions.shares
    assert shares["ranges"] > max(share for way, share in shares.items() if way != "ranges")
    assert min(shares.values()) >= LEAST / 1.5
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {"ranges", "marginals", "boundary", "worst"}


def test_half_of_a_share_stays_and_half_goes_by_the_errors() -> None:
    questions = Questions(DOOR, None, 100, rng())
    assert questions.shares == {"ranges": 0.5, "marginals": 0.5}
    x = DOOR.uniform(4, rng())
    questions.credit(x, np.array(["ranges", "ranges", "marginals", "marginals"]), np.array([True, True, False, False]))
    assert questions.shares == dict.fromkeys(("ranges", "marginals", "boundary", "worst"), 0.25)  # all cut to MOST
    questions.credit(x, np.array(["ranges", "ranges", "boundary", "boundary"]), np.array([True, True, False, False]))
    # Errors are (1 + wrong) / (2 + asked): 3/4, 1/2, 1/4 and 1/2. Boundary has (1/4 + 1/8) / 2 = 3/16, the rest MOST.
    assert questions.shares["boundary"] == pytest.approx((3 / 16) / (3 / 16 + 3 / 4))
    assert questions.shares["worst"] == questions.shares["ranges"] == pytest.approx((1 / 4) / (3 / 16 + 3 / 4))


def test_boundary_rows_are_those_that_the_copy_is_least_sure_of() -> None:
    questions = Questions(DOOR, None, 2000, rng())
    questions.credit(DOOR.uniform(3, rng()), np.array(["ranges"] * 3), np.zeros(3, bool))
    x, ways = questions.draw(200, VICTIM)
    sure = np.abs(VICTIM.scores(x)[:, 0] - 0.5)
    assert np.median(sure[ways == "boundary"]) < 0.05 < np.median(sure[ways == "ranges"])


@pytest.mark.parametrize("budget", [1, 7, 20, 103])
def test_the_whole_budget_is_spent_and_no_more(budget: int) -> None:
    result = Retraining()(LocalOracle(VICTIM, DOOR, budget=budget), Knowledge(), rng=rng())
    assert result.queries == len(result.x) == budget
    assert np.isfinite(result.model.scores(DOOR.uniform(10, rng()))).all()


def test_what_was_chosen_is_in_the_notes() -> None:
    notes = Retraining()(LocalOracle(VICTIM, DOOR, budget=250), Knowledge(), rng=rng()).notes
    assert list(notes["chosen"]["fitted"]) == ["linear"]
    assert sum(notes["shares"].values()) == pytest.approx(1, abs=0.01)


def test_a_hidden_score_is_told_by_the_shown_ones() -> None:
    nan = np.nan
    scores = np.array([[0.7, nan, nan], [nan, 0.4, nan], [0.2, 0.3, 0.5], [nan, nan, nan]])
    answer = Answer(np.array([0, 1, 2, 1]), scores)
    assert np.allclose(spread(answer, 3), [[0.7, 0.15, 0.15], [0.3, 0.4, 0.3], [0.2, 0.3, 0.5], [0, 1, 0]])
    assert (spread(Answer(np.array([1, -1])), 2) == [[0, 1], [0, 0]]).all()
    tight = spread(Answer(np.array([0]), np.array([[0.3, nan, nan]])), 3)  # hidden ones are not above the shown one
    assert np.allclose(tight, 1 / 3)


def test_one_shown_score_of_two_is_as_good_as_both() -> None:
    copies = [
        Retraining(strategy="uniform")(LocalOracle(VICTIM, door, budget=200), Knowledge(), rng=rng()).model
        for door in (DOOR, DOOR.revealing(reveals=Reveals.TOP_K, k=1))
    ]
    x = DOOR.uniform(500, rng())
    assert np.allclose(copies[0].scores(x), copies[1].scores(x), atol=1e-6)
