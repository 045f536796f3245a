"""What an audit tries by itself: one of every kind that applies, from the catalogs' tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from portcullis_ml.bench import run_audit
from portcullis_ml.bench.named import attack_named, guard_named
from portcullis_ml.bench.run_audit import AuditOptions, plan_of
from portcullis_ml.catalog import FACTS
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.models.kinds import are_trees
from portcullis_ml.models.sklearn import SklearnModel

from .experiments import spec

PICTURES = dict.fromkeys(FACTS, False) | {"pool": True, "probs": True, "scores": True, "torch": True, "train": True}


@pytest.mark.parametrize("catalog", [ATTACKS, DEFENSES], ids=["extraction", "defenses"])
def test_the_tables_hold_units_and_known_conditions(catalog) -> None:  # type: ignore[no-untyped-def]
    named = attack_named if catalog is ATTACKS else guard_named
    for default in catalog.defaults:
        named(default.word)
        assert {fact.removeprefix("no ") for fact in default.where} <= set(FACTS)


@pytest.mark.parametrize(
    ("changes", "attacks"),
    [
        ({}, ["knockoff", "jb_top3", "papernot"]),
        ({"quick": True}, ["knockoff", "jb_top3"]),
        ({"torch": False}, ["equation_solving", "knockoff", "copycat"]),
        ({"pool": False}, ["equation_solving"]),
        ({"explains": True}, ["knockoff", "jb_top3", "papernot", "gradient_matching"]),
        (
            {"flat": True, "trees": True, "pool": False},
            ["equation_solving", "tree_ensembles", "retraining", "retraining(strategy=uniform)"],
        ),
    ],
)
def test_attacks_follow_from_the_kind_of_victim(changes: dict[str, bool], attacks: list[str]) -> None:
    assert list(ATTACKS.default_words(PICTURES | changes)) == attacks


WATCH = "watch(detector=prada_normality, then=block)"


@pytest.mark.parametrize(
    ("changes", "defenses"),
    [
        ({}, ["rounding(decimals=1)", "out_of_domain(score=msp)", WATCH]),
        ({"probs": False, "scores": False, "own": True}, [WATCH]),
        ({"probs": False, "own": True}, ["rounding(decimals=1)", "top_k(k=1)", WATCH]),
        (
            {"own": True, "train": False},
            ["rounding(decimals=1)", "top_k(k=1)", "reverse_sigmoid", "out_of_domain(score=msp)", WATCH],
        ),
        (
            {"own": True, "outside": True},
            [
                "rounding(decimals=1)", "top_k(k=1)", "prediction_poisoning(surrogate=random_surrogate)",
                "adaptive_misinformation(network=misinformation)", "out_of_domain(filter=domain_filter)",
                "outlier_exposure", WATCH,
            ],
        ),
    ],
)  # fmt: skip
def test_defenses_are_one_of_every_kind_that_applies(changes: dict[str, bool], defenses: list[str]) -> None:
    assert list(DEFENSES.default_words(PICTURES | changes)) == defenses


def test_an_audit_takes_its_facts_from_what_was_given(tmp_path: Path) -> None:
    here = spec(tmp_path)
    options = AuditOptions(spec=here)
    assert "prediction_poisoning(surrogate=random_surrogate)" in options.guards  # own rows are given
    assert "reverse_sigmoid" in AuditOptions(spec=replace(here, train=None)).guards
    assert AuditOptions(spec=here, answers="labels").guards == (WATCH,)
    assert "tree_ensembles" not in plan_of(options, here.load()).attacks


def test_a_tree_ensemble_is_attacked_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = spec(tmp_path)
    monkeypatch.setattr(run_audit, "are_trees", lambda model, source: True)
    assert "tree_ensembles" in plan_of(AuditOptions(spec=here), here.load()).attacks


def test_what_is_an_ensemble_of_trees(tmp_path: Path) -> None:
    x, y = [[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]
    forest = RandomForestClassifier(n_estimators=3)
    for estimator, trees in (
        (forest, True),
        (make_pipeline(StandardScaler(), forest), True),
        (LogisticRegression(), False),
        (VotingClassifier([("forest", forest)]), False),
    ):
        assert are_trees(SklearnModel(estimator.fit(x, y))) == trees
    for operator, trees in (("TreeEnsembleClassifier", True), ("Gemm", False)):
        file = tmp_path / f"{operator}.onnx"
        file.write_bytes(b"\x08\x09" + operator.encode() + b"\x00")
        assert are_trees(object(), str(file)) == trees  # type: ignore[arg-type]
