"""The protocol on membership, on a few digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import membership, membership_scene, membership_tables
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.core.errors import InputError

pytest.importorskip("torch")

LEARNER = {"network": "prada_1_layer", "epochs": 1, "batch": 64}


def plan() -> dict[str, Any]:
    group = {"models": 4, "victims": 2, "learner": LEARNER}
    scene = {
        "title": "Digits",
        "rows": {"data": "digits", "candidates": 400, "test": 100},
        "defenses": [["none", "plain"], ["temperature(t=5)", "plain"], ["none", "short"]],
        "interfaces": {"all probabilities": {"reveals": "probs"}, "labels": {"reveals": "labels"}},
        "training": {"plain": {**group, "innocents": 1}, "short": group},
    }
    return {
        **plan_in("membership.toml"),
        "scene": {"digits": scene},
        "scores": ["loss_threshold", "lira"],
        "labels": ["gap", "label_only"],
        "variants": ["lira(mode=offline)"],
        "against": ["loss_threshold"],
        "few": {"label_only": 60},
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("membership")
    return out, membership.play(plan(), Run(out=out, jobs=0))


def test_every_attack_control_and_defense_has_its_row(ran: tuple[Path, str]) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ran[1].splitlines() if line.startswith("| ")]
    asked = [row[:4] for row in rows if len(row) == 8]
    assert ["loss_threshold", "all probabilities", "2", "1.0"] in asked
    assert ["gap", "labels", "2", "1.0"] in asked
    assert ["lira(mode=offline)", "all probabilities", "2", "1.0"] in asked
    assert [row[:2] for row in rows if len(row) == 6 and row[0] in ("blind", "loss_threshold", "lira")] == [
        ["blind", "2"], ["loss_threshold", "1"], ["lira", "1"],
    ]  # fmt: skip
    accuracy = {row[0]: row[1] for row in rows if len(row) == 6 and row[0] in ("plain", "temperature(t=5)")}
    assert accuracy["temperature(t=5)"] == next(row[1] for row in rows if row[0] == "plain" and row[3] == "2")
    assert "lira needs top_k" in ran[1]


def test_a_finished_cell_is_not_run_again(ran: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "work"):
        monkeypatch.setattr(membership, name, lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert membership.play(plan(), Run(out=ran[0], jobs=0)) == ran[1]


def test_no_shadow_model_shares_a_pair_with_its_victim(ran: tuple[Path, str]) -> None:
    group = next(iter(membership_scene.groups_of(plan())))
    trained = membership_scene.Trained.of(group, ran[0], None)
    held = np.load(trained.place / "held.npy")
    for v in (0, 1):
        theirs = np.unpackbits(np.load(trained.place / f"shadows-{v}" / "held.npy"), axis=1, count=400).astype(bool)
        assert len(theirs) == 2
        assert (theirs.sum(axis=0) == 1).all(), "a candidate is not in half of the shadow models"
        assert not any(np.array_equal(row, trained.member(v)) for row in (*theirs, *~theirs))
        np.testing.assert_array_equal(trained.member(v), held[2 * v])


def test_candidates_are_all_different_and_none_judges(ran: tuple[Path, str]) -> None:
    scene = membership_scene.scene_of("digits", None, 400, 100)
    rows = {row.tobytes() for part in (scene.candidates, scene.test) for row in part.x}
    assert len(rows) == len({row.tobytes() for row in scene.candidates.x}) + len({r.tobytes() for r in scene.test.x})
    assert len({row.tobytes() for row in scene.candidates.x}) == 400


def test_models_that_are_gone_are_missed(tmp_path: Path) -> None:
    group = next(iter(membership_scene.groups_of(plan())))
    with pytest.raises(InputError, match="no longer the models"):
        membership_scene.Trained.of(group, tmp_path, None)


def test_a_rate_pools_victims_and_has_an_interval_where_nobody_is_named() -> None:
    def own(*values: float) -> list[dict[str, Any]]:
        return [{"measures": {"tpr": {"value": value, "n": 1000}}} for value in values]

    assert membership_tables.rate(own(0.0, 0.0), "tpr") == "0.00 [0.00, 0.18]"
    assert membership_tables.rate(own(0.01, 0.03), "tpr").startswith("2.00 [")
    assert membership_tables.rate(own(), "tpr") == ""
