"""The protocol active-thief, on a few digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from portcullis_ml.bench.protocols import PROTOCOLS
from portcullis_ml.bench.protocols import active_thief as protocol
from portcullis_ml.bench.protocols.active_thief_tables import reach
from portcullis_ml.bench.protocols.plans import Run, plan_in

pytest.importorskip("torch")

PLAN = plan_in("active_thief.toml")
LEARNER = "network(network=prada_1_layer, epochs=4)"
SCENE = {
    "title": "Digits", "data": "digits", "victim": LEARNER, "learner": LEARNER, "victim_rows": 300, "domain_rows": 10,
    "test_rows": [0, 100], "pool": "digits", "pool_rows": 400, "budget": 60, "whole": 90,
}  # fmt: skip


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    attacks = {
        "random order": "knockoff(batch=16)",
        "ActiveThief, uncertainty": "active_thief(strategy=uncertainty, rounds=2, first=0.3334)",
        "SwiftThief": "swift_thief(rounds=3, contrast=1, projector=8)",
    }
    others = {"Copycat, fine-tuned": "copycat(finetune=True)"}
    pairs = [["SwiftThief", "ActiveThief, uncertainty"], ["Copycat, fine-tuned", "random order"], ["nobody", "Copycat"]]
    changes = {
        "pairs": pairs,
        "attacks": attacks,
        "others": others,
        "points": 3,
        "repetitions": 2,
        "scene": {"digits": SCENE},
    }
    return {**PLAN, **changes}


@pytest.fixture(scope="module")
def ran(plan: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("active-thief")
    return out, protocol.play(plan, Run(out=out, jobs=0))


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells."""
    found = []
    for block in text.split("\n\n"):
        if block.startswith("| "):
            found.append([[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()])
    return found


def test_every_attack_has_its_curve_its_price_and_its_end(ran: tuple[Path, str]) -> None:
    curves, paid, pairs, ends, published = tables(ran[1])
    assert [row[0] for row in pairs[2:]] == [
        "SwiftThief - ActiveThief, uncertainty",
        "Copycat, fine-tuned - random order",
    ]
    assert [bool(cell) for cell in pairs[3][1:]] == [False, False, True]  # Copycat has a copy at the end alone
    assert curves[0] == ["attack", "20", "40", "60"]
    assert [row[0] for row in curves[2:]] == ["random order", "ActiveThief, uncertainty", "SwiftThief"]
    assert all(len(row[1].split(", ")) == 2 for row in paid[2:])
    assert paid[2][3:] == ["0.0 [0.0, 0.0]"] * 3  # random order against itself
    assert [row[:2] for row in ends[2:]] == [
        ["random order", "60"], ["ActiveThief, uncertainty", "60"], ["SwiftThief", "60"],
        ["Copycat, fine-tuned", "60"], ["random order", "90"],
    ]  # fmt: skip
    assert [row[:2] for row in published[2:]][:2] == [["random order", "92.6 (10,000)"]] * 2
    assert "Not measured" not in ran[1]


def test_attacks_are_compared_from_the_same_first_rows(ran: tuple[Path, str]) -> None:
    """ActiveThief's first copy and that of random order are trained on the same rows, not with the same draws."""
    curves, *_ = tables(ran[1])
    random, active = (float(row[1].split()[0]) for row in curves[2:4])
    assert abs(random - active) < 15


def test_nothing_runs_twice(ran: tuple[Path, str], plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert protocol.play(plan, Run(out=ran[0], jobs=0)) == ran[1]


def test_the_quick_look_changes_settings_that_are_there() -> None:
    quick = protocol.shortened(PLAN)
    scene = PLAN["scene"][PLAN["quick"]["scenes"][0]]
    assert PLAN["quick"]["rows"].keys() <= scene.keys()
    assert len(list(protocol.cells_of(quick))) == len(PLAN["attacks"]) + len(PLAN["others"])
    assert PROTOCOLS[PLAN["protocol"]].endswith("active_thief:active_thief")


@pytest.mark.parametrize(
    ("goal", "paid"),
    [(0.2, 10.0), (0.3, 10.0), (0.4, 15.0), (0.5, 20.0), (0.45, 17.5), (0.6, 28.0), (0.9, None)],
)
def test_the_price_of_an_accuracy_is_read_off_straight_lines(goal: float, paid: float | None) -> None:
    found = reach([(10, 0.3), (20, 0.5), (24, 0.4), (30, 0.7)], goal)
    assert found == pytest.approx(paid) if paid else found is None
