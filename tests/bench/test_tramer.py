"""The protocols after Tramèr et al.: what they promise, on victims small enough for a test."""

from __future__ import annotations

import tomllib
from importlib import resources

import numpy as np
import pytest

from portcullis_ml.bench.protocols import PROTOCOLS, ensembles
from portcullis_ml.bench.protocols import tramer_victims as victims
from portcullis_ml.bench.protocols.plans import Run
from portcullis_ml.bench.protocols.tramer import cells_of, explained, planned, same_values, shortened
from portcullis_ml.bench.protocols.tramer_tables import document
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface, Reveals
from portcullis_ml.extraction.equation_solving import EquationSolving

NAMES = ("ensembles", "features", "labels", "linear", "mlp", "rounding", "trees")
ROOM = "portcullis_ml.bench.protocols"


def plan_named(name: str) -> dict:
    return tomllib.loads((resources.files(ROOM) / f"tramer_{name}.toml").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_hangs_together(name):
    """Rows name victims that exist, published figures have a size each, and the door leads here."""
    plan = plan_named(name)
    assert plan["protocol"] == f"tramer-{name}"
    assert PROTOCOLS[plan["protocol"]] == f"{ROOM}.tramer:{name}"
    assert len({row["name"] for row in plan["row"]}) == len(plan["row"])
    for row in plan["row"]:
        assert ("alpha" in row) != ("budget" in row)
        assert set(row["on"]) <= set(plan["victims"])
        for victim, figures in row.get("published", {}).items():
            assert victim in row["on"]
            assert len(figures) <= len(row.get("alpha") or row["budget"])
    assert {name for row in plan["row"] for name in row["on"]} == set(plan["victims"])
    assert all(spec["model"] in victims._MODELS for spec in plan["victims"].values())
    quick = shortened(plan)
    assert quick["row"]
    assert quick["repetitions"] == 1


SMALL = {
    "protocol": "tramer-small",
    "version": 1,
    "repetitions": 1,
    "points": 500,
    "about": "A plan for a test.",
    "victims": {
        "iris": {"title": "Iris", "data": "iris", "model": "softmax"},
        "iris_ovr": {"title": "Iris, one-vs-rest", "data": "iris", "model": "one_vs_rest"},
        "private": {"title": "Private", "data": "diabetes", "model": "private", "epsilon": 0.5},
    },
    "row": [
        {
            "name": "log-ratio",
            "attack": "equation_solving(route='log_ratio', held_out=0)",
            "on": ["iris", "private"],
            "alpha": [1],
            "unknowns": "d + 1",
            "published": {"iris": [{"agreement": 1, "tv_uniform": "< 1e-7", "queries": 15}]},
        },
        {"name": "test", "attack": "equation_solving", "on": ["iris_ovr"], "alpha": [1], "spare": 15},
        {
            "name": "labels",
            "attack": "equation_solving",
            "on": ["iris"],
            "alpha": [1],
            "interface": {"reveals": "labels"},
        },
        {"name": "to come", "attack": "no_such_attack(depth=3)", "on": ["iris"], "budget": [10]},
    ],
    "quick": {"victims": ["iris"], "sizes": 1, "points": 100},
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(tomllib, "loads", lambda text: SMALL)


def test_published_stands_beside_measured_and_a_run_resumes(small, tmp_path):
    table = planned("tramer_linear.toml", Run(out=tmp_path, jobs=0))
    lines = {tuple(c.strip() for c in line.split("|")[1:5:3]): line for line in table.splitlines() if "|" in line}
    iris = lines[("Iris", "log-ratio, alpha 1")]
    assert "| 5 (15) | 1 | 100.00 [" in iris
    assert "(100.00) |" in iris
    assert "(< 1e-7)" in iris
    assert "| 11 | 1 | 100.00 [" in lines[("Private", "log-ratio, alpha 1")]  # noise in the weights protects no weight
    assert "told as one-vs-rest" in lines[("Iris, one-vs-rest", "test, alpha 1")]
    assert "not applicable: equation_solving needs probs" in lines[("Iris", "labels, alpha 1")]
    assert "not applicable: no_such_attack is not part of this installation" in lines[("Iris", "to come")]
    before = (tmp_path / "records.jsonl").read_text()
    assert planned("tramer_linear.toml", Run(out=tmp_path, jobs=0)) == table
    assert (tmp_path / "records.jsonl").read_text() == before
    assert "Its figures stand for little" in document(SMALL, [], quick=True)


def test_a_budget_is_alpha_times_the_unknowns():
    cells = {cell.names["attack"]: cell.budget for cell in cells_of(SMALL, None)}
    assert cells["log-ratio on iris"] == 5
    assert cells["log-ratio on private"] == 11
    assert cells["test on iris_ovr"] == 15 + 15


def test_a_setting_that_an_attack_does_not_have_is_no_absence(small):
    wrong = {**SMALL, "row": [{**SMALL["row"][0], "attack": "equation_solving(root=2)"}]}
    with pytest.raises(ValueError, match="equation_solving must be settings among"):
        list(cells_of(wrong, None))


def test_private_training_is_no_defense():
    """Objective perturbation at any epsilon: d + 1 queries, the same weights to nine digits."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 6))
    y = (x @ rng.normal(size=6) + 0.3 * rng.normal(size=400) > 0).astype(np.int64)
    right = {}
    for epsilon in (0.1, 1.0, 100.0):
        victim = victims.private_logistic(x, y, epsilon=epsilon, rng=np.random.default_rng(1))
        right[epsilon] = float((victim.scores(x).argmax(axis=1) == y).mean())
        interface = Interface(input_shape=(6,), n_classes=2, bounds=(-1.0, 1.0))
        attack = EquationSolving(route="log_ratio", held_out=0)
        extraction = attack(LocalOracle(victim, interface, budget=7), Knowledge(), rng=np.random.default_rng(2))
        assert extraction.queries == 7
        ours = extraction.model.w[1] - extraction.model.w[0]
        np.testing.assert_allclose(ours, victim.w[1], rtol=1e-8, atol=1e-10)
    assert right[100.0] > 0.85
    assert right[100.0] > right[0.1]  # privacy costs accuracy, and buys nothing here


def test_binned_services_omit_what_is_left_out():
    spec = {"data": "circles", "model": "binned", "bins": 4, "access": "table"}
    service = victims.victim_of(spec, None)
    assert service.interface.features is not None
    one = service.model.scores(np.array([[np.nan, np.nan], [0.1, np.nan], [0.1, 0.2]]))
    logit = np.log(one[:, 1] / one[:, 0])
    other = service.model.scores(np.array([[np.nan, 0.2]]))[0]
    added = np.log(other[1] / other[0]) - logit[0]
    assert logit[2] == pytest.approx(logit[1] + added)


def test_regression_values_are_compared_as_values():
    spec = {"data": "values", "model": "tree", "access": "table", "features": 4, "rows_made": 200, "max_leaf_nodes": 6}
    victim = victims.victim_of(spec, None)
    assert (victim.interface.task, victim.interface.n_classes) == ("regression", 0)
    same = same_values(victim, victim.model, 200)
    assert (same["agreement"].value, same["agreement_uniform"].n) == (1.0, 200)
    answer = LocalOracle(victim.model, victim.interface, budget=3).query(victim.x[:3])
    assert answer.labels is None
    assert answer.scores.shape == (3, 1)


def test_rounded_and_single_interfaces_are_functions_of_one_answer():
    victim = victims.victim_of(SMALL["victims"]["iris"], None)
    clean = victim.model.scores(victim.x[:20])
    for shown, expected in (
        ({"decimals": 3}, np.round(clean, 3)),
        ({"precision": "float32"}, clean.astype(np.float32).astype(float)),
        ({"reveals": Reveals.LABELS}, None),
    ):
        answer = LocalOracle(victim.model, victim.interface.revealing(**shown), budget=20).query(victim.x[:20])
        assert answer.labels.tolist() == clean.argmax(axis=1).tolist()
        if expected is None:
            assert answer.scores is None
        else:
            np.testing.assert_array_equal(answer.scores, expected)


@pytest.mark.parametrize("kind", ["forest", "boosting", "histogram"])
@pytest.mark.parametrize("target", ["value", None])
def test_thresholds_are_counted_once_each(kind, target):
    """One tree of depth 1 has one threshold, whatever library grew it; more trees have more, and fewer than splits."""
    spec = {"data": "diabetes", "model": kind, "access": "table", "target": target, "max_depth": 1}
    assert ensembles.distinct_thresholds(victims.victim_of(spec | {"trees": 1}, None).model) == 1
    many = ensembles.distinct_thresholds(victims.victim_of(spec | {"trees": 40}, None).model)
    assert 5 < many < 40


def test_what_is_no_ensemble_has_no_thresholds_to_count():
    spec = {"data": "diabetes", "model": "softmax"}
    assert ensembles.distinct_thresholds(victims.victim_of(spec, None).model) is None


def test_a_copy_that_is_near_and_never_equal_explains_the_values():
    spec = {"data": "diabetes", "model": "boosting", "access": "table", "target": "value", "trees": 5}
    victim = victims.victim_of(spec, None)

    class Shifted:
        def scores(self, x):
            return victim.model.scores(x) + 1

    class Mean:
        def scores(self, x):
            return np.full((len(x), 1), victim.model.scores(x).mean())

    assert same_values(victim, Shifted(), 500)["agreement"].value == 0
    assert 0.8 < min(explained(victim, Shifted(), 500)) < 1
    np.testing.assert_allclose(explained(victim, Mean(), 500), 0, atol=1e-9)
    assert explained(victim, victim.model, 500) == [1, 1]
