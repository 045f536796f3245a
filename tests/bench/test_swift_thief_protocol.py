"""The protocol swift-thief, on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import PROTOCOLS
from portcullis_ml.bench.protocols import swift_thief as protocol
from portcullis_ml.bench.protocols.active_thief import cells_of, shortened
from portcullis_ml.bench.protocols.plans import Run, plan_in

pytest.importorskip("torch")

PLAN = plan_in("swift_thief.toml")
LEARNER = "network(network=prada_1_layer, epochs=4)"
SCENE = {
    "title": "Digits", "data": "digits", "victim": LEARNER, "learner": LEARNER, "victim_rows": 300, "domain_rows": 0,
    "test_rows": [0, 200], "pool": "digits", "pool_rows": 400, "budget": 80, "whole": 0,
}  # fmt: skip
ATTACKS = {
    "random order": "knockoff(batch=16)",
    "SwiftThief": "swift_thief(rounds=4, contrast=1, projector=8)",
    "SwiftThief without rarity": "swift_thief(rounds=4, contrast=1, projector=8, rare=False)",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    out = tmp_path_factory.mktemp("swift-thief")
    plan = {**PLAN, "attacks": ATTACKS, "points": 2, "repetitions": 2, "scene": {"digits": SCENE}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("portcullis_ml.extraction.swift_thief.rare_now", lambda counts, left: left <= 40)
        text = protocol.play(plan, Run(out=out, jobs=0))
    return records_in(out), text


def records_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def test_the_page_says_who_asked_for_rare_classes(ran: tuple[list[dict[str, Any]], str]) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ran[1].splitlines() if line.startswith("| ")]
    asked = {row[0]: row for row in rows if len(row) == 6 and "to" in row[5]}
    assert asked["SwiftThief"][1] == "2 of 3, 2 of 3"
    assert asked["SwiftThief without rarity"][1] == "0 of 3, 0 of 3"
    assert asked["random order"][1] == ""
    assert "Not measured" not in ran[1]


def test_every_second_round_has_a_point_of_the_curve(ran: tuple[list[dict[str, Any]], str]) -> None:
    assert all([point["queries"] for point in r["curve"]] == [40, 80] for r in ran[0])


def test_rare_classes_are_the_same_for_all_and_their_answers_are_counted(
    ran: tuple[list[dict[str, Any]], str],
) -> None:
    records = ran[0]
    assert len({str(r["notes"]["rare"]) for r in records}) == 1
    rare, counts = records[0]["notes"]["rare"], records[0]["notes"]["pool_answers"]
    assert sum(counts) == 400
    assert max(counts[c] for c in rare) <= min(counts[c] for c in range(10) if c not in rare)
    assert all(sum(r["notes"]["answers"]) == r["queries"] == 80 for r in records)


def test_attacks_of_one_seed_start_from_the_same_questions(ran: tuple[list[dict[str, Any]], str]) -> None:
    """With and without rarity SwiftThief does the same until rarity has its first say."""
    first = {(r["attack"], r["cell"]["seed"]): r["curve"][0]["measures"]["accuracy"]["value"] for r in ran[0]}
    assert all(first["SwiftThief", seed] == first["SwiftThief without rarity", seed] for seed in (0, 1))


def test_means_over_classes_do_not_weigh_rows() -> None:
    true, said = np.array([0] * 8 + [1] * 2 + [2] * 2), np.array([0] * 8 + [1, 0] + [0, 0])
    found = protocol.by_class(true, true, said, rare=np.array([1, 2]))
    assert found["accuracy"].value == pytest.approx(9 / 12)
    assert found["macro"].value == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["rare"].value == pytest.approx(0.25)
    assert found["others"].value == 1.0
    assert found["1"].value == 0.5


def test_a_class_without_test_rows_is_left_out_of_the_means() -> None:
    true = np.array([0, 0, 2, 2])
    found = protocol.by_class(true, true, np.array([0, 0, 2, 0]), rare=np.array([1, 2]))
    assert "1" not in found
    assert found["rare"].value == 0.5


def test_the_rarest_third() -> None:
    assert protocol.rarest(np.array([5, 1, 9, 0, 7, 7])).tolist() == [1, 3]
    assert protocol.rarest(np.array([4, 3])).tolist() == [1]


def test_the_committed_plan_describes_cells_that_can_be_built() -> None:
    cells = list(cells_of(PLAN))
    assert len(cells) == PLAN["repetitions"] * len(PLAN["scene"]) * len(PLAN["attacks"])
    assert {name for pair in PLAN["pairs"] for name in pair} <= PLAN["attacks"].keys()
    assert len(list(cells_of(shortened(PLAN)))) == len(PLAN["attacks"])
    assert PROTOCOLS[PLAN["protocol"]].endswith("swift_thief:swift_thief")
