"""Victim, attacker and judge share no row, however the split is asked for."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from portcullis_ml.core.errors import InputError
from portcullis_ml.data.dataset import Dataset
from portcullis_ml.data.splits import overlap, split


def made(n=100, m=40, groups=None):
    rng = np.random.default_rng(0)
    return Dataset(
        name="made",
        x=rng.random((n, 3)),
        y=np.arange(n) % 2,
        x_test=rng.random((m, 3)),
        y_test=np.arange(m) % 2,
        classes=("a", "b"),
        groups=groups,
    )


@given(victim=st.integers(1, 99), seed=st.integers(0, 100), data=st.data())
@settings(max_examples=50, deadline=None)
def test_no_row_is_in_two_hands(victim, seed, data):
    attacker = data.draw(st.integers(1, 100 - victim))
    parts = split(made(), rng=np.random.default_rng(seed), victim=victim, attacker=attacker, test=10)
    assert (len(parts.victim), len(parts.attacker), len(parts.test)) == (victim, attacker, 10)
    assert not set(parts.victim.rows) & set(parts.attacker.rows)
    assert overlap(parts.victim.x, parts.attacker.x) == 0
    np.testing.assert_array_equal(parts.victim.x, made().x[parts.victim.rows])
    np.testing.assert_array_equal(parts.test.y, made().y_test[parts.test.rows])


@given(
    groups=st.lists(st.integers(0, 12), min_size=100, max_size=100),
    seed=st.integers(0, 20),
    victim=st.integers(45, 55),
    attacker=st.integers(40, 45),
)
@settings(max_examples=50, deadline=None)
def test_no_group_is_in_two_hands(groups, seed, victim, attacker):
    groups = np.array(groups)
    dataset = made(groups=groups)
    largest = np.bincount(groups).max()
    assume(largest <= 25)
    parts = split(dataset, rng=np.random.default_rng(seed), victim=victim, attacker=attacker)
    assert not set(groups[parts.victim.rows]) & set(groups[parts.attacker.rows])
    assert victim - largest < len(parts.victim) <= victim
    assert attacker - largest < len(parts.attacker) <= attacker


def test_shares_and_what_is_left():
    parts = split(made(), rng=np.random.default_rng(0), victim=0.6)
    assert (len(parts.victim), len(parts.attacker), len(parts.test)) == (60, 40, 40)
    assert parts.test.rows.tolist() == list(range(40))
    with pytest.raises(InputError, match=r"attacker must get between 1 and 100 rows"):
        split(made(), rng=np.random.default_rng(0), attacker=0)


def test_the_split_is_a_function_of_rng():
    one, two, three = (split(made(), rng=np.random.default_rng(s), victim=0.5, test=0.5) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.victim.rows, two.victim.rows)
    np.testing.assert_array_equal(one.test.rows, two.test.rows)
    assert set(one.victim.rows) != set(three.victim.rows)


def test_it_says_how_in_one_sentence():
    parts = split(made(), rng=np.random.default_rng(0), victim=70)
    assert parts.describe() == (
        "made: 70 rows for the victim and 30 for the attacker, drawn at random row by row from the training part so "
        "that no row is in both; 40 rows of the test part judge, and neither holds them."
    )
    grouped = split(made(groups=np.arange(100) // 5), rng=np.random.default_rng(0), victim=70)
    assert "whole groups at a time" in grouped.describe()


def test_twins_among_the_test_rows_are_counted():
    dataset = made()
    twins = Dataset(
        **{**vars(dataset), "x_test": np.vstack([dataset.x[:3], dataset.x_test]), "y_test": np.arange(43) % 2}
    )
    assert "3 of the test rows have an identical twin" in split(twins, rng=np.random.default_rng(0)).describe()


def test_overlap_agrees_with_the_plain_loop():
    rng = np.random.default_rng(0)
    a, b = rng.integers(3, size=(30, 2, 2)) / 2, rng.integers(3, size=(40, 2, 2)) / 2
    assert overlap(a, b) == sum(any((row == other).all() for other in a) for row in b) > 0
    assert overlap(a[:0], b) == overlap(a, b[:0]) == 0


def test_what_cannot_be_drawn_gets_a_sentence():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="made has 100 training rows; 60 for the victim and 50 for the attacker"):
        split(made(), rng=rng, victim=60, attacker=50)
    with pytest.raises(InputError, match=r"victim must get between 1 and 100 rows, or a share in \(0, 1\]; 101 was"):
        split(made(), rng=rng, victim=101)
    with pytest.raises(InputError, match="Whole groups do not fit into 10 and 90 rows"):
        split(made(groups=np.arange(100) // 50), rng=rng, victim=10)
