"""The search for an input that fools the API by its answers: what it finds, what it pays, and where it stops."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface, Reveals
from portcullis_ml.measures.square_attack import TRIES, _redrawn, _stripes, square_attack
from portcullis_ml.measures.transferability import Transfer

from .toys import a_softmax

BOX = (0.0, 1.0)


def interface(shape: tuple[int, ...] = (8,), **changes: object) -> Interface:
    return Interface(input_shape=shape, n_classes=4, bounds=BOX, reveals=Reveals.PROBS).revealing(**changes)


def run(protocol: Transfer, budget: int, seed: int = 0, **changes: object):
    victim = a_softmax(2, 4, 8)
    x = np.random.default_rng(3).uniform(size=(60, 8))
    oracle = LocalOracle(victim, interface(**changes), budget=budget)
    labels = victim.scores(x).argmax(axis=1)
    rng = np.random.default_rng(seed)
    rate, harvest = square_attack(protocol, oracle, victim, x, labels, bounds=BOX, rng=rng)
    return rate, harvest, x, labels


def test_answers_lead_further_than_labels_and_a_goal_is_harder_than_none() -> None:
    any_class, one_class = Transfer(eps=0.2, per_class=8, goal="untargeted"), Transfer(eps=0.2, per_class=8)
    by_scores, by_labels = run(any_class, 10_000)[0], run(any_class, 10_000, reveals=Reveals.LABELS)[0]
    assert by_scores.value > by_labels.value
    assert by_scores.value > run(one_class, 100_000)[0].value > 0


def test_nothing_is_asked_beyond_the_budget_and_what_is_not_reached_is_not_fooled() -> None:
    protocol = Transfer(eps=0.2, per_class=8, goal="untargeted")
    rate, harvest, _, labels = run(protocol, 60)
    assert harvest.paid == 60
    assert harvest.ended == "budget"
    assert rate.n == sum(min(8, int((labels == c).sum())) for c in range(4))
    assert rate.value < run(protocol, 10_000)[0].value


def test_every_question_lies_in_the_ball_and_in_the_box() -> None:
    _, harvest, x, _ = run(Transfer(eps=0.1, per_class=2, goal="untargeted"), 300)
    assert harvest.x.min() >= 0
    assert harvest.x.max() <= 1
    away = np.abs(harvest.x[:, None] - x[None]).max(axis=2).min(axis=1)
    np.testing.assert_array_less(away, 0.1 + 1e-9)


def test_an_input_that_does_not_move_asks_its_tries_and_no_more() -> None:
    rate, harvest, _, labels = run(Transfer(eps=0.0, per_class=1, goal="untargeted"), 10_000)
    assert rate.value == 0
    assert harvest.paid == TRIES * len(np.unique(labels))


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 3), (5, 3, 7, 8), (5, 9)])
def test_squares_and_stripes_are_of_pictures_in_either_layout(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    signs = _stripes(np.zeros(shape), rng)
    assert signs.shape == shape
    assert set(np.unique(signs)) == {-1.0, 1.0}
    down = 2 if shape == (5, 3, 7, 8) else 1
    if len(shape) > 2:
        assert (signs == signs.take([0], axis=down)).all()
    moved = _redrawn(np.zeros(shape), 0.25, rng)
    changed = moved != 0
    assert changed.any(axis=tuple(range(1, len(shape)))).all()
    if len(shape) == 3:
        assert (changed.sum(axis=(1, 2)) == round(np.sqrt(0.25 * 42)) ** 2).all()
