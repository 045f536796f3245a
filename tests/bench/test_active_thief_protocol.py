"""The protocol active-thief, on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from portcullis_ml.bench.protocols import PROTOCOLS
from portcullis_ml.bench.protocols import active_thief as protocol
from portcullis_ml.bench.protocols.active_thief_tables import reach, sections
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.data.datasets import load_dataset

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
        "scenes_of": {"Copycat, fine-tuned": ["digits"]},
        "published_in": ["digits"],
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


def test_an_attack_stays_out_of_scenes_that_it_is_not_for(plan: dict[str, Any]) -> None:
    limited = {**plan, "scenes_of": {"SwiftThief": ["another"]}, "scene": {"digits": SCENE, "another": SCENE}}
    cells = [(cell.victim["name"], cell.attack_name) for cell in protocol.cells_of(limited)]
    assert ("digits", "SwiftThief") not in cells
    assert ("another", "SwiftThief") in cells
    assert ("digits", "Copycat, fine-tuned") in cells


def test_the_agreement_has_tables_of_its_own_where_a_scene_asks_for_it(ran: tuple[Path, str]) -> None:
    records = [json.loads(line) for line in (ran[0] / "records.jsonl").read_text().splitlines()]
    plan = {**PLAN, "scene": {"digits": {**SCENE, "by_agreement": True}}, "published_in": []}
    _, _, agreed, paid, *_ = tables("\n\n".join(sections(plan, records)))
    assert agreed[0] == ["attack", "20", "40", "60"]
    assert [row[0] for row in paid[2:]] == ["random order", "ActiveThief, uncertainty", "SwiftThief"]


def rows_in(pool: dict[str, Any], folder: Path | None = None) -> set[bytes]:
    scene = protocol.scene_of(json.dumps({**SCENE, **pool}), folder and str(folder), "cpu")
    assert len(scene.pool) == pool["pool_rows"]
    return {row.astype(np.float32).tobytes() for row in scene.pool}


def test_a_pool_of_the_same_table_holds_no_row_of_the_victim_or_the_test() -> None:
    data, others = load_dataset("digits"), rows_in({"pool": "the same table", "pool_rows": 947})
    own = {row.astype(np.float32).tobytes() for row in data.x} - others
    assert 300 <= len(own) <= 310  # rows of the victim and of the thief who fine-tunes
    assert not others & {row.astype(np.float32).tobytes() for row in data.x_test}


def test_a_pool_may_have_the_test_rows_of_its_set_too() -> None:
    data = load_dataset("digits")
    everything = {row.astype(np.float32).tobytes() for row in np.concatenate([data.x, data.x_test])}
    assert rows_in({"pool": "digits", "pool_test": True, "pool_rows": 1797}) == everything


def test_a_pool_may_be_a_folder_of_image_files(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.png")
    found = rows_in({"pool": "photos", "pool_rows": 5}, tmp_path)
    every = {np.full((8, 8), 40 * i / 255, np.float32).tobytes() for i in range(6)}
    assert len(found) == 5
    assert found <= every


@pytest.mark.parametrize(
    ("goal", "paid"),
    [(0.2, 10.0), (0.3, 10.0), (0.4, 15.0), (0.5, 20.0), (0.45, 17.5), (0.6, 28.0), (0.9, None)],
)
def test_the_price_of_an_accuracy_is_read_off_straight_lines(goal: float, paid: float | None) -> None:
    found = reach([(10, 0.3), (20, 0.5), (24, 0.4), (30, 0.7)], goal)
    assert found == pytest.approx(paid) if paid else found is None
