"""Adaptive misinformation: the gate, the mixture against a plain twin, and what honest clients lose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Interface, Request
from portcullis_ml.defenses.adaptive_misinformation import AdaptiveMisinformation, gate
from portcullis_ml.defenses.reverse_sigmoid import ReverseSigmoid
from portcullis_ml.models.artifacts import pack_arrays, unpack_arrays, write_artifact
from portcullis_ml.models.dense import DenseModel

from .toys import API, answer_to, explained, rows, toy_misinformation

X = rows(300)
CLEAN = answer_to(X)
Y = CLEAN.scores
assert Y is not None
NETWORK = DenseModel(unpack_arrays(toy_misinformation().read().files["misinformation.safetensors"]))
SAID = NETWORK.scores(X)


def released(*before: Any, clean: Answer = CLEAN, **settings: Any) -> Answer:
    stage = AdaptiveMisinformation(network=toy_misinformation(), **settings)
    return Guard(*before, stage, key=b"k" * 32, interface=API).release(Request("a", X), clean).answer


@pytest.mark.parametrize(("tau", "nu"), [(0.9, 1000.0), (0.6, 20.0), (1.0, 1.0)])
def test_the_mixture_is_that_of_the_paper(tau: float, nu: float) -> None:
    answer = released(tau=tau, nu=nu)
    for got, y, said in zip(answer.scores, Y, SAID, strict=True):
        steep = nu * (max(y) - tau)
        a = 0.0 if steep > 700 else 1.0 if steep < -700 else 1 / (1 + math.exp(steep))
        np.testing.assert_allclose(got, [(1 - a) * p + a * q for p, q in zip(y, said, strict=True)], atol=1e-9)
    np.testing.assert_array_equal(answer.labels, answer.scores.argmax(axis=1))


def test_the_gate_is_one_half_at_tau_and_overflows_nowhere() -> None:
    assert gate(np.array([0.7]), 0.7, 1000.0)[0] == 0.5
    top = np.linspace(0, 1, 101)
    for nu in (10.0, 1e4, 1e300):
        a = gate(top, 0.5, nu)
        assert (np.diff(a) <= 0).all()
        assert ((a < 0.5) == (top > 0.5)).all()


@pytest.mark.parametrize("classes", [2, 1000])
def test_tau_zero_is_the_model_itself_also_with_many_classes(classes: int) -> None:
    assert released(tau=0.0) is CLEAN
    flat = Answer(np.zeros(len(X), np.int64), np.full((len(X), classes), 1 / classes))
    stage = AdaptiveMisinformation(network=toy_misinformation(), tau=0.0).bind(API)
    assert stage.release(Request("a", X), flat, flat, None, None) is flat  # type: ignore[arg-type]


def test_sure_answers_stay_what_they_are_to_the_bit() -> None:
    sure = Y.max(axis=1) > 0.65
    answer = released(tau=0.6)
    assert 30 < sure.sum() < 270
    np.testing.assert_array_equal(answer.scores[sure], Y[sure])


@pytest.mark.parametrize("tau", [0.4, 0.6, 0.8])
def test_what_honest_clients_lose_is_what_the_identity_says(tau: float) -> None:
    """acc(tau) = P(right and y_max > tau) + P(the network is right and y_max <= tau), for a gate that is a step."""
    truth = np.random.default_rng(5).integers(0, 5, len(X))
    truth = np.where(np.arange(len(X)) % 4, CLEAN.labels, truth)
    accuracy = (released(tau=tau, nu=1e9).labels == truth).mean()
    sure = Y.max(axis=1) > tau
    kept = ((CLEAN.labels == truth) & sure).mean()
    assert accuracy == pytest.approx(kept + ((SAID.argmax(axis=1) == truth) & ~sure).mean(), abs=1e-12)
    assert kept < (CLEAN.labels == truth).mean()


def test_how_sure_the_model_is_is_read_off_its_undefended_answer() -> None:
    bent = ReverseSigmoid(beta=0.4, gamma=0.2)  # it lowers what sure answers show
    shown = released(bent, tau=0.6)
    alone = Guard(bent, key=b"k" * 32, interface=API).release(Request("a", X), CLEAN).answer
    sure = Y.max(axis=1) > 0.65
    lowered = alone.scores.max(axis=1) < 0.6
    assert (sure & lowered).any()
    np.testing.assert_array_equal(shown.scores[sure], alone.scores[sure])


def test_explanations_of_misinformed_questions_are_withheld() -> None:
    answer = released(tau=0.6, clean=explained(X))
    sure = Y.max(axis=1) > 0.65
    unsure = Y.max(axis=1) < 0.6
    assert sure.any()
    assert np.isnan(answer.explanation[unsure]).all()
    np.testing.assert_array_equal(answer.explanation[sure], explained(X).explanation[sure])


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Any) -> None:
    defense = AdaptiveMisinformation(network=toy_misinformation())
    with pytest.raises(InputError, match=r"must take rows of \(6,\) and know 5 classes; this one takes \(4,\)"):
        defense.bind(Interface(input_shape=(6,), n_classes=5))
    with pytest.raises(InputError, match=r"know 3 classes; this one takes \(4,\) and knows 5"):
        defense.bind(Interface(input_shape=(4,), n_classes=3))
    with pytest.raises(NotApplicable, match="needs whole rows"):
        defense.bind(API.revealing(missing=True))
    with pytest.raises(NotApplicable, match="this one does regression"):
        defense.bind(Interface(input_shape=(4,), task="regression"))
    with pytest.raises(NotApplicable, match="needs a model that gives probabilities, to see how sure it is"):
        released(clean=Answer(CLEAN.labels))
    other = write_artifact(Contents({"filter.safetensors": pack_arrays({"mean": np.zeros(4)})}), tmp_path / "f")
    with pytest.raises(InputError, match=r"must hold misinformation\.safetensors, as misinformation writes it"):
        AdaptiveMisinformation(network=other).bind(API)
    data = toy_misinformation().read().files["misinformation.safetensors"]
    cut = write_artifact(Contents({"misinformation.safetensors": data[:-9]}), tmp_path / "cut")
    with pytest.raises(InputError, match="was expected to be a whole safetensors file"):
        AdaptiveMisinformation(network=cut).bind(API)
    with pytest.raises(ParameterError, match=r"AdaptiveMisinformation\.tau must be a number in \[0, 1\]; got 1.5"):
        AdaptiveMisinformation(network=toy_misinformation(), tau=1.5)
