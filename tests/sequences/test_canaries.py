"""Exposure: its two estimators beside plain twins, its null, and canaries that a small network learnt."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy.stats import norm, skewnorm

from portcullis_ml.core.errors import InputError
from portcullis_ml.models.sequences import Characters, FromFunction
from portcullis_ml.sequences.canaries import (
    NULL,
    Canaries,
    _log_cdf,
    exposure_by_extrapolation,
    exposure_by_sampling,
)

from .toys import FORM, Uniform


def test_sampling_is_the_plain_count() -> None:
    rng = np.random.default_rng(0)
    costs, references = rng.integers(0, 9, 40).astype(float), rng.integers(0, 9, 128).astype(float)
    plain = [math.log2(128) - math.log2(1 + sum(r < c for r in references)) for c in costs]
    assert exposure_by_sampling(costs, references) == pytest.approx(plain)


@pytest.mark.parametrize("shape", [-3.0, 0.0, 2.0])
def test_the_left_tail_keeps_its_digits(shape: float) -> None:
    for z in (-2.0, -0.5, 0.0, 1.5):
        assert _log_cdf(z, shape) == pytest.approx(math.log(skewnorm.cdf(z, shape)), rel=1e-6)
    near, far = _log_cdf(-6.0, shape), _log_cdf(-40.0, shape)
    assert far < near < _log_cdf(-5.0, shape)
    if shape == 0:
        assert far == pytest.approx(norm.logcdf(-40.0), rel=1e-9)


def test_extrapolation_agrees_with_sampling_where_that_can_tell_and_goes_on_behind_it() -> None:
    references = skewnorm.rvs(2.0, loc=30, scale=4, size=4_000, random_state=np.random.default_rng(1))
    costs = np.quantile(references, [0.02, 0.1, 0.5, 0.9])
    assert exposure_by_extrapolation(costs, references) == pytest.approx(
        exposure_by_sampling(costs, references), abs=0.4
    )
    beyond = exposure_by_extrapolation(np.array([references.min() - 20]), references)
    assert beyond > exposure_by_sampling(np.array([0.0]), references) + 10


def test_references_that_cost_the_same_are_not_fitted() -> None:
    assert exposure_by_extrapolation(np.array([1.0, 3.0]), np.full(100, 2.0)) == pytest.approx(
        [math.log2(100), math.log2(100 / 101)]
    )


def test_canaries_that_were_never_planted_average_the_null() -> None:
    attack = Canaries(prefix="", length=4, references=200)
    candidates = attack.draw(200, rng=np.random.default_rng(0))
    leakage = attack(Uniform("0123456789"), candidates, rng=np.random.default_rng(1))
    assert leakage.membership is not None
    assert leakage.membership.mean() == pytest.approx(NULL, abs=4 * 1.44 / math.sqrt(200))
    assert pytest.approx(1.4427, abs=1e-4) == NULL


@pytest.mark.parametrize("network", ["gru", "transformer"])
def test_planted_canaries_stand_out_and_others_do_not(network: str) -> None:
    pytest.importorskip("torch")
    from .toys import taught

    model, planted, never = taught(network)
    leakage = FORM(model, [*planted, *never], rng=np.random.default_rng(0))
    assert leakage.membership is not None
    assert leakage.membership[: len(planted)].min() > 6
    assert leakage.membership[len(planted) :].mean() < 3
    assert max(leakage.notes["by_sampling"]) <= math.log2(400)


class Merging(Characters):
    """A tokenizer that takes a space and the digit behind it together, as byte pairs do."""

    @property
    def size(self) -> int:
        return super().size + 10

    def encode(self, text: str) -> np.ndarray:
        parts = re.findall(r" \d|.", text)
        single = Characters(self.alphabet)
        return np.array([single.size + int(p) if len(p) == 2 else single.encode(p)[0] for p in parts])


def test_a_symbol_that_merges_with_the_prefix_is_scored() -> None:
    """The model finds every first digit but 7 impossible, and what follows even."""
    tokenizer = Merging("code 0123456789")

    def seven(contexts: np.ndarray) -> np.ndarray:
        p = np.ones((len(contexts), tokenizer.size))
        if contexts.shape[1] == 4:
            p[:, -10:] = 1e-6
            p[:, -3] = 1
        return np.log(p / p.sum(axis=1, keepdims=True))

    leakage = FORM(FromFunction(seven, tokenizer), ["code 71234", "code 11234"], rng=np.random.default_rng(0))
    assert leakage.queries == 402 * 5
    assert leakage.notes["by_sampling"] == pytest.approx([math.log2(400), math.log2(400 / 41)], abs=0.4)


def test_a_candidate_of_another_form_is_refused() -> None:
    for text in ("code 1234", "code 1234x", "12345"):
        with pytest.raises(InputError, match="A canary was expected to be 'code ' and 5 of"):
            FORM(Uniform("code 0123456789"), [text], rng=np.random.default_rng(0))


def test_more_secrets_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(InputError, match="101 different secrets"):
        Canaries(length=2).draw(101, rng=np.random.default_rng(0))
    few = Canaries(prefix="", length=1)
    with pytest.raises(InputError, match="expected to leave other secrets"):
        few(Uniform("0123456789"), few.draw(9, rng=np.random.default_rng(0)), rng=np.random.default_rng(0))


def test_no_candidates_are_no_error() -> None:
    leakage = FORM(Uniform("code 0123456789"), [], rng=np.random.default_rng(0))
    assert leakage.queries == 0
    assert leakage.membership is not None
    assert len(leakage.membership) == 0
