import random

import numpy as np
import pytest
from scipy import stats

from portcullis_ml.core.randomness import Noise, canonical, derive

NOISE = Noise(b"k" * 32, "0-stage")


def test_derive_is_a_function_of_seed_and_words() -> None:
    draw = lambda *a: derive(*a).random(3).tolist()  # noqa: E731
    assert draw(1, "a", "b") == draw(1, "a", "b")
    assert len({tuple(d) for d in (draw(1, "a", "b"), draw(2, "a", "b"), draw(1, "ab"), draw(1, "b", "a"))}) == 4


def test_derive_is_the_same_on_every_machine() -> None:
    assert derive(7, "cell").integers(1_000_000) == 532087


@pytest.mark.parametrize(
    "draw", [lambda x: NOISE.uniform(x, 5), lambda x: NOISE.normal(x, 5), lambda x: NOISE.integers(x, 9)]
)
def test_noise_is_a_function_of_the_row_alone(draw) -> None:
    x = np.random.default_rng(0).random((20, 3, 4))
    whole = draw(x)
    assert (whole == np.concatenate([draw(x[:7]), draw(x[7:8]), draw(x[8:])])).all()
    assert (whole[::-1] == draw(x[::-1])).all()


def test_noise_depends_on_key_and_stage() -> None:
    x = np.random.default_rng(0).random((50, 3))
    for other in (Noise(b"l" * 32, "0-stage"), Noise(b"k" * 32, "1-stage")):
        assert (NOISE.uniform(x) != other.uniform(x)).all()


def test_noise_has_the_distribution_it_claims() -> None:
    x = np.arange(4000.0)[:, None]
    assert stats.kstest(NOISE.uniform(x)[:, 0], "uniform").pvalue > 0.001
    assert stats.kstest(NOISE.normal(x)[:, 0], "norm").pvalue > 0.001
    assert stats.chisquare(np.bincount(NOISE.integers(x, 5), minlength=5)).pvalue > 0.001


def test_the_same_question_is_the_same_however_it_is_written() -> None:
    assert canonical(np.array([[0.5, -0.0]])) == canonical(np.array([[0.5 + 1e-9, 0.0]]))
    assert canonical(np.array([[0.5]])) != canonical(np.array([[0.5 + 1e-5]]))
    assert canonical(np.array([[np.nan]])) == canonical(-np.array([[np.nan]]))
    assert canonical(np.array([[0.1, 0.2]]), quantum=1 / 255) == canonical(
        np.array([[0.1 + 1e-4, 0.2]]), quantum=1 / 255
    )


def test_global_generators_are_left_alone() -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    NOISE.normal(np.ones((3, 3)), 4)
    derive(1, "x").random(5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
