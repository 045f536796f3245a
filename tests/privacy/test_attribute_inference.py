"""A hidden column guessed: never read, priced, no better than imputation where the model tells nothing."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable, ParameterError
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Feature, Interface, Reveals, Rows
from portcullis_ml.measures.attributes import attribute_measures
from portcullis_ml.models.imputation import imputed
from portcullis_ml.privacy import CATALOG

INTERFACE = Interface(
    input_shape=(3,),
    n_classes=2,
    features=(Feature("age", 0.0, 1.0), Feature("gene", values=("a", "b", "c")), Feature("dose", 0.0, 1.0)),
)
RNG = np.random.default_rng(0)
X = RNG.random((300, 3))
X[:, 1] = RNG.integers(3, size=300)


class Gene:
    """The class is 1 for gene c and 0 otherwise, nine times in ten; the rest of the row says nothing."""

    input_shape = (3,)
    n_classes = 2

    def scores(self, x):
        p = np.where(x[:, 1] == 2, 0.9, 0.1)
        return np.column_stack([1 - p, p])


class Deaf(Gene):
    def scores(self, x):
        return np.full((len(x), 2), 0.5)


Y = (RNG.random(300) < Gene().scores(X)[:, 1]).astype(np.int64)
POOL = Knowledge(pool=X[150:])
ROWS = Rows(X[:150], Y[:150])


def guess(model, words="attribute_inference(column=gene)", rows=ROWS, knowledge=POOL, budget=10_000, **shown):
    oracle = LocalOracle(model, INTERFACE.revealing(**shown), budget=budget)
    leakage = CATALOG.build(words)(oracle, knowledge, rows, rng=np.random.default_rng(0))
    return leakage, oracle


def test_the_hidden_column_is_not_read():
    blank = ROWS.x.copy()
    blank[:, 1] = np.nan
    one, two = guess(Gene())[0], guess(Gene(), rows=Rows(blank, ROWS.y))[0]
    assert np.array_equal(one.recovered, two.recovered)
    assert np.array_equal(one.recovered[:, [0, 2]], ROWS.x[:, [0, 2]])


def test_every_value_is_one_question():
    leakage, oracle = guess(Gene())
    assert oracle.queries == 450 == leakage.queries
    few, oracle = guess(Gene(), budget=10)
    assert oracle.queries == 10
    assert few.notes["asked_about"] == 3  # the others are guessed by the prior


@pytest.mark.parametrize("shown", [{}, {"reveals": Reveals.LABELS}])
def test_a_model_that_tells_beats_imputation_and_one_that_does_not_does_not(shown):
    truth, member = ROWS.x[:, 1].astype(np.int64), np.arange(150) < 75
    without = imputed(Rows(POOL.pool), ROWS, 1, 3, rng=np.random.default_rng(0)).argmax(axis=1)
    found = {}
    for model in (Gene, Deaf):
        guessed = guess(model(), **shown)[0].recovered[:, 1].astype(np.int64)
        found[model] = attribute_measures(guessed, truth, without, 2, member)
    assert found[Gene]["gain"].low > 0
    assert found[Deaf]["gain"].low <= 0 <= found[Deaf]["gain"].high


def test_an_answer_decides_by_bayes_rule():
    """P(c) = 1/3 each; seeing class 1, c has .9 / (.9 + .1 + .1) of the posterior, and 0 leaves a and b alike."""
    even = np.tile(X[:1], (9, 1))
    even[:, 1] = np.arange(9) % 3
    words = "attribute_inference(column=gene, prior=marginal)"
    found = guess(Gene(), words, Rows(X[:2], np.array([1, 0])), Knowledge(pool=even))[0]
    assert found.recovered[:, 1].tolist() == [2, 0]


def test_imputation_learns_what_other_columns_tell():
    x = X.copy()
    x[:, 0] = x[:, 1] / 2  # the age says the gene
    p = imputed(Rows(x[150:]), Rows(x[:150]), 1, 4, rng=np.random.default_rng(0))
    assert p.shape == (150, 4)
    assert p.sum(axis=1) == pytest.approx(1)
    assert (p.argmax(axis=1) == x[:150, 1]).all()
    assert (p > 0).all()


def test_counts_are_those_of_the_members():
    truth, member = np.array([0, 1, 2, 0]), np.array([True, True, True, False])
    found = attribute_measures(np.array([0, 1, 0, 0]), truth, np.array([0, 0, 0, 1]), 0, member)
    assert [found[k].value for k in ("guessed", "imputed", "majority")] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert found["gain"].value == pytest.approx(1 / 3)
    assert found["gain_others"].value == 1


def test_a_column_that_cannot_be_guessed_is_refused():
    with pytest.raises(ParameterError, match="one of age, gene, dose; got 'genes'"):
        guess(Gene(), "attribute_inference(column=genes)")
    with pytest.raises(NotApplicable, match="age is a number"):
        guess(Gene(), "attribute_inference(column=age)")
    with pytest.raises(ParameterError, match="given, as it has no default"):
        CATALOG.build("attribute_inference")
