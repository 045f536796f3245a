"""Rows of a table on scales from 0 to 1: there and back, and what a small move does to numbers and categories."""

from __future__ import annotations

import numpy as np

from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Feature, Interface
from portcullis_ml.measures.transferability import Transfer
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.models.units import InUnits, OracleInUnits, Units

TABLE = Interface(
    input_shape=(3,), n_classes=2,
    features=(Feature("age", low=20, high=80), Feature("job", values=("a", "b", "c")), Feature("one", low=5, high=5)),
)  # fmt: skip
X = np.array([[20.0, 2, 5], [50, 0, 5], [80, 1, 5]])


def test_rows_come_back_and_a_small_move_leaves_categories_alone() -> None:
    units = Units(TABLE)
    u = units.of(X)
    np.testing.assert_allclose(u, [[0, 2, 0], [0.5, 0, 0], [1, 1, 0]])
    np.testing.assert_allclose(units.rows(u), X)
    np.testing.assert_allclose(units.rows(u - 0.25)[1], [35, 0, 4.75])
    assert [b.tolist() for b in units.bounds] == [[0, 0, 0], [1, 2, 1]]


def test_pictures_from_0_to_255_are_scaled_too() -> None:
    units = Units(Interface(input_shape=(2, 2), n_classes=2, bounds=(0.0, 255.0)))
    x = np.full((1, 2, 2), 51.0)
    np.testing.assert_allclose(units.of(x), 0.2)
    np.testing.assert_allclose(units.rows(units.of(x)), x)


def test_gradients_are_those_of_the_scaled_model() -> None:
    model, units = SoftmaxRegression(np.array([[0.01, 1.0, 0], [-0.02, 0, 0]]), np.zeros(2)), Units(TABLE)
    scaled, u = InUnits(model, units), np.array([[0.3, 1.0, 0.0]])
    gradient = scaled.input_gradient(u, np.array([[1.0, 0.0]]), of="logits")
    np.testing.assert_allclose(gradient, [[0.6, 1, 0]])


def test_evasion_moves_a_table_by_shares_of_its_ranges() -> None:
    """The same rows and eps fool nobody where a year counts as much as a pixel."""
    model = SoftmaxRegression(np.array([[0.1, 0.0, 0], [-0.1, 0, 0]]), np.array([-5.0, 5.0]))
    x = np.column_stack([np.linspace(25, 75, 40), np.zeros(40), np.full(40, 5.0)])
    labels, units = model.scores(x).argmax(axis=1), Units(TABLE)
    rng, protocol = np.random.default_rng(0), Transfer(goal="untargeted")
    plain = protocol(model, model, x, labels, bounds=(0.0, 80.0), rng=rng)
    scaled, victim = InUnits(model, units), InUnits(model, units)
    shares = protocol(scaled, victim, units.of(x), labels, bounds=units.bounds, rng=rng)
    assert plain.rate.value < 0.2 < 0.4 < shares.rate.value


def test_an_api_in_units_is_asked_for_rows_and_paid() -> None:
    model = SoftmaxRegression(np.array([[0.1, 0.0, 0], [-0.1, 0, 0]]), np.array([-5.0, 5.0]))
    oracle = OracleInUnits(LocalOracle(model, TABLE, budget=3), Units(TABLE))
    answer = oracle.query(Units(TABLE).of(X[:2]))
    np.testing.assert_allclose(answer.scores, model.scores(X[:2]))
    assert oracle.left == 1
