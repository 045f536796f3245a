"""D-DAE: how much of a defense a thief undoes who knows its settings; nothing is undone where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import NotApplicable
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.guard import Defense, Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Answer, Array, Interface, Request, Reveals, Rows
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction._undoing import looked_up, subtracted
from portcullis_ml.extraction.d_dae import DDae
from portcullis_ml.extraction.retraining import Retraining
from portcullis_ml.models.artifacts import write_artifact
from portcullis_ml.models.sklearn import SklearnLearner
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.recipes.random_surrogate import RandomSurrogate

API = Interface(input_shape=(6,), n_classes=5)
VICTIM = SoftmaxRegression(np.random.default_rng(0).normal(size=(5, 6)) * 6, np.zeros(5))
NAIVE = Retraining(strategy="uniform", surrogate="learner")
LABELS = API.revealing(reveals=Reveals.LABELS)


def theft(
    stage: str | Defense[Any] | None,
    attack: ExtractionAttack | None = None,
    *,
    rehearsed: Defense[Any] | None = None,
    shown: Interface = API,
) -> tuple[Any, float]:
    """The extraction behind this defense, and how often its copy agrees with the victim.

    rehearsed  what the thief rehearses with, where it is not the defense itself
    """
    if isinstance(stage, str):
        stage = DEFENSES.build(stage)
    own = rehearsed or stage

    def rehearse(x: Array, scores: Array) -> Answer:
        assert own is not None
        guard = Guard(own, key=b"t" * 32, interface=API)
        return guard.release(Request("me", x), Answer.of(scores, API)).answer

    guard = None if stage is None else Guard(stage, key=b"k" * 32, interface=API)
    told = [] if stage is None else [{"unit": stage.name}]
    knowledge = Knowledge(learner=SklearnLearner(c=100.0), defense=told, rehearse=rehearse if stage else None)
    oracle = LocalOracle(VICTIM, shown, budget=600, guard=guard)
    found = (attack or DDae(pairs=4000))(oracle, knowledge, rng=np.random.default_rng(1))
    x = API.uniform(2000, np.random.default_rng(9))
    agreement = (found.model.scores(x).argmax(axis=1) == VICTIM.scores(x).argmax(axis=1)).mean()
    return found, float(agreement)


def poisoning(folder: Path, seed: int = 0, **settings: Any) -> Defense[Any]:
    """prediction_poisoning at eps 0.9 with a random surrogate of this seed."""
    rows = Rows(API.uniform(300, np.random.default_rng(4)))
    surrogate = RandomSurrogate()(VICTIM, rows, None, rng=np.random.default_rng(seed))
    artifact = write_artifact(surrogate, folder / f"surrogate-{seed}")
    unit: Defense[Any] = DEFENSES.load("prediction_poisoning")(**{"surrogate": artifact, "eps": 0.9, **settings})
    return unit


@pytest.mark.parametrize("way", ["network", "lookup", "best"])
@pytest.mark.parametrize("word", ["reverse_sigmoid(beta=0.7)", "random_vertex(eps=0.9)", "private_answers(eps=20.0)"])
def test_less_than_half_of_the_distance_is_left(word: str, way: Any) -> None:
    found, _ = theft(word, DDae(way=way, pairs=8000))
    assert found.notes["distance_left"][0] < 0.5


def test_the_best_way_is_the_one_that_leaves_least() -> None:
    assert theft("random_vertex(eps=0.9)")[0].notes["ways"] == ["subtract", "subtract"]
    assert theft("reverse_sigmoid(beta=0.7)")[0].notes["ways"] == ["lookup", "lookup"]


def test_noise_that_cannot_be_undone_is_left_alone() -> None:
    found, agreement = theft("noise(eps=2.0)")
    assert found.notes["distance_left"][-1] > 0.5
    assert agreement > 0.95


def test_behind_rounding_there_is_nothing_to_undo() -> None:
    with pytest.raises(NotApplicable, match="needs to know of a guard with label_preserving_noise or noise or "):
        theft("rounding(decimals=3)")


def test_where_there_is_no_guard_nothing_is_undone() -> None:
    found, agreement = theft(None)
    assert "distance_left" not in found.notes
    assert agreement > 0.95


def test_a_copy_behind_a_bent_curve_is_as_good_as_without() -> None:
    bare, naive = theft(None)[1], theft("reverse_sigmoid(beta=0.7)", NAIVE)[1]
    learned, best = (theft("reverse_sigmoid(beta=0.7)", DDae(way=way))[1] for way in ("network", "best"))
    assert learned > bare - 0.05
    assert best > naive + 0.02, (naive, best)


class TestPredictionPoisoning:
    def test_subtracting_the_class_that_gains_recovers_what_the_naive_thief_loses(self, tmp_path: Path) -> None:
        stage = poisoning(tmp_path)
        naive, labels = theft(stage, NAIVE)[1], theft(stage, NAIVE, shown=LABELS)[1]
        found, subtracting = theft(stage, DDae(way="subtract", pairs=4000))
        assert naive < labels < 0.9, (naive, labels)
        assert subtracting > 0.98
        assert found.notes["distance_left"][-1] < 0.05

    def test_the_thief_needs_no_stand_in_of_the_owner(self, tmp_path: Path) -> None:
        own = poisoning(tmp_path, seed=1)
        subtracting = theft(poisoning(tmp_path), DDae(way="subtract", pairs=4000), rehearsed=own)[1]
        assert subtracting > 0.98

    def test_labels_alone_recover_everything_where_labels_are_kept(self, tmp_path: Path) -> None:
        kept, undefended = (
            theft(poisoning(tmp_path, objective="argmax"), NAIVE, shown=LABELS),
            theft(None, NAIVE, shown=LABELS),
        )
        np.testing.assert_array_equal(kept[0].answer.labels, undefended[0].answer.labels)
        assert kept[1] == undefended[1] > 0.95

    def test_where_sets_of_classes_gain_pairs_are_looked_up(self, tmp_path: Path) -> None:
        stage = poisoning(tmp_path, objective="argmax")
        naive, (found, looked) = theft(stage, NAIVE)[1], theft(stage)
        assert found.notes["ways"] == ["lookup", "lookup"]
        assert looked > naive + 0.03, (naive, looked)


def test_subtracting_gives_back_what_was_moved_and_is_what_a_plain_loop_does() -> None:
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.full(4, 0.3), 200)
    to = rng.integers(4, size=200)
    share = 0.45 / (1 - true[np.arange(200), to])
    possible = share <= 1
    true, to, share = true[possible], to[possible], share[possible][:, None]
    shown = (1 - share) * true + share * np.eye(4)[to]
    guess = np.abs(true + rng.normal(scale=0.05, size=true.shape))
    found = subtracted(shown, guess, 0.45)
    np.testing.assert_allclose(found, true, atol=1e-9)

    far = rng.dirichlet(np.ones(4), len(true))  # a guess that knows nothing
    for row, answer, near in zip(subtracted(shown, far, 0.45), shown, far, strict=True):
        candidates = []
        for k in range(4):
            if answer[k] >= 0.45 - 0.01:
                rest = [answer[j] for j in range(4) if j != k]
                left = max(answer[k] - 0.45, 0.0)
                candidates.append([left if j == k else answer[j] * (1 - left) / sum(rest) for j in range(4)])
        best = min(candidates, key=lambda c: float(np.abs(c - near).sum()))
        np.testing.assert_allclose(row, best)


def test_an_answer_in_which_no_class_holds_enough_is_left_alone() -> None:
    even = np.full((1, 4), 0.25)
    np.testing.assert_array_equal(subtracted(even, even, 0.45), even)


def test_looking_up_is_what_a_plain_loop_does() -> None:
    rng = np.random.default_rng(0)
    shown, true = rng.dirichlet(np.ones(3), 2000), rng.dirichlet(np.ones(3), 2000)
    asked = np.concatenate([rng.dirichlet(np.ones(3), 300), [[1.0, 0.0, 0.0]]])
    counts = []
    for row, answer in zip(looked_up(asked, shown, true), asked, strict=True):
        distances = [float(np.abs(answer - s).sum()) for s in shown]
        near = [t for t, d in zip(true, distances, strict=True) if d <= 0.01]
        counts.append(len(near))
        np.testing.assert_allclose(row, sum(near) / len(near) if near else true[int(np.argmin(distances))])
    assert min(counts) == 0
    assert max(counts) > 1
