"""The protocols on defenses, on digits and pictures made up here."""

from __future__ import annotations

import shutil
import tomllib
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import PROTOCOLS, defended, defended_tables
from portcullis_ml.bench.protocols.defended_scene import Scene, pictures
from portcullis_ml.bench.protocols.plans import Run
from portcullis_ml.core.errors import InputError

pytest.importorskip("torch")

FILTER = "out_of_domain(filter=domain_filter(epochs=2), then=fixed)"
MAD = "prediction_poisoning(surrogate=random_surrogate, eps=0.9)"
PLAN: dict[str, Any] = {
    "protocol": "toy",
    "version": 1,
    "about": "About.",
    "repetitions": 2,
    "trainings": 2,
    "budget": 40,
    "seeds": 20,
    "victim": {"network": "mlp", "epochs": 15, "lr": 0.003},
    "learner": {"network": "mlp", "epochs": 5, "lr": 0.003},
    "scene": {
        "digits": {
            "title": "Digits", "dataset": "digits", "victim_rows": 500, "own_rows": 200, "test_rows": 150,
            "pool": "near", "pool_rows": 60, "outside": "far", "outside_rows": 40,
        }
    },
    "attackers": {
        "Knockoff": {"kind": "naive", "attack": "knockoff"},
        "labels": {"kind": "knowing", "attack": "knockoff", "uses": "labels"},
        "three times": {"kind": "knowing", "attack": "averaging"},
        "own rows": {"kind": "knowing", "attack": "knockoff", "holds": "own"},
    },
    "row": [
        {"defense": "none", "scenes": ["digits"], "attackers": ["Knockoff", "own rows"],
         "published": {"digits": {"Knockoff": 94.8}}},
        {"defense": FILTER, "name": "filter", "scenes": ["digits"], "facts": "domain", "attackers": ["Knockoff"]},
        {"defense": MAD, "name": "MAD", "scenes": ["digits"], "facts": "poisoning",
         "attackers": ["labels", "three times"]},
    ],
    "facts_about": {"domain": "The filter.", "poisoning": "The answers."},
    "facts": {
        "domain": {"accepted_test": "TPR", "rejected_pool": "TNR"},
        "poisoning": {"labels_kept": "labels kept", "angle": "angle"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for name, scale in (("near", 1.0), ("far", 0.3)):
        x = scale * rng.uniform(size=(140, 8, 8))
        np.savez(place / f"{name}.npz", x_train=x, y_train=np.arange(140) % 2, x_test=x[:4], y_test=[0, 1, 0, 1])
    return place


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("defended")
    return defended.play(PLAN, Run(out=out, data=str(folder), jobs=0)), out


def line(text: str, start: str, after: str = "") -> str:
    return next(row for row in text[text.index(after) :].splitlines() if row.startswith(start))


def test_it_prints_published_beside_measured(page: tuple[str, Path]) -> None:
    text, _ = page
    assert "`portcullis bench run toy`" in text
    assert "n=2 (published 94.8) |" in line(text, "| none")
    assert "Not measured" not in text


def test_both_regimes_stand_in_the_table_and_their_distance_in_the_last_line(page: tuple[str, Path]) -> None:
    text, _ = page
    assert line(text, "| filter [matched]").count("n=2") == 1
    assert "n=2" in line(text, "| filter [held out]", "Each defense in one line").split("|")[-2]
    assert line(text, "| MAD", "Each defense in one line").split("|")[-2].strip() == ""


def test_a_page_is_printed_from_records_alone(page: tuple[str, Path], folder: Path, tmp_path: Path) -> None:
    text, out = page
    shutil.copy(out / "records.jsonl", tmp_path)
    assert defended.play(PLAN, Run(out=tmp_path, data=str(folder), jobs=0)) == text
    assert not (tmp_path / "artifacts").exists()
    assert str(out) not in (out / "records.jsonl").read_text()


def test_no_row_is_in_two_hands(folder: Path, tmp_path: Path) -> None:
    scene = defended.scene_of(PLAN, "digits", str(folder), tmp_path, "cpu")
    experiment = scene.load()
    assert experiment.train is not None
    assert experiment.pool is not None
    hands = [experiment.train, scene.own()[0], experiment.test_x, experiment.pool]
    hands += [outside.x for outside in experiment.outside.values()]
    counts = Counter(row.tobytes() for rows in hands for row in rows)
    assert [len(rows) for rows in hands] == [500, 200, 150, 60, 40, 40]
    assert max(counts.values()) == 1
    near = {row.tobytes() for row in pictures("near", str(folder), (8, 8), 100)}
    assert {row.tobytes() for row in experiment.outside["matched"].x} <= near
    assert {row.tobytes() for row in experiment.pool} <= near


def test_frames_of_one_object_stay_in_one_hand(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(size=(200, 8, 8)), np.arange(200) // 10 % 2
    np.savez(
        tmp_path / "tracks.npz", x_train=x, y_train=y, x_test=x[:50], y_test=y[:50], track_train=np.arange(200) // 10
    )
    for name in ("near", "far"):
        shutil.copy(folder / f"{name}.npz", tmp_path)
    changes = {"dataset": "tracks", "victim_rows": 95, "own_rows": 60, "test_rows": 10}
    plan = {**PLAN, "scene": {"digits": PLAN["scene"]["digits"] | changes}}
    scene = defended.scene_of(plan, "digits", str(tmp_path), tmp_path, "cpu")
    train = scene.load().train
    assert train is not None
    track = {row.tobytes(): i // 10 for i, row in enumerate(x)}
    assert not {track[row.tobytes()] for row in train} & {track[row.tobytes()] for row in scene.own()[0]}


def test_too_few_pictures_are_one_sentence(folder: Path) -> None:
    with pytest.raises(InputError, match="near has 140 pictures; 900 were asked"):
        pictures("near", str(folder), (8, 8), 900)
    with pytest.raises(InputError, match=r"Pictures of \(4, 4\) were expected; near holds \(8, 8\)"):
        pictures("near", str(folder), (4, 4), 10)


@pytest.mark.parametrize("name", ["mad", "misinformation", "diverse_ensemble", "ood_filter"])
@pytest.mark.parametrize("quick", [False, True])
def test_the_frozen_protocols_describe_cells_that_can_be_built(name: str, quick: bool) -> None:
    plan = tomllib.loads((resources.files(defended.__package__) / f"{name}.toml").read_text())
    for row in plan["row"]:
        for scene, figures in row.get("published", {}).items():
            assert scene in row["scenes"]
            assert set(figures) <= set(row["attackers"]) <= set(plan["attackers"])
    plan = defended.shortened(plan) if quick else plan
    cells = list(defended.cells_of(plan))
    assert len({cell.id for cell in cells}) == len(cells)
    assert plan["protocol"] in PROTOCOLS
    assert quick or plan["repetitions"] >= 3
    assert {cell.seed for cell in cells} == set(range(plan["repetitions"]))
    assert {how["kind"] for how in plan["attackers"].values()} == {"naive", "knowing"}


def test_who_asks_three_times_is_told_nothing_and_who_holds_own_rows_has_no_pool(folder: Path, tmp_path: Path) -> None:
    scene = defended.scene_of(PLAN, "digits", str(folder), tmp_path, "cpu")
    cells = {cell.names["attack"]: cell for cell in defended.cells_of(PLAN) if cell.seed == 0}
    from portcullis_ml.core.attack import Knowledge

    held = Knowledge(pool=scene.load().pool, defense=None)
    assert defended.holding(held, scene, cells["three times"]).defense == []
    assert defended.holding(held, scene, cells["labels"]).defense is None
    own = defended.holding(held, scene, cells["own rows"])
    assert own.pool is scene.own()[0]
    assert own.seeds is not None
    assert len(own.seeds) == 20


def test_what_is_trained_is_trained_once_for_every_repetition_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def prepare(cells, scene, **how):
        asked.append(cells[0].seed)
        return type("Prepared", (), {"cells": cells})

    monkeypatch.setattr(defended, "prepare_cells", prepare)
    for trainings, seeds in ((1, [0]), (2, [0, 1])):
        asked.clear()
        plan = {**PLAN, "trainings": trainings, "row": [PLAN["row"][2]]}
        defended.trained(list(defended.cells_of(plan)), {"digits": Scene(plan="")}, Path("nowhere"))
        assert asked == seeds


def test_a_defense_that_hangs_on_its_outside_rows_is_flagged() -> None:
    def record(regime: str, value: float, seed: int) -> dict[str, Any]:
        return {
            "attack": "Knockoff", "defense": f"filter [{regime}]", "outcome": "done",
            "cell": {"seed": seed, "names": {"scene": "digits"}}, "measures": {"accuracy": {"value": value}},
        }  # fmt: skip

    def shown(held_out: float) -> str:
        records = [record("matched", 0.3 + s / 100, s) for s in range(2)]
        records += [record("held out", held_out + s / 100, s) for s in range(2)]
        return defended_tables._gap(PLAN, records, "filter [held out]")

    assert shown(0.5).startswith("20.0 [20.0, 20.0] (Knockoff, n=2), **flag")
    assert "flag" not in shown(0.35)


def test_a_cell_that_failed_is_said_with_its_reason() -> None:
    bad = {
        "attack": "Knockoff", "defense": "MAD", "outcome": "failed", "reason": "It broke.",
        "cell": {"names": {"scene": "digits"}},
    }  # fmt: skip
    assert "- failed: It broke. (Knockoff behind MAD)" in defended_tables.document(PLAN, [bad, bad], quick=True)


def test_every_training_of_a_recipe_counts_and_an_untrained_guard_is_met_once() -> None:
    honest = Counter(c.defense_name for c in defended.cells_of(PLAN) if c.role == "honest")
    assert honest == {"none": 1, "filter [matched]": 2, "filter [held out]": 2, "MAD": 2}
