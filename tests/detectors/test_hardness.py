"""Hardness: what it counts and compares, against plain twins, and what it takes for unusual."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.types import Answer, Interface, Request
from portcullis_ml.detectors.hardness import Hardness, Window
from portcullis_ml.models.artifacts import pack_arrays, unpack_arrays, write_artifact
from portcullis_ml.models.dense import DenseModel
from portcullis_ml.models.hardness import STEPS, SubModels, distances, histogram
from portcullis_ml.recipes.training_steps import TrainingSteps

from .toys import API, answer_to, natural, trained, turned

RECIPE = TrainingSteps(epochs=20)
ARRAYS = unpack_arrays(trained(RECIPE).read().files["steps.safetensors"])
X = natural(300, 1)


def detector(**settings: Any) -> Hardness:
    return Hardness(steps=trained(RECIPE), **settings).bind(API)


def test_hardness_is_the_step_from_which_on_all_labels_are_the_last_one() -> None:
    models = [
        DenseModel({n.partition(".")[2]: a for n, a in ARRAYS.items() if n.startswith(f"{step}.")})
        for step in range(STEPS)
    ]
    rows = np.concatenate([X, turned(300, 2)])
    labels = np.array([m.scores(rows).argmax(axis=1) for m in models]).T
    by_hand = [next(e for e in range(STEPS) if len(set(row[e:])) == 1) for row in labels.tolist()]
    found = SubModels(ARRAYS).hardness(rows)
    np.testing.assert_array_equal(found, by_hand)
    assert len(set(by_hand)) > 4
    assert histogram(found).tolist() == [by_hand.count(e) for e in range(STEPS)]


def test_the_distance_is_one_minus_pearsons_correlation() -> None:
    rng = np.random.default_rng(0)
    counts, benign = rng.integers(0, 30, (50, STEPS)), rng.dirichlet(np.ones(STEPS))
    by_hand = [1 - np.corrcoef(row, benign)[0, 1] for row in counts]
    np.testing.assert_allclose(distances(counts, benign), by_hand, atol=1e-12)


def test_a_flat_histogram_is_like_nothing_but_another() -> None:
    flat, peak = np.full(STEPS, 10), np.eye(STEPS)[0]
    assert distances(flat[None], peak).tolist() == [1.0]
    assert distances((10 * peak)[None].astype(np.int64), flat / 110).tolist() == [1.0]
    assert distances(flat[None], flat / 110).tolist() == [0.0]


def test_a_verdict_comes_with_every_full_window_and_holds() -> None:
    found = detector()
    state = found.start()
    suspicion = found.update(state, Request("a", X), answer_to(X))
    assert np.isnan(suspicion[:99]).all()
    counts = histogram(SubModels(ARRAYS).hardness(X[100:200]))
    expected = distances(counts[None], ARRAYS["benign"])[0] / ARRAYS["greatest"][0]
    assert (suspicion[199:299] == expected).all()
    assert len(set(suspicion[99:].tolist())) == 3
    assert state.counts.sum() == 0


def test_only_the_questions_are_read() -> None:
    found, other = detector(), Answer(np.zeros(300, np.int64))
    a, b = Window(), Window()
    np.testing.assert_array_equal(
        found.update(a, Request("a", X), answer_to(X)), found.update(b, Request("b", X), other)
    )


def test_a_lower_threshold_is_louder() -> None:
    x = turned(400, 0)
    loud = [detector(threshold=t).alarms(detector().update(Window(), Request("a", x), answer_to(x))).sum()
            for t in (0.01, 1.0, 100.0)]  # fmt: skip
    assert loud[0] > 0
    assert loud[0] >= loud[1] > loud[2] == 0


def test_benign_users_all_alike_do_not_divide_by_zero(tmp_path: Any) -> None:
    alike = {**ARRAYS, "benign": np.eye(STEPS)[0], "greatest": np.zeros(1)}
    steps = write_artifact(Contents({"steps.safetensors": pack_arrays(alike)}), tmp_path / "s")
    found = Hardness(steps=steps).bind(API)
    suspicion = found.update(Window(), Request("a", X), answer_to(X))
    assert np.isfinite(suspicion[99:]).all()


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"hardness\.steps must be of rows \(7,\); these are of \(64,\)"):
        Hardness(steps=trained(RECIPE)).bind(Interface(input_shape=(7,), n_classes=10))
    with pytest.raises(NotApplicable, match="needs whole rows"):
        Hardness(steps=trained(RECIPE)).bind(API.revealing(missing=True))
    with pytest.raises(NotApplicable, match="this one does regression"):
        Hardness(steps=trained(RECIPE)).bind(Interface(input_shape=(64,), task="regression"))
    broken = {
        "must hold steps.safetensors": {"other.safetensors": pack_arrays(ARRAYS)},
        "a fully connected network were expected": {
            "steps.safetensors": pack_arrays({n: a for n, a in ARRAYS.items() if not n.startswith("3.")})
        },
        "lacks the benign histogram": {
            "steps.safetensors": pack_arrays({n: a for n, a in ARRAYS.items() if n != "benign"})
        },
        "several": {"steps.safetensors": pack_arrays({**ARRAYS, "4.w2": np.zeros((9, 128)), "4.b2": np.zeros(9)})},
    }
    for i, (words, files) in enumerate(broken.items()):
        with pytest.raises(InputError, match=words):
            Hardness(steps=write_artifact(Contents(files), tmp_path / str(i))).bind(API)
    with pytest.raises(ParameterError, match=r"Hardness\.threshold must be a number above 0; got 0"):
        Hardness(steps=trained(RECIPE), threshold=0)
    assert replace(Hardness(steps=trained(RECIPE)), threshold=2.0).threshold == 2.0
