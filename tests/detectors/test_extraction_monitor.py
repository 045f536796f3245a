"""The extraction monitor: both measures against plain twins, who is seen and who is not, and clients who collude."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import log2
from typing import Any

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.state import MemoryStore
from portcullis_ml.core.types import Answer, Array, Interface, Request, Rows
from portcullis_ml.defenses.log import Log
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors.extraction_monitor import ExtractionMonitor, Learned, gain_share, skill
from portcullis_ml.extraction.tree_paths import TreePaths
from portcullis_ml.models.artifacts import pack_arrays, write_artifact
from portcullis_ml.models.tree import LEAF, TreeModel
from portcullis_ml.recipes.evaluation_set import EvaluationSet

from .toys import API, attack, narrow, striped, stripes, trained, victims_digits, wide
from .toys import answer_to as digit_answer

STRIPES = trained(EvaluationSet(), stripes)


def monitor(**settings: Any) -> ExtractionMonitor:
    return ExtractionMonitor(**{"evaluation": STRIPES, **settings}).bind(API)


def after(detector: ExtractionMonitor, x: Array, answer: Any = striped) -> Learned:
    state = detector.start()
    detector.update(state, Request("a", x), answer(x))
    return state


def plain_entropy(labels: list[int]) -> float:
    return -sum(n / len(labels) * log2(n / len(labels)) for n in Counter(labels).values())


def test_the_gain_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    labels, leaves = rng.integers(0, 4, 200), rng.integers(0, 7, 200) * 3
    inside = [[int(c) for c, at in zip(labels, leaves, strict=True) if at == leaf] for leaf in set(leaves.tolist())]
    after = sum(len(part) / 200 * plain_entropy(part) for part in inside)
    before = plain_entropy(labels.tolist())
    assert gain_share(labels, leaves) == pytest.approx((before - after) / before, abs=1e-12)
    assert gain_share(labels, labels) == pytest.approx(1.0)
    assert gain_share(labels, np.zeros(200, np.int64)) == pytest.approx(0.0)


def test_skill_is_zero_for_the_most_frequent_class_and_one_for_all() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    assert skill(labels, labels) == 1.0
    assert skill(labels, np.zeros(6, np.int64)) == 0.0
    assert skill(labels, np.ones(6, np.int64)) == 0.0
    assert skill(labels, np.array([0, 0, 0, 1, 0, 0])) == pytest.approx((4 / 6 - 1 / 2) / (1 / 2))


@pytest.mark.parametrize("measure", ["agreement", "gain"])
def test_the_status_is_that_of_a_tree_fitted_by_hand(measure: str) -> None:
    x = wide(130, 1)
    state = after(monitor(measure=measure, every=20, cap=70), x)
    kept = x[50:120].astype(np.float32)  # fitted at the 120th question, on the latest 70
    tree = DecisionTreeClassifier(random_state=0).fit(kept, striped(kept).labels)
    rows, labels = wide(500, 77).astype(np.float32), striped(wide(500, 77)).labels
    counts = np.bincount(labels).max() / 500
    said = 100 * ((tree.predict(rows) == labels).mean() - counts) / (1 - counts)
    expected = 100 * gain_share(labels, tree.apply(rows)) if measure == "gain" else said
    assert state.suspicion == pytest.approx(expected, abs=1e-9)
    assert (len(state.labels), len(state.new_labels)) == (70, 10)
    np.testing.assert_array_equal(state.x, kept[:, :2])  # the columns that the owner's tree tests


def test_a_tree_is_fitted_when_a_quarter_as_many_questions_have_come() -> None:
    detector = monitor(every=20)
    x = wide(400, 1)
    suspicion = detector.update(detector.start(), Request("a", x), striped(x))
    fitted = [1 + i for i in range(1, 400) if not np.array_equal(suspicion[i], suspicion[i - 1], equal_nan=True)]
    assert {20, 40, 60, 125} <= set(fitted) <= {20, 40, 60, 80, 100, 125, 156, 195, 243, 303, 378}
    often = monitor(every=20, growth=0)
    again = often.update(often.start(), Request("a", x), striped(x))
    assert again[-1] == monitor(every=400).update(often.start(), Request("a", x), striped(x))[-1]  # a fit at the 400th


@pytest.mark.parametrize("measure", ["agreement", "gain"])
def test_the_status_grows_with_what_was_asked(measure: str) -> None:
    status = [after(monitor(measure=measure), wide(n, 3)).suspicion for n in (50, 100, 400, 1000)]
    assert all(b > a - 2 for a, b in pairwise(status))  # up to the noise of a fit
    assert status[-1] > 97
    assert after(monitor(measure=measure), narrow(1000, 3)).suspicion < 40


def test_many_leaves_flatter_the_gain_and_not_the_agreement() -> None:
    """A client whose answers are noise has learned nothing; their tree cuts the evaluation set into crumbs."""
    x = wide(1000, 4)
    noise = Answer(np.random.default_rng(0).integers(0, 10, 1000))
    found = {}
    for measure in ("agreement", "gain"):
        state = Learned()
        detector = monitor(measure=measure)
        detector.update(state, Request("a", x), noise)
        found[measure] = state.suspicion
    assert found["agreement"] < 5
    assert found["gain"] > 40


@pytest.mark.parametrize("measure", ["agreement", "gain"])
def test_two_colluders_with_half_the_questions_each_are_like_one_attacker(measure: str) -> None:
    detector = monitor(measure=measure, every=25)
    x = wide(200, 5)
    x = x[np.argsort(x[:, 0])]  # each asks about another half
    one = after(detector, x)
    states = {
        "left": after(detector, x[:100]),
        "right": after(detector, x[100:]),
        "honest": after(detector, narrow(90, 1)),
    }
    names, together = detector.colluding(states, 2)
    assert sorted(names) == ["left", "right"]
    assert together == pytest.approx(one.suspicion, abs=3)
    assert together > 1.2 * max(states["left"].suspicion, states["right"].suspicion)
    assert np.isnan(detector.colluding({"new": detector.start()}, 3)[1])


def test_it_misses_small_steps_that_cover_less_than_honest_questions_do() -> None:
    """The known limit, on digits: synthetic neighbours of 60 seeds teach a tree less than as many natural digits."""
    detector = monitor(evaluation=trained(EvaluationSet(), victims_digits))
    synthetic = [after(detector, attack(400, seed), digit_answer).suspicion for seed in range(5)]
    natural = victims_digits()[1].x
    honest = [
        after(detector, natural[np.random.default_rng(seed).permutation(1200)[:400]], digit_answer).suspicion
        for seed in range(5)
    ]
    assert max(synthetic) < min(honest)


def chain(depth: int) -> TreeModel:
    """Leaves of half the width each towards 0, every one another class: those of rare rows are small boxes."""
    n = 2 * depth + 1
    inner = np.arange(0, n - 1, 2)
    feature, threshold = np.full(n, LEAF), np.zeros(n)
    left, right, value = np.full(n, LEAF), np.full(n, LEAF), np.zeros((n, depth + 1))
    feature[inner], threshold[inner], right[inner], left[inner] = 0, 0.5 ** (inner / 2 + 1), inner + 1, inner + 2
    value[inner + 1, inner // 2] = value[n - 1, depth] = 1.0
    return TreeModel(feature, threshold, left, right, value, input_shape=(1,), n_classes=depth + 1)


@pytest.mark.parametrize("measure", ["agreement", "gain"])
def test_path_finding_is_seen_long_before_a_random_client_knows_as_much(measure: str) -> None:
    tree = chain(12)
    api = Interface(input_shape=(1,), n_classes=13)
    own = Rows(0.5 ** np.random.default_rng(0).uniform(0, 13, (1000, 1)))
    evaluation = trained(EvaluationSet(), lambda: (tree, own))
    detector = ExtractionMonitor(evaluation=evaluation, measure=measure, every=10, cap=10**5)
    store = MemoryStore()
    guard = Guard(Watch(detector, then=Log()), key=b"k" * 32, store=store)
    oracle = LocalOracle(tree, api, budget=1000, guard=guard)
    result = TreePaths(mode="bottom_up")(oracle, Knowledge(), rng=np.random.default_rng(0))
    status = store.load(("thief", "0-watch")).detector.suspicion
    assert result.queries < 400
    assert status > 97
    bound = detector.bind(api)
    for n, most in ((result.queries, 95.0), (4 * result.queries, 99.0)):
        x = np.random.default_rng(1).random((n, 1))
        random = after(bound, x, lambda rows: Answer.of(tree.scores(rows), api))
        assert random.suspicion < min(most, status)


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Any) -> None:
    with pytest.raises(
        InputError, match=r"must hold rows \(7,\) with labels of 2 classes at least; it holds rows \(64,"
    ):
        ExtractionMonitor(evaluation=STRIPES).bind(Interface(input_shape=(7,), n_classes=10))
    with pytest.raises(NotApplicable, match="needs whole rows"):
        ExtractionMonitor(evaluation=STRIPES).bind(API.revealing(missing=True))
    with pytest.raises(NotApplicable, match="this one does regression"):
        ExtractionMonitor(evaluation=STRIPES).bind(Interface(input_shape=(64,), task="regression"))
    one = {"x": np.zeros((5, 64), np.float32), "labels": np.zeros(5, np.int64)}
    broken = {
        r"must hold set\.safetensors, as evaluation_set writes it": {"x.safetensors": pack_arrays(one)},
        r"must hold tree\.safetensors, as evaluation_set writes it": {
            "set.safetensors": pack_arrays({**one, "labels": np.arange(5)})
        },
        "it holds rows .* with 1": {"set.safetensors": pack_arrays(one)},
        "it holds rows .* with 0": {"set.safetensors": pack_arrays({"y": np.zeros(3)})},
    }
    for i, (words, files) in enumerate(broken.items()):
        with pytest.raises(InputError, match=words):
            ExtractionMonitor(evaluation=write_artifact(Contents(files), tmp_path / str(i))).bind(API)
    with pytest.raises(ParameterError, match=r"ExtractionMonitor\.threshold must be in \(0, 100\); got 100"):
        ExtractionMonitor(evaluation=STRIPES, threshold=100)
    extreme = np.where(np.arange(64) == 3, [[np.inf], [1e300], [-np.inf]], 0.5)
    with np.errstate(all="raise"):
        assert after(monitor(every=3), extreme).suspicion == 0.0
