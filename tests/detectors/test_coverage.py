"""Coverage against a plain twin, who is seen and who is not, categories, and clients who collude."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from portcullis_ml.core.artifacts import Contents
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError, NotApplicable, ParameterError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.state import MemoryStore
from portcullis_ml.core.types import Answer, Array, Feature, Interface, Request, Rows
from portcullis_ml.defenses.log import Log
from portcullis_ml.defenses.watch import Watch
from portcullis_ml.detectors.coverage import Coverage, Hulls
from portcullis_ml.extraction.tree_paths import TreePaths
from portcullis_ml.models.artifacts import pack_arrays, unpack_arrays, write_artifact
from portcullis_ml.models.leaves import FILE, tree_arrays, tree_of
from portcullis_ml.models.sklearn import SklearnModel
from portcullis_ml.models.tree import TreeModel, grow_tree
from portcullis_ml.recipes.evaluation_set import EvaluationSet

from .test_extraction_monitor import chain
from .toys import API, attack, narrow, striped, stripes, trained, victims_digits, wide
from .toys import answer_to as digit_answer


def monitor(**settings: Any) -> Coverage:
    return Coverage(**{"evaluation": trained(EvaluationSet(), stripes), **settings}).bind(API)


def after(detector: Coverage, x: Array, answer: Any = striped) -> Hulls:
    state = detector.start()
    detector.update(state, Request("a", x), answer(x))
    return state


def covered(boxes: list[dict[int, tuple[float, float]]], own: Array, asked: Array) -> float:
    """Row by row: the share of each box {column: (low, high)} between the least and the greatest question in it."""
    total = 0.0
    for box in boxes:
        inside, owners = ([row for row in x if all(a < row[j] <= b for j, (a, b) in box.items())] for x in (asked, own))
        sides = [max(row[j] for row in inside) - min(row[j] for row in inside) for j in box] if inside else [0.0]
        total += len(owners) / len(own) * np.prod([s / (b - a) for s, (a, b) in zip(sides, box.values(), strict=True)])
    return 100 * total


def test_the_status_is_that_of_boxes_counted_row_by_row() -> None:
    rng = np.random.default_rng(0)
    own = rng.random((300, 2))
    tree = grow_tree(own, np.where(own[:, 0] <= 0.6, 0, 1 + (own[:, 1] > 0.3)), rng=rng)
    assert tree.leaves == 3
    first, second = (float(tree.threshold[tree.feature == j][0]) for j in (0, 1))
    right = (first, 1.0)
    boxes = [{0: (0.0, first)}, {0: right, 1: (0.0, second)}, {0: right, 1: (second, 1.0)}]
    api = Interface(input_shape=(2,), n_classes=3)
    detector = Coverage(evaluation=trained(EvaluationSet(), lambda: (tree, Rows(own)))).bind(api)
    asked = rng.random((40, 2))
    status = after(detector, asked, lambda x: Answer.of(tree.scores(x), api)).suspicion
    assert status == pytest.approx(covered(boxes, own, asked), abs=1e-6)
    assert 20 < status < 95


def test_the_status_never_falls_and_grows_with_what_was_asked() -> None:
    detector = monitor()
    suspicion = detector.update(detector.start(), Request("a", wide(1000, 3)), striped(wide(1000, 3)))
    assert all(b >= a for a, b in pairwise(suspicion))
    assert suspicion[0] == 0
    assert suspicion[-1] > 95
    assert after(detector, narrow(1000, 3)).suspicion < 30
    assert after(detector, np.repeat(wide(1, 3), 500, axis=0)).suspicion == 0  # one question, however often


def test_two_colluders_with_half_the_questions_each_are_like_one_attacker() -> None:
    detector, x = monitor(), wide(400, 5)
    x = x[np.argsort(x[:, 0])]  # each asks about another half
    states = {
        "left": after(detector, x[:200]),
        "right": after(detector, x[200:]),
        "lost": after(detector, narrow(9, 1)),
    }
    names, together = detector.colluding(states, 2)
    assert sorted(names) == ["left", "right"]
    assert together == pytest.approx(after(detector, x).suspicion, abs=1e-9)
    assert together > 1.7 * max(states["left"].suspicion, states["right"].suspicion)
    assert detector.colluding(states, 9)[1] >= together
    assert np.isnan(detector.colluding({}, 2)[1])


def test_path_finding_covers_a_tree_with_far_fewer_questions_than_a_random_client() -> None:
    tree, api = chain(12), Interface(input_shape=(1,), n_classes=13)
    own = Rows(0.5 ** np.random.default_rng(0).uniform(0, 13, (1000, 1)))
    detector = Coverage(evaluation=trained(EvaluationSet(), lambda: (tree, own)))
    store = MemoryStore()
    oracle = LocalOracle(tree, api, budget=1000, guard=Guard(Watch(detector, then=Log()), key=b"k" * 32, store=store))
    result = TreePaths(mode="bottom_up")(oracle, Knowledge(), rng=np.random.default_rng(0))
    status = store.load(("thief", "0-watch")).detector.suspicion
    assert result.queries < 400
    assert status > 97
    x = np.random.default_rng(1).random((10 * result.queries, 1))
    assert after(detector.bind(api), x, lambda rows: Answer.of(tree.scores(rows), api)).suspicion < status


def test_it_misses_small_steps_that_cover_less_than_honest_questions_do() -> None:
    """The known limit, on digits, whose model is no tree: a tree fitted to the owner's rows stands for it."""
    detector = monitor(evaluation=trained(EvaluationSet(), victims_digits))
    natural = victims_digits()[1].x
    orders = [np.random.default_rng(seed).permutation(1200)[:400] for seed in range(5)]
    honest = [after(detector, natural[order], digit_answer).suspicion for order in orders]
    synthetic = [after(detector, attack(400, seed), digit_answer).suspicion for seed in range(5)]
    assert max(synthetic) < min(honest) < 50


def test_an_honest_client_who_ranges_widely_looks_like_a_thief() -> None:
    """What it costs, measured: ten honest clients of one corner of the domain, ten of all of it, 300 questions each."""
    detector = monitor()
    for stream, alarmed in ((narrow, 0), (wide, 10)):
        states = [after(detector, stream(300, 100 + seed)) for seed in range(10)]
        assert sum(state.suspicion > detector.threshold for state in states) == alarmed


def test_of_categories_the_share_that_was_asked_counts() -> None:
    api = Interface(
        input_shape=(2,), n_classes=2, features=(Feature("kind", values=("a", "b", "c", "d")), Feature("n", 0.0, 10.0))
    )
    rng = np.random.default_rng(0)
    own = np.column_stack([rng.integers(0, 4, 400), 10 * rng.random(400)])
    tree = grow_tree(own, (own[:, 0] == 3).astype(np.int64), api.features, rng=rng)
    for given in (tree, SklearnModel(_by_threshold(own))):
        detector = Coverage(evaluation=trained(EvaluationSet(), lambda given=given: (given, Rows(own)))).bind(api)
        mass = np.mean(own[:, 0] == 3)
        codes = np.array([[3.0, 5.0], [0.0, 1.0], [1.0, 1.0]])
        status = after(detector, codes, lambda x, g=given: Answer.of(g.scores(x), api)).suspicion
        assert status == pytest.approx(100 * (mass + (1 - mass) * 2 / 3))


def _by_threshold(own: Array) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(random_state=0).fit(own, own[:, 0] == 3)


def test_the_tree_is_the_victims_own_where_it_is_one() -> None:
    own = np.random.default_rng(0).random((50, 2))
    labels = (own[:, 0] > 0.5).astype(np.int64)
    tree = grow_tree(own, labels, rng=np.random.default_rng(0))
    assert tree_of(tree, own, labels) is tree
    fitted = _by_threshold(own * 4)
    np.testing.assert_array_equal(tree_of(SklearnModel(fitted), own, labels).feature, fitted.tree_.feature.clip(-1))
    proxy = tree_of(victims_digits()[0], victims_digits()[1].x, victims_digits()[1].y)
    assert isinstance(proxy, TreeModel)
    assert (proxy.scores(victims_digits()[1].x).argmax(axis=1) == victims_digits()[1].y).all()
    assert sorted(tree_arrays(tree)) == ["feature", "goes_left", "left", "right", "threshold"]


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Any) -> None:
    artifact = trained(EvaluationSet(), stripes)
    with pytest.raises(InputError, match=r"coverage\.evaluation must hold rows \(7,\) with labels of 2 classes"):
        Coverage(evaluation=artifact).bind(Interface(input_shape=(7,), n_classes=10))
    with pytest.raises(NotApplicable, match="coverage needs whole rows"):
        Coverage(evaluation=artifact).bind(API.revealing(missing=True))
    files = dict(artifact.read().files)
    tree = unpack_arrays(files[FILE])
    broken = {
        r"must hold tree\.safetensors, as evaluation_set writes it": None,
        "whole safetensors file": files[FILE][:50],
        "must hold a tree of this API's rows": pack_arrays({**tree, "left": np.zeros_like(tree["left"])}),
        "its nodes are not those of one tree": pack_arrays({**tree, "feature": tree["feature"] + 64}),
    }
    for i, (words, data) in enumerate(broken.items()):
        kept = {n: d for n, d in {**files, FILE: data}.items() if d is not None}
        with pytest.raises(InputError, match=words):
            Coverage(evaluation=write_artifact(Contents(kept), tmp_path / str(i))).bind(API)
    with pytest.raises(ParameterError, match=r"Coverage\.threshold must be in \(0, 100\); got 100"):
        Coverage(evaluation=artifact, threshold=100)
    extreme = np.where(np.arange(64) == 3, [[np.inf], [1e300], [-np.inf], [np.nan]], 0.5)
    with np.errstate(all="raise"):
        assert after(monitor(), extreme).suspicion == 0.0
