"""The seven studies of Knockoff: a tiny plan on digits, and the plans that are committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import PROTOCOLS, knockoff, knockoff_scene
from portcullis_ml.bench.protocols.knockoff_scene import asked_about, scene_of
from portcullis_ml.bench.protocols.plans import Run, plan_in
from portcullis_ml.core.errors import InputError

pytest.importorskip("torch")

STUDIES = ("architecture", "budget", "classes", "diversity", "granularity", "overlap", "pretraining")
SCENE = {"dataset": "digits", "victim_rows": 600, "own_rows": 300, "test_rows": 150}
WORD = "network(network=mlp, epochs={}, lr=0.003)"
PLAN: dict[str, Any] = {
    "protocol": "toy", "version": 1, "about": "About.", "repetitions": 2,
    "usual": {"copy": "usual", "pool": "own", "answers": "full", "budget": 200},
    "scene": {"digits": SCENE},
    "victim": {"a victim": {"scene": "digits", "learner": WORD.format(15), "trainings": 1}},
    "copy": {"usual": WORD.format(15), "hasty": WORD.format(1)},
    "answers": {
        "full": {}, "label": {"interface": {"reveals": "labels"}},
        "shuffled": {"defense": "out_of_domain(score=msp, threshold=0.000001, then=shuffled)"},
    },
    "pool": {
        "own": {"parts": [{"of": "own"}]},
        "noise": {"parts": [{"of": "noise.npz"}]},
        "mixed": {"parts": [{"of": "own", "share": 0.25}, {"of": "noise.npz", "rows": 200, "share": 0.75}]},
        "one group": {"parts": [{"of": "noise.npz", "groups": 1}]},
    },
    "table": [
        {
            "title": "What is shown", "across": "answers", "columns": ["full", "label", "shuffled"],
            "compare_columns": [["shuffled", "full"]], "by_class": ["a victim", "one that a quick look leaves out"],
            "published_classes": {"3": [90, 45, 0.5]},
            "published": [{"name": "theirs", "victim": "94.6", "full": "0.93x (88.2)"}],
            "row": [{"victim": "a victim"}],
        },
        {
            "title": "Pools", "across": "pool", "columns": ["own", "noise"],
            "compare_rows": [["hasty", "usual"]],
            "row": [
                {"name": "usual", "victim": "a victim"},
                {"name": "hasty", "victim": "a victim", "copy": "hasty", "columns": ["own"]},
            ],
        },
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    x, y = np.random.default_rng(0).integers(256, size=(240, 10, 10), dtype=np.uint8), np.arange(240) % 4
    np.savez(place / "noise.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    return place


@pytest.fixture(scope="module")
def ran(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("knockoff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTCULLIS_CACHE", str(out / "cache"))
        return out, knockoff.play(PLAN, Run(out=out, data=str(folder), jobs=0))


def rows_of(text: str) -> list[list[str]]:
    return [[part.strip() for part in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("| ")]


def ratio(cell: str) -> float:
    return float(cell.partition("x")[0])


def test_published_stands_above_measured_and_nothing_is_lost(ran: tuple[Path, str]) -> None:
    rows = rows_of(ran[1])
    assert ["*theirs*", "*94.6*", "*0.93x (88.2)*", "", ""] in rows
    (measured,) = (row for row in rows if row[0] == "a victim" and len(row) == 5)
    assert all("n=2" in cell for cell in measured[2:])
    full, _, shuffled = (ratio(cell) for cell in measured[2:])
    assert full > 0.7
    assert shuffled < 0.5
    assert "Not measured" not in ran[1]


def test_a_row_leaves_out_columns_that_it_does_not_name(ran: tuple[Path, str]) -> None:
    (hasty,) = (row for row in rows_of(ran[1]) if row[0] == "hasty")
    assert hasty[-1] == ""
    assert "n=2" in hasty[-2]


def test_differences_are_paired_by_repetition(ran: tuple[Path, str]) -> None:
    found = {row[0]: row for row in rows_of(ran[1]) if len(row) == 4 and row[0] != "difference"}
    assert float(found["shuffled less full: a victim"][1].split()[0]) < 0
    assert found["hasty less usual: own"][2] == "2"
    assert "hasty less usual: noise" not in found


def test_classes_have_rows_of_their_own(ran: tuple[Path, str]) -> None:
    (row,) = (row for row in rows_of(ran[1]) if row[:2] == ["3", "90 -> 45 (0.5x)"])
    victim, copy = map(float, row[2:4])
    assert ratio(row[4]) == pytest.approx(copy / victim, abs=0.02)
    (other,) = (row for row in rows_of(ran[1]) if row[0] == "4" and len(row) == 5)
    assert other[1] == ""


def test_another_study_runs_no_theft_again(
    ran: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knockoff, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert knockoff.play(PLAN, Run(out=ran[0], data=str(folder), jobs=0)) == ran[1]
    other = {**PLAN, "protocol": "another", "table": [{**PLAN["table"][1], "title": "Under another name"}]}
    assert "n=2" in knockoff.play(other, Run(out=ran[0], data=str(folder), jobs=0))


def test_victims_and_their_answers_are_kept(ran: tuple[Path, str]) -> None:
    victims = ran[0] / "cache" / "victims"
    assert len(list(victims.glob("victim-*"))) == 1
    assert list(victims.glob("answers-*/*.npy"))


def test_nobody_holds_rows_of_another(folder: Path) -> None:
    scene = scene_of(SCENE, str(folder))
    parts = [{row.tobytes() for row in part.x} for part in (scene.victim, scene.own, scene.test)]
    assert [len(part) for part in parts] == [600, 300, 150]
    assert not any(parts[i] & parts[j] for i, j in ((0, 1), (0, 2), (1, 2)))


def test_some_classes_only(folder: Path) -> None:
    scene = scene_of({**SCENE, "classes": 3, "victim_rows": 200, "own_rows": 0, "test_rows": 90}, str(folder))
    assert len(scene.classes) == scene.interface.n_classes == 3
    assert scene.victim.y is not None
    assert set(scene.victim.y) == {0, 1, 2}
    assert len(scene.own) == 0


def asked(pool: str, folder: Path, budget: int, seed: int) -> Any:
    return asked_about(PLAN["pool"][pool], {"scene": SCENE}, str(folder), budget, seed)


def test_a_mixed_pool_has_its_shares(folder: Path) -> None:
    own = {row.tobytes() for row in scene_of(SCENE, str(folder)).own.x}
    found = asked("mixed", folder, 80, 0)
    assert found.shape == (80, 8, 8)
    assert sum(row.tobytes() in own for row in found) == 20


def test_a_seed_asks_the_same_and_another_seed_does_not(folder: Path) -> None:
    first = asked("own", folder, 100, 0).copy()
    knockoff_scene._asked.cache_clear()
    np.testing.assert_array_equal(first, asked("own", folder, 100, 0))
    assert len({row.tobytes() for row in first}) == 100
    assert not np.array_equal(first, asked("own", folder, 100, 1))


def test_every_seed_draws_groups_of_its_own(folder: Path) -> None:
    drawn = [frozenset(row.tobytes() for row in asked("one group", folder, 60, seed)) for seed in range(4)]
    assert all(len(rows) == 60 for rows in drawn)
    assert len(set(drawn)) > 1


def test_a_pool_that_is_too_small_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"noise\.npz has 60 pictures; 61 were asked"):
        asked("one group", folder, 61, 0)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("study", STUDIES)
def test_the_committed_studies_describe_cells_that_can_be_built(study: str, quick: bool) -> None:
    plan = {**plan_in("knockoff.toml"), **plan_in(f"knockoff_{study}.toml")}
    cells = list(knockoff.cells_of(knockoff.shortened(plan) if quick else plan))
    assert plan["protocol"] == f"knockoff-{study}"
    assert PROTOCOLS[plan["protocol"]].endswith(f".knockoff:{study}")
    assert {cell.seed for cell in cells} == ({0} if quick else {0, 1, 2})
    assert all(cell.budget <= (200 if quick else 20_000) for cell in cells)
    for table in plan["table"]:
        known = {str(c) for c in table["columns"]}
        assert {c for pair in table.get("compare_columns", ()) for c in pair} <= known
        assert {key for row in table.get("published", ()) for key in row} <= known | {"name", "victim"}
        rows = {knockoff.name_of(row) for row in table["row"]}
        assert {r for pair in table.get("compare_rows", ()) for r in pair} | set(table.get("by_class", ())) <= rows


def test_studies_share_the_thefts_that_both_show() -> None:
    shown = []
    for study in STUDIES:
        plan = {**plan_in("knockoff.toml"), **plan_in(f"knockoff_{study}.toml")}
        shown.append({cell.id for cell in knockoff.cells_of(plan)})
    assert len(set.union(*shown)) < sum(map(len, shown))
    assert shown[2] & shown[4], "classes and granularity show the same thefts of CIFAR-10"
