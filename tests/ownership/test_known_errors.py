"""Known errors: independent models lie within the null, copies far outside, and without the null nobody is accused."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.ownership import Evidence
from portcullis_ml.core.types import Array, Interface, Model, Rows
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.ownership.known_errors import KnownErrors

API = Interface(input_shape=(6,), n_classes=4)
SCHEME = KnownErrors()
LEARNER = SklearnLearner(estimator="forest", trees=30)


def truth(x: Array) -> np.ndarray:
    """Four classes, one border of which is hard to learn."""
    y: np.ndarray = (x[:, 0] + x[:, 1] * x[:, 2] > 0.8) * 2 + (x[:, 3] + 0.5 * np.sin(9 * x[:, 4]) > 0.5)
    return y


def rows(n: int, seed: int) -> Rows:
    x = np.random.default_rng(seed).random((n, 6))
    return Rows(x, truth(x))


TEST = rows(2_000, 1)
FORESTS = [
    LEARNER.fit(d.x, np.eye(4)[d.y], rng=np.random.default_rng(i))
    for i, d in ((i, rows(300, 100 + i)) for i in range(45))
]
VICTIM, REFERENCE, OTHERS = FORESTS[0], tuple(FORESTS[1:21]), FORESTS[21:]


def judged(suspect: Model, reference: tuple[Model, ...] = REFERENCE, scheme: KnownErrors = SCHEME):
    key = scheme.mint(bytes(32), API, VICTIM, (None, TEST))
    oracle = LocalOracle(suspect, API, budget=1_000)
    return scheme(key, oracle, reference, commitment=key.commit(), rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def innocent() -> list[Evidence]:
    return [judged(model) for model in OTHERS]


def test_a_copy_is_far_outside_the_null_with_a_hundred_queries() -> None:
    pool = np.random.default_rng(7).random((5_000, 6))
    copy = LEARNER.fit(pool, VICTIM.scores(pool), rng=np.random.default_rng(0))
    found = judged(copy)
    assert (found.verdict, found.queries, found.accused) == ("derived", 100, 0)
    assert found.p_value < 1e-4


def test_independent_models_share_mistakes_far_above_chance_and_none_is_accused(innocent: list[Evidence]) -> None:
    assert np.mean([e.matches / e.n for e in innocent]) > 0.3
    assert not [e.p_value for e in innocent if e.p_value < 0.01]


def test_a_null_by_chance_would_have_accused_the_innocent(innocent: list[Evidence]) -> None:
    """Why the null is estimated: as if errors were drawn from all classes, many independent models are convicted."""
    from scipy.stats import binom

    assert np.mean([binom.sf(e.matches - 1, e.n, 1 / 4) < 1e-3 for e in innocent]) > 0.2


def test_models_that_learnt_the_owners_rows_raise_the_null_and_change_what_is_assumed() -> None:
    """They share more mistakes with the victim than models that learnt others, so that the null of all is theirs."""
    scheme = KnownErrors(n=300)
    key, own = scheme.mint(bytes(32), API, VICTIM, (None, TEST)), rows(300, 100)
    owners = tuple(LEARNER.fit(own.x, np.eye(4)[own.y], rng=np.random.default_rng(900 + i)) for i in range(21))

    def found(suspect: Model, reference: tuple[Model, ...], learnt: list[bool]) -> Evidence:
        rng, oracle = np.random.default_rng(0), LocalOracle(suspect, API, budget=len(key))
        return scheme(key, oracle, reference, commitment=key.commit(), rng=rng, learnt=learnt)

    weaker = found(owners[0], REFERENCE, [])
    stricter = found(owners[0], owners[1:], [True] * 20)
    both = found(owners[0], owners[1:] + REFERENCE, [True] * 20 + [False] * 20)
    assert stricter.notes["null_chance"] > weaker.notes["null_chance"] + 0.1
    assert both.p_value == stricter.p_value > 0.01
    assert stricter.verdict != "derived"
    unknown = "no innocent model is known to have learnt them"
    assert [any(unknown in s for s in e.assumed) for e in (weaker, stricter, both)] == [True, False, False]
    assert any("20 of 40 innocent models learnt the owner's training rows" in s for s in both.assumed)


def test_without_twenty_innocent_models_it_is_inconclusive_even_for_the_victim_itself() -> None:
    found = judged(VICTIM, REFERENCE[:19])
    assert (found.matches, found.n, found.verdict) == (100, 100, "inconclusive")
    assert "needs 20 innocent models" in found.lacking


def test_the_key_holds_the_mistakes_on_rows_not_trained_on() -> None:
    key = SCHEME.mint(bytes(32), API, VICTIM, (None, TEST))
    at = [int(np.flatnonzero((TEST.x == x).all(axis=1))[0]) for x in key.x]
    assert len(set(at)) == 100
    assert (VICTIM.scores(key.x).argmax(axis=1) == key.labels).all()
    assert (TEST.y[at] != key.labels).all()


def test_what_it_cannot_do_without_is_said() -> None:
    for victim, given in ((None, (None, TEST)), (VICTIM, ()), (VICTIM, (None, Rows(TEST.x)))):
        with pytest.raises(NotApplicable, match="it needs the model and rows that it was not trained on"):
            SCHEME.mint(bytes(32), API, victim, given)
    right = Rows(TEST.x, VICTIM.scores(TEST.x).argmax(axis=1))
    with pytest.raises(NotApplicable, match="the victim makes none on 2000 rows"):
        SCHEME.mint(bytes(32), API, VICTIM, (None, right))
