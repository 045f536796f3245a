"""The protocol on membership after a theft, on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import chain_membership, membership_scene
from portcullis_ml.bench.protocols.plans import Run, plan_in

pytest.importorskip("torch")

LEARNER = {"network": "prada_1_layer", "epochs": 1, "batch": 64}


def plan() -> dict[str, Any]:
    group = {"models": 4, "victims": 2, "learner": LEARNER}
    scene = {
        "title": "Digits",
        "rows": {"data": "digits", "candidates": 400, "test": 100},
        "learner": LEARNER,
        "thefts": [
            ["none", "plain", "other rows"], ["none", "plain", "the candidates"],
            ["label_only", "plain", "other rows"],
            ["prediction_poisoning(surrogate=random_surrogate)", "plain", "other rows"],
            ["none", "short", "other rows"],
        ],
        "training": {"plain": {**group, "innocents": 1}, "short": group},
    }  # fmt: skip
    whole = {**plan_in("chain_membership.toml"), "scene": {"digits": scene}}
    return {**whole, "words": ["loss_threshold", "lira"], "labels": ["gap"]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("chain-membership")
    return out, chain_membership.play(plan(), Run(out=out, jobs=0))


def rows_of(text: str, length: int) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if len(row) == length]


def test_every_defense_is_attacked_on_the_api_and_on_the_copy(ran: tuple[Path, str]) -> None:
    asked = [row[:4] for row in rows_of(ran[1], 8)]
    for defense in ("none", "prediction_poisoning(surrogate=random_surrogate)", "short"):
        assert [defense, "API", "lira", "2"] in asked
        assert [defense, "copy, from other rows", "lira", "2"] in asked
        bare = [defense, "copy, shadows not copied, from other rows", "lira", "2"] in asked
        assert bare == (defense in ("none", "short"))
    assert ["none", "copy, from the candidates", "loss_threshold", "2"] in asked
    assert ["label_only", "API", "gap", "2"] in asked
    assert ["label_only", "copy, from other rows", "lira", "2"] in asked, "a copy shows scores where the API does not"
    assert ["label_only", "API", "lira", "2"] not in asked
    assert [row[:3] for row in rows_of(ran[1], 7) if row[1] in ("blind", "lira")] == [
        ["", "blind", "2"], ["none", "lira", "1"],
    ]  # fmt: skip


def test_both_bills_are_the_same(ran: tuple[Path, str]) -> None:
    records = [json.loads(line) for line in (ran[0] / "records.jsonl").read_text().splitlines()]
    bills = {(r["attack"], r["cell"]["names"].get("route", "")): r["queries"] for r in records}
    assert bills["knockoff", ""] == bills["lira", "API"] == bills["loss_threshold", "API"] == 400


def test_a_finished_cell_is_not_run_again(ran: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "steal", "work"):
        monkeypatch.setattr(chain_membership, name, lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert chain_membership.play(plan(), Run(out=ran[0], jobs=0)) == ran[1]


def test_copies_stand_where_their_models_stood(ran: tuple[Path, str]) -> None:
    """Shadow models of a copy are copies of the other pairs, and each holds the rows that its model was trained on."""
    group = next(iter(membership_scene.groups_of(plan())))
    theft = next(iter(chain_membership.thefts_of(plan(), group, ran[0], None)))
    trained, stolen = (membership_scene.Trained.of(cell, ran[0], None) for cell in (group, theft))
    np.testing.assert_array_equal(trained.held(), stolen.held())
    x = trained.scene.test.x[:20]
    np.testing.assert_array_equal(trained.model(2).scores(x), trained.victim(1).scores(x))
    assert not np.allclose(stolen.model(2).scores(x), trained.model(2).scores(x))
